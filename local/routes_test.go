package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

func TestRoutes(t *testing.T) {
	functions := map[string]*function{}
	for _, name := range []string{"gateway", "login", "files", "record"} {
		functions[name], _ = play(t, name, "function", func(s *service) {
			if name == "record" {
				s.Metadata.Labels = map[string]string{visibilityLabel: "cluster-local"}
			}
		})
	}
	tests := []struct {
		host, path string
		want       string // name of the function; empty for 404
	}{
		{"localhost:8080", "/", "gateway"},
		{"127.0.0.1:8080", "/login?x=1", "gateway"},
		{"localhost", "/files/123/content", "gateway"},
		{"login.localhost:8080", "/", "login"},
		{"LOGIN.localhost.:8080", "/", "login"},
		{"login.localhost", "/files", "login"},
		{"record.localhost:8080", "/", ""}, // cluster-local
		{"other.localhost:8080", "/login", ""},
		{"a.login.localhost:8080", "/login", ""},
		{"example.org", "/login", "gateway"},
	}
	for _, test := range tests {
		request := httptest.NewRequest(http.MethodGet, test.path, nil)
		request.Host = test.host
		recorder := httptest.NewRecorder()
		router{functions}.ServeHTTP(recorder, request)
		if test.want == "" {
			if recorder.Code != http.StatusNotFound {
				t.Errorf("%s %s: got %d, want 404", test.host, test.path, recorder.Code)
				continue
			}
			wantProblem(t, recorder.Result(), http.StatusNotFound, "")
			continue
		}
		var got seen
		decode(t, recorder.Body.Bytes(), &got)
		if got.Name != test.want || got.Path != test.path {
			t.Errorf("%s %s: got %s %s, want %s", test.host, test.path, got.Name, got.Path, test.want)
		}
	}
}

func TestWithoutGateway(t *testing.T) {
	login, _ := play(t, "login", "function", nil)
	recorder := httptest.NewRecorder()
	router{map[string]*function{"login": login}}.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/login", nil))
	wantProblem(t, recorder.Result(), http.StatusNotFound, "gateway")
}

// TestInside checks that a request from another function keeps its X-Forwarded-* headers, and that the runner appends
// the caller's address to X-Forwarded-For.
func TestInside(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	request, err := http.NewRequest(http.MethodGet, front(t, inside{f}), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"X-Forwarded-For": "203.0.113.9, 10.0.0.1", "X-Forwarded-Host": "files.example.com", "X-Forwarded-Proto": "https",
		"X-Client-Address": "203.0.113.9 1800000000 abc",
	} {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got seen
	decode(t, text, &got)
	for name, want := range map[string]string{
		"X-Forwarded-For": "203.0.113.9, 10.0.0.1, 127.0.0.1", "X-Forwarded-Host": "files.example.com", "X-Forwarded-Proto": "https",
		"X-Client-Address": "203.0.113.9 1800000000 abc",
	} {
		if value := strings.Join(got.Header.Values(name), "; "); value != want {
			t.Errorf("got %s %q, want %q", name, value, want)
		}
	}
}
