package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestRefresh(t *testing.T) {
	for name, test := range map[string]struct {
		method, target, contentType, body string
		storeErr                          error
		status                            int
		want                              string // a part of the body
	}{
		"JSON":             {"POST", "/refresh", typeJSON, `{"refresh_token":"refresh-ada"}`, nil, 200, `"refresh_token":"refresh-refresh-ada"`},
		"form":             {"POST", "/refresh", typeForm, `refresh_token=refresh-grace`, nil, 200, `"scope":"files:read files:write files:any accounts:manage"`},
		"invalid token":    {"POST", "/refresh", typeForm, `refresh_token=x`, nil, 401, "urn:strongroom:problem:session-ended"},
		"empty token":      {"POST", "/refresh", typeForm, `refresh_token=`, nil, 400, "bad-request"},
		"no token in JSON": {"POST", "/refresh", typeJSON, `{}`, nil, 400, "bad-request"},
		"two tokens":       {"POST", "/refresh", typeForm, `refresh_token=a&refresh_token=b`, nil, 400, "bad-request"},
		"unknown field":    {"POST", "/refresh", typeForm, `refresh_token=a&x=b`, nil, 400, "bad-request"},
		"invalid form":     {"POST", "/refresh", typeForm, `refresh_token=%zz`, nil, 400, "bad-request"},
		"invalid JSON":     {"POST", "/refresh", typeJSON, `{"refresh_token":`, nil, 400, "bad-request"},
		"token in query":   {"POST", "/refresh?refresh_token=refresh-ada", typeForm, `refresh_token=refresh-ada`, nil, 400, "end up in logs"},
		"upper-case query": {"POST", "/refresh?Refresh_Token=refresh-ada", typeForm, `refresh_token=refresh-ada`, nil, 400, "end up in logs"},
		"invalid query":    {"POST", "/refresh?x=%zz", typeForm, `refresh_token=refresh-ada`, nil, 400, "bad-request"},
		"wrong type":       {"POST", "/refresh", "text/plain", `refresh-ada`, nil, 415, "unsupported-media-type"},
		"too large":        {"POST", "/refresh", typeForm, "refresh_token=" + strings.Repeat("x", maxBody), nil, 413, "too-large"},
		"GET":              {"GET", "/refresh", "", "", nil, 405, "method-not-allowed"},
		"store down":       {"POST", "/refresh", typeForm, `refresh_token=refresh-ada`, problem.Unavailable.With("down"), 503, "unavailable"},
		"store error":      {"POST", "/refresh", typeForm, `refresh_token=refresh-ada`, errors.New("test error"), 500, "internal"},
		"password":         {"POST", "/refresh", typeForm, `username=ada&password=lovelace-1843`, nil, 400, "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			f.store.sessionErr = test.storeErr
			r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
			r.Header.Set("Content-Type", test.contentType)
			w := f.do(r)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Fatalf("got %d %s, want %d and a body that contains %s", w.Code, w.Body, test.status, test.want)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
			if got := w.Header().Get("WWW-Authenticate"); (got == `Bearer realm="strongroom"`) != (test.status == 401) {
				t.Errorf("got status %d with WWW-Authenticate %q", w.Code, got)
			}
			if test.status != http.StatusOK {
				return
			}
			var got answer
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if _, err := f.verifier.Verify(got.AccessToken); err != nil {
				t.Errorf("verify the access token: %v", err)
			}
			if len(f.hasher.verified) != 0 {
				t.Error("refresh verified a password")
			}
		})
	}
}

func TestLogout(t *testing.T) {
	for name, test := range map[string]struct {
		method, target, contentType, body string
		storeErr                          error
		status                            int
		ended                             []string
	}{
		"this session":  {"POST", "/logout", typeForm, `refresh_token=refresh-ada`, nil, 204, []string{"refresh-ada false"}},
		"all sessions":  {"POST", "/logout?scope=all", typeJSON, `{"refresh_token":"refresh-ada"}`, nil, 204, []string{"refresh-ada true"}},
		"other scope":   {"POST", "/logout?scope=some", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"two scopes":    {"POST", "/logout?scope=all&scope=all", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"invalid query": {"POST", "/logout?scope=all;x", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"empty scope":   {"POST", "/logout?scope=", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"no token":      {"POST", "/logout", typeForm, ``, nil, 400, nil},
		"wrong type":    {"POST", "/logout", "text/plain", `refresh-ada`, nil, 415, nil},
		"too large":     {"POST", "/logout", typeForm, "refresh_token=" + strings.Repeat("x", maxBody), nil, 413, nil},
		"GET":           {"GET", "/logout", "", "", nil, 405, nil},
		"store down":    {"POST", "/logout", typeForm, `refresh_token=refresh-ada`, problem.Unavailable.With("down"), 503, []string{"refresh-ada false"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			f.store.sessionErr = test.storeErr
			r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
			r.Header.Set("Content-Type", test.contentType)
			w := f.do(r)
			if w.Code != test.status || !slices.Equal(f.store.ended, test.ended) {
				t.Errorf("got %d %s and ended sessions %q, want %d and %q", w.Code, w.Body, f.store.ended, test.status, test.ended)
			}
			if test.ended != nil && f.store.address.String() != "192.0.2.1" { // the client address of a request from httptest
				t.Errorf("got client address %s, want 192.0.2.1", f.store.address)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
		})
	}
}
