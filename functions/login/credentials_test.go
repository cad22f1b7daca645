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

// TestRequests checks the response to each form of valid and invalid sign-in request.
func TestRequests(t *testing.T) {
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
	for status, requests := range map[int]map[string]*http.Request{
		200: {
			"4096 bytes":                post(typeJSON, padded(4096)),
			"4096 bytes, chunked":       unsized(post(typeJSON, padded(4096))),
			"Basic, empty chunked body": unsized(with(post("", ""), "Authorization", basic("ada:lovelace-1843"))),
			"form, escaped":             post(typeForm, "username=%61da&password=lovelace%2d1843"),
			"JSON, escaped":             post(typeJSON, `{"username":"\u0061da","password":"lovelace-1843"}`),
			"JSON, another charset":     post(typeJSON+"; charset=iso-8859-1", good),
			"form, another charset":     post(typeForm+"; charset=iso-8859-1", "username=ada&password=lovelace-1843"),
			"form, charset utf8":        post(typeForm+`; charset="utf8"`, "username=ada&password=lovelace-1843"),
		},
		400: {
			"no type and no body":       post("", ""),
			"empty JSON":                post(typeJSON, ""),
			"empty form":                post(typeForm, ""),
			"interrupted body":          httptest.NewRequest("POST", "/login", io.MultiReader(strings.NewReader(`{"user`), iotest.ErrReader(io.ErrUnexpectedEOF))),
			"password in the query":     httptest.NewRequest("POST", "/login?password=lovelace-1843", strings.NewReader(good)),
			"new password in the query": httptest.NewRequest("POST", "/login?new_password=analytical-engine", strings.NewReader(good)),
			"user name in the query":    httptest.NewRequest("POST", "/login?a=b&UserName=ada", strings.NewReader(good)),
			"invalid query":             httptest.NewRequest("POST", "/login?password=%zz", strings.NewReader(good)),
			"JSON array":                post(typeJSON, "["+good+"]"),
			"two passwords":             post(typeJSON, `{"username":"ada","password":"x","password":"lovelace-1843"}`),
			"member in upper case":      post(typeJSON, `{"username":"ada","Password":"lovelace-1843"}`),
			"unknown member":            post(typeJSON, `{"username":"ada","password":"lovelace-1843","role":"admin"}`),
			"no password":               post(typeJSON, `{"username":"ada"}`),
			"password is a number":      post(typeJSON, `{"username":"ada","password":1843}`),
			"password is an object":     post(typeJSON, `{"username":"ada","password":{"$ne":""}}`),
			"JSON, not UTF-8":           post(typeJSON, "{\"username\":\"ada\",\"password\":\"lovelace\xff1843\"}"),
			"JSON, lone surrogate":      post(typeJSON, `{"username":"ada","password":"lovelace\ud8001843"}`),
			"form, two passwords":       post(typeForm, "username=ada&password=x&password=lovelace-1843"),
			"form, no password":         post(typeForm, "username=ada"),
			"form, only new password":   post(typeForm, "username=ada&new_password=analytical-engine"),
			"form, two new passwords":   post(typeForm, "username=ada&password=lovelace-1843&new_password=x&new_password=analytical-engine"),
			"form, new one not UTF-8":   post(typeForm, "username=ada&password=lovelace-1843&new_password=analytical-%ff"),
			"JSON, new password null":   post(typeJSON, `{"username":"ada","password":"lovelace-1843","new_password":null}`),
			"form, unknown field":       post(typeForm, "username=ada&password=lovelace-1843&role=admin"),
			"form, invalid escape":      post(typeForm, "username=ada&password=%zz"),
			"form, semicolon":           post(typeForm, "username=ada;password=lovelace-1843"),
			"form, not UTF-8":           post(typeForm, "username=ada&password=%ff"),
			"form in Latin-1":           post(typeForm+"; charset=iso-8859-1", "username=ada&password=%e9"),
			"Basic with a body":         with(post(typeJSON, good), "Authorization", basic("ada:lovelace-1843")),
			"Basic with a chunked body": unsized(with(post(typeJSON, good), "Authorization", basic("ada:lovelace-1843"))),
			"Basic, not base64":         with(post("", ""), "Authorization", "Basic !"),
			"Basic, no colon":           with(post("", ""), "Authorization", basic("ada")),
			"Basic, not UTF-8":          with(post("", ""), "Authorization", basic("ada:\xff")),
			"Basic, twice":              with(post("", ""), "Authorization", basic("ada:x"), "Authorization", basic("ada:lovelace-1843")),
			"only an access token":      with(post("", ""), "Authorization", "Bearer abc"),
		},
		401: {
			"Basic, colon in password": with(post("", ""), "Authorization", basic("ada:lovelace:1843")),
		},
		404: {
			"unknown path":      httptest.NewRequest("POST", "/logins", strings.NewReader(good)),
			"path with a slash": httptest.NewRequest("POST", "/login/", strings.NewReader(good)),
		},
		405: {
			"GET":     httptest.NewRequest("GET", "/login", nil),
			"HEAD":    httptest.NewRequest("HEAD", "/", nil),
			"OPTIONS": httptest.NewRequest("OPTIONS", "/login", nil),
			"PUT":     httptest.NewRequest("PUT", "/login", strings.NewReader(good)),
		},
		413: {
			"4097 bytes":          post(typeJSON, padded(4097)),
			"4097 bytes, chunked": unsized(post(typeJSON, padded(4097))),
		},
		415: {
			"body without a type": post("", good),
			"plain text":          post("text/plain", good),
			"multipart":           post("multipart/form-data; boundary=x", good),
			"invalid type":        post("application/", good),
			"compressed":          with(post(typeJSON, good), "Content-Encoding", "gzip"),
		},
	} {
		for name, r := range requests {
			t.Run(name, func(t *testing.T) { wantStatus(t, r, status) })
		}
	}
}

// wantStatus sends r and checks the response. A response other than 200 must be a problem document without the
// password. A request that is not a sign-in attempt must not verify a password.
func wantStatus(t *testing.T, r *http.Request, status int) {
	t.Helper()
	f := newFixture(t, 0)
	w := f.do(r)
	if w.Code != status {
		t.Fatalf("got %d %s, want %d", w.Code, w.Body, status)
	}
	header := w.Header()
	if got, want := header.Get("Cache-Control"), "no-store"; got != want {
		t.Errorf("got Cache-Control %q, want %q", got, want)
	}
	switch {
	case status == 200:
		return
	case status == 405 && header.Get("Allow") != "POST":
		t.Errorf("got Allow %q, want POST", header.Get("Allow"))
	case status == 415 && header.Get("Accept") != typeJSON+", "+typeForm && header.Get("Accept-Encoding") != "identity":
		t.Errorf("got Accept %q and Accept-Encoding %q, want the supported values", header.Get("Accept"), header.Get("Accept-Encoding"))
	}
	var document problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || document.Status != status || header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s %s, error %v; want a problem document with status %d", header.Get("Content-Type"), w.Body, err, status)
	}
	if strings.Contains(w.Body.String(), "lovelace") || strings.Contains(w.Body.String(), "1843") {
		t.Errorf("the response contains the password: %s", w.Body)
	}
	if status != 401 && len(f.hasher.verified)+len(f.store.outcomes) != 0 {
		t.Error("the request was handled as a sign-in attempt")
	}
}
