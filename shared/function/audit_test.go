//go:build audit

package function

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
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
		if got := trust.ClientAddress(r).String(); got == "192.0.2.1" {
			t.Errorf("%s: got client address %s, which the client wrote", name, got)
		}
	}
}

// TestAuditRequestLineHasAddress checks security S8: the log line of a request has the client's address.
func TestAuditRequestLineHasAddress(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	r := httptest.NewRequest(http.MethodPost, "/files/0195a3f0-0000-7000-8000-000000000001/link", nil)
	r.RemoteAddr = "203.0.113.9:1234"
	Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusCreated) }), time.Minute).
		ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(log.String(), "203.0.113.9") {
		t.Errorf("got log %s, want 203.0.113.9 in it", &log)
	}
}
