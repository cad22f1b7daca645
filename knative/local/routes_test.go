package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
	for _, name := range []string{"login", "validate", "upload", "files", "record"} {
		functions[name], _ = play(t, name, "function", func(s *service) {
			if name == "record" {
				s.Metadata.Labels = map[string]string{visibilityLabel: "cluster-local"}
			}
		})
	}
	tests := []struct {
		host, path string
		want       string // the function; empty for 404
	}{
		{"localhost:8080", "/login", "login"},
		{"localhost:8080", "/refresh", "login"},
		{"localhost:8080", "/logout", "login"},
		{"127.0.0.1:8080", "/login?x=1", "login"},
		{"localhost", "/validate/any/thing", "validate"},
		{"localhost", "/introspect", "validate"},
		{"localhost", "/.well-known/jwks.json", "validate"},
		{"localhost", "/upload", "upload"},
		{"localhost", "/files", "files"},
		{"localhost", "/files/123/content", "files"},
		{"localhost", "/accounts", ""}, // a route without a function
		{"localhost", "/loginx", ""},
		{"localhost", "/Login", ""},
		{"localhost", "/", ""},
		{"localhost", "//login", ""},
		{"localhost", "/record", ""},
		{"login.localhost:8080", "/", "login"},
		{"LOGIN.localhost.:8080", "/", "login"},
		{"login.localhost", "/files", "login"},
		{"record.localhost:8080", "/", ""}, // cluster-local
		{"other.localhost:8080", "/login", ""},
		{"a.login.localhost:8080", "/login", ""},
		{"example.org", "/login", "login"},
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

func TestGatewayFunctionGetsWhatHasNoHost(t *testing.T) {
	gateway, _ := play(t, "gateway", "function", nil)
	login, _ := play(t, "login", "function", nil)
	url := front(t, router{map[string]*function{"gateway": gateway, "login": login}})
	if got := get(t, url+"/login").Name; got != "gateway" {
		t.Errorf("got %s, want gateway", got)
	}
}

func TestHealthOfTheRunner(t *testing.T) {
	response, err := http.Get(front(t, router{}) + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("got %s, want 200", response.Status)
	}
}
