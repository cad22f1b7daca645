package main

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// FuzzCredentials checks that readCredentials handles every body. It must not panic, must not return a server error,
// and must return only credentials in valid UTF-8.
func FuzzCredentials(f *testing.F) {
	for _, kind := range []string{typeJSON, typeForm, "text/plain", "application/json; charset=utf-8", ""} {
		for _, body := range []string{
			``, `{}`, `{"username":"ada","password":"lovelace-1843"}`, `{"username":"ada","password":"a","password":"b"}`,
			`{"username":null,"password":1}`, `{"USERNAME":"ada","password":"x"}`, `["ada"]`, `{"username":"\ud800","password":"x"}`,
			`username=ada&password=lovelace-1843`, `username=a&username=b&password=x`, `username=a&password=b&new_password=c`, `username=%ff&password=x`, `username`, `%zz`,
			strings.Repeat("x", maxBody+1),
		} {
			f.Add(kind, body)
		}
	}
	f.Fuzz(func(t *testing.T, kind, body string) {
		request := httptest.NewRequest("POST", "/login", strings.NewReader(body))
		request.Header["Content-Type"] = []string{kind}
		got, err := readCredentials(httptest.NewRecorder(), request)
		switch {
		case err == nil && (!utf8.ValidString(got.username) || !utf8.ValidString(got.password)):
			t.Errorf("got credentials %q and %q, want valid UTF-8", got.username, got.password)
		case err == nil && len(body) > maxBody:
			t.Error("accepted a body that is larger than the limit")
		case err != nil && problem.Status(err) >= 500:
			t.Errorf("got server error %v, want a client error", err)
		case errors.Is(err, problem.BadRequest) && got != credentials{}:
			t.Errorf("got error %v and user name %q, want no credentials", err, got.username)
		}
	})
}
