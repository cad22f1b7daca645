package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// sessionTest describes a request to /refresh or /logout and its response. The default method is POST, the default
// content type is that of a form, and the default body contains a valid refresh token for ada.
type sessionTest struct {
	method, query, contentType, body string
	err                              error // the error of the store
	status                           int
	want                             string   // a part of the response body
	ended                            []string // the ended sessions, and whether all sessions of the user were ended
}

func (q sessionTest) send(f *fixture, path string) *httptest.ResponseRecorder {
	f.store.sessionErr = q.err
	r := httptest.NewRequest(cmp.Or(q.method, "POST"), path+"?"+q.query, strings.NewReader(cmp.Or(q.body, "refresh_token=refresh-ada")))
	r.Header.Set("Content-Type", cmp.Or(q.contentType, typeForm))
	return f.do(r)
}

func TestRefresh(t *testing.T) {
	for name, test := range map[string]sessionTest{
		"JSON":             {contentType: typeJSON, body: `{"refresh_token":"refresh-ada"}`, status: 200, want: `"refresh_token":"refresh-refresh-ada"`},
		"form":             {body: `refresh_token=refresh-grace`, status: 200, want: `"scope":"files:read files:write files:any accounts:manage"`},
		"invalid token":    {body: `refresh_token=x`, status: 401, want: "urn:strongroom:problem:session-ended"},
		"empty token":      {body: `refresh_token=`, status: 400, want: "bad-request"},
		"no token in JSON": {contentType: typeJSON, body: `{}`, status: 400, want: "bad-request"},
		"two tokens":       {body: `refresh_token=a&refresh_token=b`, status: 400, want: "bad-request"},
		"unknown field":    {body: `refresh_token=a&x=b`, status: 400, want: "bad-request"},
		"invalid form":     {body: `refresh_token=%zz`, status: 400, want: "bad-request"},
		"invalid JSON":     {contentType: typeJSON, body: `{"refresh_token":`, status: 400, want: "bad-request"},
		"token in query":   {query: "refresh_token=refresh-ada", status: 400, want: "end up in logs"},
		"upper-case query": {query: "Refresh_Token=refresh-ada", status: 400, want: "end up in logs"},
		"invalid query":    {query: "x=%zz", status: 400, want: "bad-request"},
		"wrong type":       {contentType: "text/plain", body: `refresh-ada`, status: 415, want: "unsupported-media-type"},
		"too large":        {body: "refresh_token=" + strings.Repeat("x", maxBody), status: 413, want: "too-large"},
		"GET":              {method: "GET", status: 405, want: "method-not-allowed"},
		"store down":       {err: problem.Unavailable.With("down"), status: 503, want: "unavailable"},
		"store error":      {err: errors.New("test error"), status: 500, want: "internal"},
		"too many":         {err: problem.TooManyRefreshes.With("later").RetryAfter(time.Second), status: 429, want: "too-many-refreshes"},
		"password":         {body: `username=ada&password=lovelace-1843`, status: 400, want: "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			w := test.send(f, "/refresh")
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
			if got.DeviceToken != "" {
				t.Errorf("got the device token %q, want none", got.DeviceToken)
			}
			if claims, err := f.verifier.Verify(got.AccessToken); err != nil {
				t.Errorf("verify the access token: %v", err)
			} else if claims.Session != session.ID || !claims.AuthTime.Equal(session.StartedAt) || claims.ACR != token.ACRPassword {
				t.Errorf("got claims %+v, want the sign-in of the session %+v", claims, session)
			}
			if len(f.hasher.verified) != 0 {
				t.Error("refresh verified a password")
			}
		})
	}
}

func TestLogout(t *testing.T) {
	for name, test := range map[string]sessionTest{
		"this session":  {status: 204, ended: []string{"refresh-ada false"}},
		"all sessions":  {query: "scope=all", contentType: typeJSON, body: `{"refresh_token":"refresh-ada"}`, status: 204, ended: []string{"refresh-ada true"}},
		"other scope":   {query: "scope=some", status: 400},
		"two scopes":    {query: "scope=all&scope=all", status: 400},
		"invalid query": {query: "scope=all;x", status: 400},
		"empty scope":   {query: "scope=", status: 400},
		"no token":      {body: `refresh_token=`, status: 400},
		"wrong type":    {contentType: "text/plain", body: `refresh-ada`, status: 415},
		"too large":     {body: "refresh_token=" + strings.Repeat("x", maxBody), status: 413},
		"GET":           {method: "GET", status: 405},
		"store down":    {err: problem.Unavailable.With("down"), status: 503, ended: []string{"refresh-ada false"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			w := test.send(f, "/logout")
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
