package routing

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

// echo responds with name and the path value id.
func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", name, r.PathValue("id")) })
}

func TestTable(t *testing.T) {
	handler := Table{
		"/":                  {http.MethodPost: echo("root")},
		"/users":             {http.MethodGet: echo("list"), http.MethodPost: echo("create")},
		"/users/me":          {http.MethodGet: echo("me")},
		"/users/{id}":        {http.MethodGet: echo("show"), http.MethodPatch: echo("update"), http.MethodDelete: echo("delete")},
		"/users/{id}/avatar": {http.MethodPut: echo("avatar"), http.MethodHead: echo("head")},
		"/check":             {Any: echo("check")},
		"/check/...":         {Any: echo("below")},
	}.Handler()
	for request, want := range map[string]struct {
		status int
		body   string // of a response with the status 200
		allow  string
	}{
		"POST /":                  {status: 200, body: "root "},
		"GET /":                   {status: 405, allow: "POST"},
		"GET /users":              {status: 200, body: "list "},
		"HEAD /users":             {status: 200, body: "list "},
		"POST /users":             {status: 200, body: "create "},
		"DELETE /users":           {status: 405, allow: "GET, HEAD, POST"},
		"get /users":              {status: 405, allow: "GET, HEAD, POST"},
		"GET /users/me":           {status: 200, body: "me "},
		"PATCH /users/me":         {status: 405, allow: "GET, HEAD"},
		"GET /users/7":            {status: 200, body: "show 7"},
		"GET /users/a%2Fb":        {status: 404},
		"GET /users/%20":          {status: 200, body: "show  "},
		"DELETE /users/7":         {status: 200, body: "delete 7"},
		"OPTIONS /users/7":        {status: 405, allow: "GET, HEAD, PATCH, DELETE"},
		"PUT /users/7/avatar":     {status: 200, body: "avatar 7"},
		"HEAD /users/7/avatar":    {status: 200, body: "head 7"},
		"GET /users/7/avatar":     {status: 405, allow: "HEAD, PUT"},
		"PUT /users//avatar":      {status: 404},
		"GET /users/":             {status: 404},
		"GET /users/7/":           {status: 404},
		"GET /users/7/avatar/big": {status: 404},
		"GET //users":             {status: 404},
		"GET /nothing":            {status: 404},
		"PURGE /check":            {status: 200, body: "check "},
		"GET /check/":             {status: 200, body: "below "},
		"GET /check/a//b/../c":    {status: 200, body: "below "},
		"GET /checks":             {status: 404},
	} {
		t.Run(request, func(t *testing.T) {
			var method, target string
			if _, err := fmt.Sscanf(request, "%s %s", &method, &target); err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(method, target, nil))
			response := w.Result()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != want.status || response.Header.Get("Allow") != want.allow {
				t.Errorf("got %s, Allow %q and %v, want %d and Allow %q", response.Status, response.Header.Get("Allow"), err, want.status, want.allow)
			}
			if want.status == http.StatusOK && string(body) != want.body {
				t.Errorf("got the body %q, want %q", body, want.body)
			}
			if got := response.Header.Get("Content-Type"); want.status != http.StatusOK && got != "application/problem+json" {
				t.Errorf("got the content type %s, want a problem document", got)
			}
		})
	}
}

func ExampleTable() {
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "user", r.PathValue("id")) })
	handler := Table{"/users/{id}": {http.MethodGet: show}}.Handler()

	for _, method := range []string{"GET", "POST"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, "/users/7", nil))
		fmt.Println(w.Code)
		_, _ = io.Copy(os.Stdout, w.Body)
		fmt.Println()
	}
	// Output:
	// 200
	// user 7
	//
	// 405
	// {"type":"urn:strongroom:problem:method-not-allowed","title":"The resource does not allow this method","status":405,"detail":"use GET, HEAD"}
}
