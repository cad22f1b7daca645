package function

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// EndSmallBodies reads a small body before the response, so that the connection stays open although the handler does
// not read the body. It does not read a longer body, or the body of a request with an Expect header.
func TestEndSmallBodies(t *testing.T) {
	server := httptest.NewServer(Wrap(EndSmallBodies(refusal), time.Minute))
	defer server.Close()
	conn, answers := begin(t, server, "Content-Length: 5")
	for _, rest := range []string{"hello", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"} {
		if _, err := io.WriteString(conn, rest); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, answers, false)
	}
	for _, headers := range []string{"Content-Length: 65537", "Content-Length: 5\r\nExpect: 100-continue", "Transfer-Encoding: chunked", "Content-Length: 6"} {
		_, answers = begin(t, server, headers)
		wantRefusal(t, answers, true)
	}
}

// The handler can take longer than smallTime to write the response, even if it has read and closed the body, as a
// proxy does.
func TestEndSmallBodiesLeavesTheAnswerItsTime(t *testing.T) {
	server := httptest.NewServer(Wrap(EndSmallBodies(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			t.Errorf("the context of the request ended before the response: %v", r.Context().Err())
		case <-time.After(smallTime + smallTime/2):
		}
	})), time.Minute))
	defer server.Close()
	res, err := http.Post(server.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Errorf("read the response: %v", err)
	}
}

// A handler can write the response without calling WriteHeader first.
func TestEndSmallBodiesBeforeAnImplicitStatus(t *testing.T) {
	server := httptest.NewServer(Wrap(EndSmallBodies(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half a ")
		_, _ = io.WriteString(w, "response")
	})), time.Minute))
	defer server.Close()
	res, err := http.Post(server.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || string(body) != "half a response" || res.Close {
		t.Errorf("got %s, %q, close %t and error %v, want 200, the whole response and an open connection", res.Status, body, res.Close, err)
	}
}
