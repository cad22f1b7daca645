package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/request"
)

// TestClientAddress checks that a function sees the runner's peer as the client. The client's own headers and the
// number of proxies in the manifest must not change this.
func TestClientAddress(t *testing.T) {
	f, err := newFunction(service{}, os.Args[0], []string{"PLAY=function", "TRUSTED_HOPS=3"}, 0, &output{w: &screen{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	for name, c := range map[string]struct {
		handler   http.Handler
		peer      string
		forwarded []string
		want      string
	}{
		"this machine":                      {f, "127.0.0.1:1", nil, "127.0.0.1"},
		"another address":                   {f, "192.0.2.7:1", nil, "192.0.2.7"},
		"IPv6":                              {f, "[2001:db8::7]:1", nil, "2001:db8::7"},
		"IPv6 with a zone":                  {f, "[fe80::7%eth0]:1", nil, "fe80::7%eth0"},
		"one address from the client":       {f, "192.0.2.7:1", []string{"203.0.113.9"}, "192.0.2.7"},
		"as many addresses as in a cluster": {f, "192.0.2.7:1", []string{"203.0.113.9, 10.0.0.1, 10.0.0.2"}, "192.0.2.7"},
		"several header lines":              {f, "192.0.2.7:1", []string{"203.0.113.9", "10.0.0.1, 10.0.0.2", "10.0.0.3"}, "192.0.2.7"},
		"empty header":                      {f, "192.0.2.7:1", []string{""}, "192.0.2.7"},
		"another function":                  {inside{f}, "127.0.0.1:1", []string{"203.0.113.9, 127.0.0.1"}, "127.0.0.1"},
		"another function, forged header":   {inside{f}, "127.0.0.1:1", []string{"203.0.113.9, 10.0.0.1, 10.0.0.2, 10.0.0.3"}, "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			outer := httptest.NewRequest(http.MethodPost, "/", nil)
			outer.RemoteAddr = c.peer
			outer.Header["X-Forwarded-For"] = c.forwarded
			recorder := httptest.NewRecorder()
			c.handler.ServeHTTP(recorder, outer)
			var got seen
			decode(t, recorder.Body.Bytes(), &got)
			var trust client.Trust
			for _, variable := range got.Environment {
				if value, ok := strings.CutPrefix(variable, "TRUSTED_HOPS="); ok {
					if trust.Hops, err = strconv.Atoi(value); err != nil {
						t.Fatal(err)
					}
				}
			}
			inner := httptest.NewRequest(http.MethodPost, "/", nil)
			inner.Header, inner.RemoteAddr = got.Header, "127.0.0.1:2"
			trust.Identify(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if got := request.OriginOf(r.Context()).Address.String(); got != c.want {
					t.Errorf("the function sees the client address %s, want %s", got, c.want)
				}
			})).ServeHTTP(httptest.NewRecorder(), inner)
		})
	}
}
