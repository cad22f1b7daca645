package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// patch sends the request line and the headers of a PATCH for length bytes at offset. The caller sends the body.
func (c rawClient) patch(t *testing.T, location, bearer string, offset, length int, headers ...string) {
	t.Helper()
	c.begin(t, "PATCH "+location, bearer, append(headers, "Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream",
		fmt.Sprintf("Upload-Offset: %d", offset), fmt.Sprintf("Content-Length: %d", length))...)
}

func TestTusExpectContinue(t *testing.T) {
	for name, c := range map[string]struct {
		bearer         func(f *fixture) string
		offset, length int
		status         int
	}{
		"no token":              {func(*fixture) string { return "" }, 0, 5, 401},
		"token of another user": {func(f *fixture) string { return f.stranger }, 0, 5, 404},
		"another offset":        {func(f *fixture) string { return f.bearer }, 1, 4, 409},
		"too many bytes":        {func(f *fixture) string { return f.bearer }, 0, 6, 413},
		"valid":                 {func(f *fixture) string { return f.bearer }, 0, 5, 204},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			location := f.createTus(t, 5)
			client := dialRaw(t, f)
			client.patch(t, location, c.bearer(f), c.offset, c.length, "Expect: 100-continue")
			if c.status == 204 {
				if res, _ := client.answer(t); res.StatusCode != 100 {
					t.Fatalf("got %s, want 100", res.Status)
				}
				if _, err := io.WriteString(client, "hello"); err != nil {
					t.Fatal(err)
				}
			}
			if res, body := client.answer(t); res.StatusCode != c.status {
				t.Errorf("got %s %s, want %d", res.Status, body, c.status)
			}
			if want := map[bool]int{true: 5}[c.status == 204]; f.files.BytesRead() != want {
				t.Errorf("read %d bytes, want %d", f.files.BytesRead(), want)
			}
		})
	}
}

// TestTusKeepsWhatCame checks that the bytes of an interrupted request are kept, and that the client can continue
// after them.
func TestTusKeepsWhatCame(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 11)
	client := dialRaw(t, f)
	client.patch(t, location, f.bearer, 0, 11)
	if _, err := io.WriteString(client, "hello "); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if answer := f.tus("HEAD", location, nil); answer.Header().Get("Upload-Offset") == "6" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("got offset %s, want 6", answer.Header().Get("Upload-Offset"))
		}
	}
	wantTus(t, f.tus("PATCH", location, strings.NewReader("world"), piece(6)), 204, map[string]string{"Upload-Offset": "11"})
	if got := string(f.only(t).Bytes); got != "hello world" {
		t.Errorf("got file content %q, want hello world", got)
	}
}

// TestTusSlowClient checks a client that stops sending. The server must end the request with a 503 and a Retry-After
// header, and it must keep the bytes that arrived.
func TestTusSlowClient(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 11)
	client := dialLimited(t, f, 500*time.Millisecond)
	client.patch(t, location, f.bearer, 0, 11)
	if _, err := io.WriteString(client, "hello "); err != nil {
		t.Fatal(err)
	}
	if res, body := client.answer(t); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("got %s %s, want 503 with Retry-After", res.Status, body)
	}
	wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "6"})
}

// TestTusKeepsTheConnection checks that a client can send several pieces over one connection.
func TestTusKeepsTheConnection(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 10)
	client := dialRaw(t, f)
	for offset := 0; offset < 10; offset += 5 {
		client.patch(t, location, f.bearer, offset, 5)
		if _, err := io.WriteString(client, "hello"); err != nil {
			t.Fatal(err)
		}
		if res, body := client.answer(t); res.StatusCode != 204 || res.Close {
			t.Errorf("got %s %s (close %t), want 204 on a connection that stays open", res.Status, body, res.Close)
		}
	}
	if got := string(f.only(t).Bytes); got != "hellohello" {
		t.Errorf("got file content %q, want hellohello", got)
	}
}
