package function

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What is small has ended before the answer, although the handler has not read it, and the connection goes on; what is not,
// or waits for the function's word, has not.
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

// An answer may take longer than what is waited for a body, of which the handler, such as a proxy, has read and closed its own.
func TestEndSmallBodiesLeavesTheAnswerItsTime(t *testing.T) {
	server := httptest.NewServer(Wrap(EndSmallBodies(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			t.Errorf("the request ended before its answer: %v", r.Context().Err())
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
		t.Error(err)
	}
}
