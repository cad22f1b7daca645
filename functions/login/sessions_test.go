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
		want                              string // in the body
	}{
		"JSON":             {"POST", "/refresh", typeJSON, `{"refresh_token":"refresh-ada"}`, nil, 200, `"refresh_token":"refresh-refresh-ada"`},
		"form":             {"POST", "/refresh", typeForm, `refresh_token=refresh-grace`, nil, 200, `"scope":"files:read files:write files:any accounts:manage"`},
		"not good":         {"POST", "/refresh", typeForm, `refresh_token=x`, nil, 401, "urn:strongroom:problem:session-ended"},
		"none":             {"POST", "/refresh", typeForm, `refresh_token=`, nil, 400, "bad-request"},
		"none, JSON":       {"POST", "/refresh", typeJSON, `{}`, nil, 400, "bad-request"},
		"two":              {"POST", "/refresh", typeForm, `refresh_token=a&refresh_token=b`, nil, 400, "bad-request"},
		"something else":   {"POST", "/refresh", typeForm, `refresh_token=a&x=b`, nil, 400, "bad-request"},
		"broken form":      {"POST", "/refresh", typeForm, `refresh_token=%zz`, nil, 400, "bad-request"},
		"broken JSON":      {"POST", "/refresh", typeJSON, `{"refresh_token":`, nil, 400, "bad-request"},
		"in the query":     {"POST", "/refresh?refresh_token=refresh-ada", typeForm, `refresh_token=refresh-ada`, nil, 400, "end up in logs"},
		"in another case":  {"POST", "/refresh?Refresh_Token=refresh-ada", typeForm, `refresh_token=refresh-ada`, nil, 400, "end up in logs"},
		"broken query":     {"POST", "/refresh?x=%zz", typeForm, `refresh_token=refresh-ada`, nil, 400, "bad-request"},
		"text":             {"POST", "/refresh", "text/plain", `refresh-ada`, nil, 415, "unsupported-media-type"},
		"too large":        {"POST", "/refresh", typeForm, "refresh_token=" + strings.Repeat("x", maxBody), nil, 413, "too-large"},
		"GET":              {"GET", "/refresh", "", "", nil, 405, "method-not-allowed"},
		"store away":       {"POST", "/refresh", typeForm, `refresh_token=refresh-ada`, problem.Unavailable.With("away"), 503, "unavailable"},
		"store has a fit":  {"POST", "/refresh", typeForm, `refresh_token=refresh-ada`, errors.New("a fit"), 500, "internal"},
		"password instead": {"POST", "/refresh", typeForm, `username=ada&password=lovelace-1843`, nil, 400, "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			f.store.sessionErr = test.storeErr
			r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
			r.Header.Set("Content-Type", test.contentType)
			w := f.do(r)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Fatalf("answer is %d %s, want %d with %s", w.Code, w.Body, test.status, test.want)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control is %q, want no-store", got)
			}
			if got := w.Header().Get("WWW-Authenticate"); (got == `Bearer realm="strongroom"`) != (test.status == 401) {
				t.Errorf("WWW-Authenticate is %q", got)
			}
			if test.status != http.StatusOK {
				return
			}
			var got answer
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if _, err := f.verifier.Verify(got.AccessToken); err != nil {
				t.Errorf("the access token: %v", err)
			}
			if len(f.hasher.verified) != 0 {
				t.Error("a password was compared")
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
		"this session": {"POST", "/logout", typeForm, `refresh_token=refresh-ada`, nil, 204, []string{"refresh-ada false"}},
		"all":          {"POST", "/logout?scope=all", typeJSON, `{"refresh_token":"refresh-ada"}`, nil, 204, []string{"refresh-ada true"}},
		"other scope":  {"POST", "/logout?scope=some", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"two scopes":   {"POST", "/logout?scope=all&scope=all", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"broken query": {"POST", "/logout?scope=all;x", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"empty scope":  {"POST", "/logout?scope=", typeForm, `refresh_token=refresh-ada`, nil, 400, nil},
		"no token":     {"POST", "/logout", typeForm, ``, nil, 400, nil},
		"text":         {"POST", "/logout", "text/plain", `refresh-ada`, nil, 415, nil},
		"too large":    {"POST", "/logout", typeForm, "refresh_token=" + strings.Repeat("x", maxBody), nil, 413, nil},
		"GET":          {"GET", "/logout", "", "", nil, 405, nil},
		"store away":   {"POST", "/logout", typeForm, `refresh_token=refresh-ada`, problem.Unavailable.With("away"), 503, []string{"refresh-ada false"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			f.store.sessionErr = test.storeErr
			r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
			r.Header.Set("Content-Type", test.contentType)
			w := f.do(r)
			if w.Code != test.status || !slices.Equal(f.store.ended, test.ended) {
				t.Errorf("answer is %d %s with %q ended, want %d with %q", w.Code, w.Body, f.store.ended, test.status, test.ended)
			}
			if test.ended != nil && f.store.address.String() != "192.0.2.1" { // httptest's
				t.Errorf("it came from %s, want 192.0.2.1", f.store.address)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control is %q, want no-store", got)
			}
		})
	}
}
