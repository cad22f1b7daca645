package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
)

// rawClient is a connection to a function that runs as in production. Tests write the bytes of HTTP/1.1 requests to it.
type rawClient struct {
	*net.TCPConn
	answers *bufio.Reader
}

// dialRaw serves f until the test ends, and returns a connection to it.
func dialRaw(t *testing.T, f *fixture) rawClient {
	t.Helper()
	return dialLimited(t, f, time.Minute)
}

// dialLimited is dialRaw with the given request timeout.
func dialLimited(t *testing.T, f *fixture, timeout time.Duration) rawClient {
	t.Helper()
	server := httptest.NewServer(f.served(t, timeout))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return rawClient{conn.(*net.TCPConn), bufio.NewReader(conn)}
}

// post sends the request line and the headers of a POST with the given access token.
func (c rawClient) post(t *testing.T, bearer string, headers ...string) {
	t.Helper()
	c.begin(t, "POST /upload", bearer, headers...)
}

// begin sends the request line and the headers of a request. If bearer is not empty, it is the access token.
func (c rawClient) begin(t *testing.T, request, bearer string, headers ...string) {
	t.Helper()
	if bearer != "" {
		headers = append(headers, "Authorization: Bearer "+bearer)
	}
	if _, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", request, strings.Join(headers, "\r\n")); err != nil {
		t.Fatal(err)
	}
}

// answer reads the next response with its body. The response can be a 100 Continue.
func (c rawClient) answer(t *testing.T) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		t.Fatalf("read the response: %v", err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusContinue {
		return res, "" // the next bytes belong to the next response
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read the body of the response: %v", err)
	}
	return res, string(body)
}

// TestExpectContinue checks that the server sends 100 Continue only for a body that it will read.
func TestExpectContinue(t *testing.T) {
	keyed := func(f *fixture) {
		f.send("POST", "/upload", strings.NewReader("hello"), map[string]string{"Idempotency-Key": "k"})
	}
	for name, c := range map[string]struct {
		prepare func(f *fixture)
		bearer  func(f *fixture) string
		headers []string
		status  int
	}{
		"no token":         {nil, func(*fixture) string { return "" }, []string{"Content-Length: 5"}, 401},
		"invalid token":    {nil, func(*fixture) string { return "x" }, []string{"Content-Length: 5"}, 401},
		"no scope":         {nil, func(f *fixture) string { return f.reader }, []string{"Content-Length: 5"}, 403},
		"too large":        {nil, nil, []string{fmt.Sprintf("Content-Length: %d", maxSize+1)}, 413},
		"encoded body":     {nil, nil, []string{"Content-Length: 5", "Content-Encoding: gzip"}, 415},
		"malformed digest": {nil, nil, []string{"Content-Length: 5", "Content-Digest: md5"}, 400},
		"store unavailable": {func(f *fixture) { f.files.Before = contenttest.Fail(errAway, "Claimed") }, nil,
			[]string{"Transfer-Encoding: chunked", "Idempotency-Key: k"}, 503},
		"over the quota":                    {func(f *fixture) { f.limit(t, 4) }, nil, []string{"Content-Length: 5"}, 507},
		"key of another file":               {keyed, nil, []string{"Content-Length: 6", "Idempotency-Key: k"}, 422},
		"key of the same file":              {keyed, nil, []string{"Content-Length: 5", "Idempotency-Key: k", "Content-Digest: " + digestOf("hello")}, 202},
		"key of a file with another digest": {keyed, nil, []string{"Content-Length: 5", "Idempotency-Key: k", "Repr-Digest: " + digestOf("hullo")}, 422},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if c.prepare != nil {
				c.prepare(f)
			}
			bearer := f.bearer
			if c.bearer != nil {
				bearer = c.bearer(f)
			}
			before := f.files.BytesRead()
			client := dialRaw(t, f)
			client.post(t, bearer, append(c.headers, "Expect: 100-continue")...)
			res, body := client.answer(t)
			if res.StatusCode != c.status || !res.Close || !strings.HasPrefix(body, "{") {
				t.Errorf("got %s (close %t) %s first, want %d and the connection closed", res.Status, res.Close, body, c.status)
			}
			if f.files.BytesRead() != before {
				t.Errorf("got %d bytes read, want none", f.files.BytesRead()-before)
			}
			// After the client closes its side, the server must send nothing more.
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(client.answers); err != nil || len(rest) != 0 {
				t.Errorf("got %q and error %v after the response, want nothing", rest, err)
			}
		})
	}
	for name, c := range map[string]struct {
		prepare func(f *fixture)
		headers []string
		body    string
		status  int
	}{
		"accepted": {func(*fixture) {}, nil, "hello", 202},
		// Without a digest, the bytes must be compared.
		"key of the same file, no digest":    {keyed, []string{"Idempotency-Key: k"}, "hello", 202},
		"key of another file, no digest":     {keyed, []string{"Idempotency-Key: k"}, "hullo", 422},
		"key of the same file, wrong digest": {keyed, []string{"Idempotency-Key: k", "Repr-Digest: sha-512=:" + strings.Repeat("A", 86) + "==:"}, "hello", 400},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.prepare(f)
			client := dialRaw(t, f)
			client.post(t, f.bearer, append(c.headers, "Content-Length: 5", "Expect: 100-continue")...)
			if res, _ := client.answer(t); res.StatusCode != http.StatusContinue {
				t.Fatalf("got %s, want 100 first", res.Status)
			}
			if _, err := io.WriteString(client, c.body); err != nil {
				t.Fatal(err)
			}
			if res, body := client.answer(t); res.StatusCode != c.status || res.Close {
				t.Errorf("got %s (close %t) %s, want %d and the connection kept", res.Status, res.Close, body, c.status)
			}
		})
	}
}

// TestRefusalIsNotLost checks that a client receives the response to a refused request even if the client sends the
// whole body before it reads the response.
func TestRefusalIsNotLost(t *testing.T) {
	const sent = 64 << 20 // more than all buffers between client and server can hold
	for name, c := range map[string]struct {
		authorized bool
		chunked    bool
		status     int
	}{
		"no token":                  {false, false, 401},
		"no token, chunked":         {false, true, 401},
		"too large, known length":   {true, false, 413},
		"too large, unknown length": {true, true, 413},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			client := dialRaw(t, f)
			var bearer string
			if c.authorized {
				bearer = f.bearer
			}
			var body io.Writer = client
			if c.chunked {
				client.post(t, bearer, "Transfer-Encoding: chunked")
				body = httpChunks{client}
			} else {
				client.post(t, bearer, fmt.Sprintf("Content-Length: %d", sent))
			}
			block := bytes.Repeat([]byte("x"), 1<<20)
			for range sent / len(block) {
				if _, err := body.Write(block); err != nil {
					t.Fatalf("send: %v", err)
				}
			}
			if c.chunked {
				if _, err := io.WriteString(client, "0\r\n\r\n"); err != nil {
					t.Fatalf("send: %v", err)
				}
			}
			res, text := client.answer(t)
			if res.StatusCode != c.status || !res.Close || !strings.HasPrefix(text, "{") {
				t.Errorf("got %s (close %t) %s, want %d with a problem", res.Status, res.Close, text, c.status)
			}
			if len(f.files.Files()) != 0 {
				t.Errorf("got %d files, want none", len(f.files.Files()))
			}
		})
	}
}

// httpChunks is a writer that sends each block as a chunk of the chunked transfer coding.
type httpChunks struct{ w io.Writer }

func (c httpChunks) Write(p []byte) (int, error) {
	_, err := fmt.Fprintf(c.w, "%x\r\n%s\r\n", len(p), p)
	return len(p), err
}
