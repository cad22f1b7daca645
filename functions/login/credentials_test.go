package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestRequestsThatAreNoLogin(t *testing.T) {
	const jsonType, formType = "application/json", "application/x-www-form-urlencoded"
	const good = `{"username":"ada","password":"lovelace-1843"}`
	with := func(r *http.Request, pairs ...string) *http.Request {
		for i := 0; i < len(pairs); i += 2 {
			r.Header.Add(pairs[i], pairs[i+1])
		}
		return r
	}
	// unsized removes the content length from r, as in a chunked request.
	unsized := func(r *http.Request) *http.Request {
		r.Body, r.ContentLength = io.NopCloser(struct{ io.Reader }{r.Body}), -1
		return r
	}
	padded := func(n int) string { return good + strings.Repeat(" ", n-len(good)) }
	for name, test := range map[string]struct {
		r      *http.Request
		status int
		header string // "Name: value"
	}{
		"GET":                 {httptest.NewRequest("GET", "/login", nil), 405, "Allow: POST"},
		"HEAD":                {httptest.NewRequest("HEAD", "/", nil), 405, "Allow: POST"},
		"OPTIONS":             {httptest.NewRequest("OPTIONS", "/login", nil), 405, "Allow: POST"},
		"PUT":                 {httptest.NewRequest("PUT", "/login", strings.NewReader(good)), 405, "Allow: POST"},
		"unknown path":        {httptest.NewRequest("POST", "/logins", strings.NewReader(good)), 404, ""},
		"path with a slash":   {httptest.NewRequest("POST", "/login/", strings.NewReader(good)), 404, ""},
		"no type and no body": {post("", ""), 400, ""},
		"empty JSON":          {post(jsonType, ""), 400, ""},
		"empty form":          {post(formType, ""), 400, ""},
		"body without a type": {post("", good), 415, "Accept: application/json, application/x-www-form-urlencoded"},
		"plain text":          {post("text/plain", good), 415, "Accept: application/json, application/x-www-form-urlencoded"},
		"multipart":           {post("multipart/form-data; boundary=x", good), 415, ""},
		"invalid type":        {post("application/", good), 415, ""},
		"JSON in Latin-1":     {post("application/json; charset=iso-8859-1", good), 415, ""},
		"compressed":          {with(post(jsonType, good), "Content-Encoding", "gzip"), 415, "Accept-Encoding: identity"},
		"4097 bytes":          {post(jsonType, padded(4097)), 413, ""},
		"4097 bytes, chunked": {unsized(post(jsonType, padded(4097))), 413, ""},
		"4096 bytes":          {post(jsonType, padded(4096)), 200, ""},
		"4096 bytes, chunked": {unsized(post(jsonType, padded(4096))), 200, ""},
		"interrupted body": {httptest.NewRequest("POST", "/login",
			io.MultiReader(strings.NewReader(`{"user`), iotest.ErrReader(io.ErrUnexpectedEOF))), 400, ""},

		"password in the query":  {httptest.NewRequest("POST", "/login?password=lovelace-1843", strings.NewReader(good)), 400, ""},
		"user name in the query": {httptest.NewRequest("POST", "/login?a=b&UserName=ada", strings.NewReader(good)), 400, ""},
		"invalid query":          {httptest.NewRequest("POST", "/login?password=%zz", strings.NewReader(good)), 400, ""},

		"JSON array":                {post(jsonType, "["+good+"]"), 400, ""},
		"JSON null":                 {post(jsonType, "null"), 400, ""},
		"truncated JSON":            {post(jsonType, good[:len(good)-1]), 400, ""},
		"truncated JSON value":      {post(jsonType, good[:len(good)-3]), 400, ""},
		"JSON with trailing data":   {post(jsonType, good+"x"), 400, ""},
		"two JSON objects":          {post(jsonType, good+good), 400, ""},
		"two passwords":             {post(jsonType, `{"username":"ada","password":"x","password":"lovelace-1843"}`), 400, ""},
		"member in upper case":      {post(jsonType, `{"username":"ada","Password":"lovelace-1843"}`), 400, ""},
		"unknown member":            {post(jsonType, `{"username":"ada","password":"lovelace-1843","role":"admin"}`), 400, ""},
		"no password":               {post(jsonType, `{"username":"ada"}`), 400, ""},
		"password is null":          {post(jsonType, `{"username":"ada","password":null}`), 400, ""},
		"password is a number":      {post(jsonType, `{"username":"ada","password":1843}`), 400, ""},
		"password is an object":     {post(jsonType, `{"username":"ada","password":{"$ne":""}}`), 400, ""},
		"JSON, not UTF-8":           {post(jsonType, "{\"username\":\"ada\",\"password\":\"lovelace\xff1843\"}"), 400, ""},
		"JSON, lone surrogate":      {post(jsonType, `{"username":"ada","password":"lovelace\ud8001843"}`), 400, ""},
		"form, two passwords":       {post(formType, "username=ada&password=x&password=lovelace-1843"), 400, ""},
		"form, no password":         {post(formType, "username=ada"), 400, ""},
		"form, unknown field":       {post(formType, "username=ada&password=lovelace-1843&role=admin"), 400, ""},
		"form, invalid escape":      {post(formType, "username=ada&password=%zz"), 400, ""},
		"form, semicolon":           {post(formType, "username=ada;password=lovelace-1843"), 400, ""},
		"form, not UTF-8":           {post(formType, "username=ada&password=%ff"), 400, ""},
		"Basic with a body":         {with(post(jsonType, good), "Authorization", basic("ada:lovelace-1843")), 400, ""},
		"Basic with a chunked body": {unsized(with(post(jsonType, good), "Authorization", basic("ada:lovelace-1843"))), 400, ""},
		"Basic, not base64":         {with(post("", ""), "Authorization", "Basic !"), 400, ""},
		"Basic, no colon":           {with(post("", ""), "Authorization", basic("ada")), 400, ""},
		"Basic, not UTF-8":          {with(post("", ""), "Authorization", basic("ada:\xff")), 400, ""},
		"Basic, twice":              {with(post("", ""), "Authorization", basic("ada:x"), "Authorization", basic("ada:lovelace-1843")), 400, ""},
		"only an access token":      {with(post("", ""), "Authorization", "Bearer abc"), 400, ""},
		"Basic, colon in password":  {with(post("", ""), "Authorization", basic("ada:lovelace:1843")), 401, ""},
		"Basic, empty chunked body": {unsized(with(post("", ""), "Authorization", basic("ada:lovelace-1843"))), 200, ""},
		"form, escaped":             {post(formType, "username=%61da&password=lovelace%2d1843"), 200, ""},
		"JSON, escaped":             {post(jsonType, `{"username":"\u0061da","password":"lovelace-1843"}`), 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			w := f.do(test.r)
			if w.Code != test.status {
				t.Fatalf("got %d %s, want %d", w.Code, w.Body, test.status)
			}
			if got, want := w.Header().Get("Cache-Control"), "no-store"; got != want {
				t.Errorf("got Cache-Control %q, want %q", got, want)
			}
			if header, want, ok := strings.Cut(test.header, ": "); ok && w.Header().Get(header) != want {
				t.Errorf("got %s %q, want %q", header, w.Header().Get(header), want)
			}
			if test.status == 200 {
				return
			}
			if got, want := w.Header().Get("Content-Type"), "application/problem+json"; got != want {
				t.Errorf("got Content-Type %q, want %q", got, want)
			}
			var document problem.Document
			if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || document.Status != test.status {
				t.Errorf("got document %s, error %v; want status %d", w.Body, err, test.status)
			}
			if strings.Contains(w.Body.String(), "lovelace") || strings.Contains(w.Body.String(), "1843") {
				t.Errorf("the response contains the password: %s", w.Body)
			}
			if test.status != 401 && len(f.hasher.verified)+len(f.store.outcomes) != 0 {
				t.Error("the request was handled as a sign-in attempt")
			}
		})
	}
}
