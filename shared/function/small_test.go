package function

import (
	"io"
	"net/http/httptest"
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
