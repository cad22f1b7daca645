package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestBodiesStreamBothWays(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	send, receive := lockstep(t, front(t, f)+"/echo")
	for _, line := range []string{"one", "two", "three"} {
		send(line) // the next line is sent only after this line has been received
		if got := receive(); got != line {
			t.Fatalf("got %q, want %q", got, line)
		}
	}
}

// unread is a request body that fails the test if the client reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was sent although the function had rejected it")
	return 0, io.EOF
}

func TestRefusedBodyIsNotSent(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	request, err := http.NewRequest(http.MethodPost, front(t, f)+"/refuse", unread{t})
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = 1 << 30
	request.Header.Set("Expect", "100-continue")
	client := http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("got %s, want 413", response.Status)
	}
}

// TestEarlyAnswersEndTheConnectionInTime checks that an early response does not break the next request. The function
// responds before it has read the request body, and the client then sends another request.
func TestEarlyAnswersEndTheConnectionInTime(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	s, err := serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.http.Close() })
	s.handle(f)
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 { // without Linger, a few of these requests would fail
				// net/http does not retry a POST request, so a broken connection fails the test.
				response, err := client.Post("http://"+s.address+"/refuse", "text/plain", strings.NewReader("{}"))
				if err != nil {
					t.Error(err)
					continue
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if response.StatusCode != http.StatusRequestEntityTooLarge {
					t.Errorf("got %s, want 413", response.Status)
				}
			}
		})
	}
	group.Wait()
}

func TestContinueReachesTheClient(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	request, err := http.NewRequest(http.MethodPost, front(t, f)+"/echo", strings.NewReader("hello\n"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Expect", "100-continue")
	client := http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "hello\n" {
		t.Errorf("got %q, %v, want the body of the request", body, err)
	}
}

func TestHeaders(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	request, err := http.NewRequest(http.MethodGet, front(t, f)+"/a/b", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "f.localhost:8080"
	for name, value := range map[string]string{
		"X-Auth-User-Id": "root", "x-auth-roles": "admin", "X-Forwarded-For": "10.0.0.1", "X-Forwarded-Host": "evil.example",
		"X-Forwarded-Proto": "https", "Forwarded": "for=10.0.0.1", "X-Request-Id": "mine", "Authorization": "Bearer abc",
	} {
		request.Header.Set(name, value)
	}
	recorder := httptest.NewRecorder()
	request.RemoteAddr = "192.0.2.7:1234"
	f.ServeHTTP(recorder, request)
	var got seen
	decode(t, recorder.Body.Bytes(), &got)
	if got.Host != "f.localhost:8080" {
		t.Errorf("got Host %q, want the Host of the client's request", got.Host)
	}
	for name, want := range map[string]string{
		"X-Auth-User-Id": "", "X-Auth-Roles": "", "Forwarded": "", "X-Forwarded-For": "192.0.2.7",
		"X-Forwarded-Host": "f.localhost:8080", "X-Forwarded-Proto": "http", "X-Request-Id": "mine", "Authorization": "Bearer abc",
	} {
		if value := strings.Join(got.Header.Values(name), ", "); value != want {
			t.Errorf("got %s %q, want %q", name, value, want)
		}
	}
}

func TestQueryStaysAsItIs(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	if got, want := get(t, front(t, f)+"/a%2Fb?x=1;y=%zz").Path, "/a%2Fb?x=1;y=%zz"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClientThatGoesAway(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	url := front(t, f)
	get(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/hang", nil)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
		}
		failed <- err
	}()
	active := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.active
	}
	eventually(t, "the request is active", func() bool { return active() == 1 })
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	eventually(t, "the function has no active request", func() bool { return active() == 0 })
}
