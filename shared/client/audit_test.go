//go:build audit

package client

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestAuditUnsignedAddress checks security S5: with the gateway's key set, a request without the gateway's signature cannot choose its client address.
func TestAuditUnsignedAddress(t *testing.T) {
	trust := Trust{Hops: 3, Key: []byte("the key of the gateway, 32 bytes")} // as in the manifests
	for name, c := range map[string]struct{ peer, forwarded string }{
		"from another pod": {"10.244.1.77:1234", "192.0.2.1, x, x"},
		// Envoy leaves X-Forwarded-For unchanged in Kourier's default configuration. Knative's activator and queue-proxy add
		// one entry each.
		"through Kourier's default configuration": {"127.0.0.1:1234", "192.0.2.1, 10.244.0.5, 10.244.0.9"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/login", nil)
		r.RemoteAddr = c.peer
		r.Header.Set("X-Forwarded-For", c.forwarded)
		if got := trust.address(r).String(); got == "192.0.2.1" {
			t.Errorf("%s: got client address %s, which the client wrote", name, got)
		}
	}
}
