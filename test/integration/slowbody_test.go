package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSlowBodies proves that a function ends a request whose small body stops arriving long before REQUEST_TIMEOUT, so
// that slow clients cannot use up the function's concurrent requests. This applies to direct requests and to requests
// through the gateway.
func TestSlowBodies(t *testing.T) {
	urls, user := startWithoutStores(t, "REQUEST_TIMEOUT=1h")
	const asJSON, asForm = "Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded"
	var all sync.WaitGroup
	for _, c := range []struct {
		function, target, contentType string
		want                          int
	}{
		{"login", "/login", asJSON, 408},
		{"login", "/refresh", asForm, 408},
		{"login", "/logout", asJSON, 408},
		{"validate", "/introspect", asForm, 408},
		{"files", "/files/0195a3f0-0000-7000-8000-000000000001/link", asJSON, 408},
		{"record", "/", "Content-Type: application/cloudevents+json", 503},
		{"gateway", "/session", asJSON, 408},
		{"gateway", "/login", asJSON, 408},
		{"gateway", "/refresh", asForm, 408},
		{"gateway", "/logout", asJSON, 408},
		{"gateway", "/introspect", asForm, 408},
		{"gateway", "/files/0195a3f0-0000-7000-8000-000000000001/link", asJSON, 408},
	} {
		all.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(urls[c.function], "http://"))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Error(err)
				return
			}
			if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s\r\nContent-Length: 100\r\n\r\n{", c.target, user, c.contentType); err != nil {
				t.Error(err)
				return
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("POST %s to %s: %v", c.target, c.function, err)
				return
			}
			defer response.Body.Close()
			if response.StatusCode != c.want || !response.Close {
				t.Errorf("POST %s to %s: got %s, connection closed %t, want %d and a closed connection",
					c.target, c.function, response.Status, response.Close, c.want)
			}
		})
	}
	all.Wait()
}
