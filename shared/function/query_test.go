package function

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// passer is a queryPasser that passes the query strings of requests below /pass/.
type passer struct{ http.Handler }

func (passer) PassesQuery(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/pass/") }

func TestWrapRefusesQueriesThatCannotBeParsed(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	plain, passing, closable := Wrap(ok, time.Minute), Wrap(passer{ok}, time.Minute), Wrap(Closing(passer{ok}), time.Minute)
	for query, bad := range map[string]bool{
		"": false, "x": false, "x=": false, "x=1&x=2": false, "x=a+b%3B%25": false, "x=%ff%00": false, "&&": false, "=": false,
		"%": true, "x=%": true, "x=%4": true, "x=%zz": true, "x=1&%zz=2": true, "%zz": true, "x=1&y=%": true,
		";": true, "x=1;y=2": true, "x=1;": true, "x=1&y=2;z": true, "x=%3B;": true,
	} {
		for _, c := range []struct {
			handler http.Handler
			path    string
			passes  bool
		}{{plain, "/", false}, {plain, "/pass/", false}, {passing, "/", false}, {passing, "/pass", false}, {passing, "/pass/x", true}, {closable, "/pass", false}, {closable, "/pass/x", true}} {
			w := httptest.NewRecorder()
			request := httptest.NewRequest("GET", c.path, nil)
			request.URL.RawQuery = query
			c.handler.ServeHTTP(w, request)
			want := http.StatusNoContent
			if bad && !c.passes {
				want = http.StatusBadRequest
			}
			if w.Code != want {
				t.Errorf("%s?%s: got %d %s, want %d", c.path, query, w.Code, w.Body, want)
			}
			if want == http.StatusBadRequest && (w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(w.Body.String(), `%25`)) {
				t.Errorf("%s?%s: got %s, want a problem document that explains percent-encoding", c.path, query, w.Body)
			}
		}
	}
}

// A function behind queue-proxy must read a small body before it refuses the request. Otherwise, the next request on
// the connection gets a 502.
func TestRefusedQueryKeepsTheConnection(t *testing.T) {
	server := httptest.NewServer(Wrap(http.NotFoundHandler(), time.Minute))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	responses := bufio.NewReader(conn)
	for range 2 {
		if _, err := io.WriteString(conn, "POST /?x=% HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, responses, false)
	}
}
