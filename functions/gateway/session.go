package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// cookieName and cookiePath are of the cookie that a browser's refresh token is in. No script can read it, no other
	// site can make the browser send it, and no other path of this one gets it.
	cookieName = "strongroom_session"
	cookiePath = "/session"
	// maxBody bounds the body of a sign-in, in bytes; as in login.
	maxBody = 4 << 10
	// maxCookie bounds the refresh token, in bytes; login's have 64.
	maxCookie = 512
	// maxAnswer bounds login's answer, in bytes: it has an access token in it, of 8 KiB at most.
	maxAnswer = 64 << 10
)

// sessions keep a browser's refresh token in a cookie, so that the console never has it: what runs in a page that should
// not can use the session, but not take it along.
type sessions struct {
	login     route
	transport http.RoundTripper
	trust     function.Trust
	// guard refuses requests that another site makes the browser send.
	guard *http.CrossOriginProtection
}

func newSessions(login route, transport http.RoundTripper, trust function.Trust) *sessions {
	return &sessions{login, patient{transport, login.patience}, trust, http.NewCrossOriginProtection()}
}

// serve answers POST /session, POST /session/refresh and DELETE /session.
func (s *sessions) serve(w http.ResponseWriter, r *http.Request) error {
	endpoints := map[string]map[string]problem.HandlerFunc{
		"/session":         {http.MethodPost: s.begin, http.MethodDelete: s.end},
		"/session/refresh": {http.MethodPost: s.refresh},
	}
	endpoint, ok := endpoints[r.URL.Path][r.Method]
	if !ok {
		allow := http.MethodPost
		if r.URL.Path == "/session" {
			allow = "POST, DELETE"
		}
		return problem.MethodNotAllowed.With("use %s", allow).Header("Allow", allow)
	}
	if err := s.guard.Check(r); err != nil {
		return problem.CrossSite.Because(err, "a session is for pages of this site only")
	}
	w.Header().Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(r.Context(), s.login.timeout)
	defer cancel()
	return endpoint(w, r.WithContext(ctx))
}

// begin answers POST /session: it signs in.
func (s *sessions) begin(w http.ResponseWriter, r *http.Request) error {
	var given struct {
		Username *string `json:"username"`
		Password *string `json:"password"`
	}
	if err := function.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	if given.Username == nil || given.Password == nil {
		return problem.BadRequest.With("give a username and a password")
	}
	answer, err := s.ask(r, "/login", given)
	if err != nil {
		return err
	}
	return answer.pass(w, r)
}

// refresh answers POST /session/refresh: a new access token for the session of the cookie, and 204 where there is none.
func (s *sessions) refresh(w http.ResponseWriter, r *http.Request) error {
	token := refreshToken(r)
	if token == "" {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	answer, err := s.ask(r, "/refresh", tokenBody{token})
	if err != nil {
		return err
	}
	if answer.status == http.StatusUnauthorized { // it has ended
		setCookie(w, r, "")
	}
	return answer.pass(w, r)
}

// end answers DELETE /session: it signs out. Where login can not be asked, the cookie stays, so that trying again ends
// the session and not only the browser's knowledge of it.
func (s *sessions) end(w http.ResponseWriter, r *http.Request) error {
	if token := refreshToken(r); token != "" {
		answer, err := s.ask(r, "/logout", tokenBody{token})
		if err != nil {
			return err
		}
		if answer.status != http.StatusNoContent {
			return answer.pass(w, r)
		}
	}
	setCookie(w, r, "")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tokenBody is what login's /refresh and /logout read.
type tokenBody struct {
	RefreshToken string `json:"refresh_token"`
}

// refreshToken returns the one in the request's cookie, "" if there is none that login could have issued.
func refreshToken(r *http.Request) string {
	cookies := r.CookiesNamed(cookieName)
	if len(cookies) != 1 || len(cookies[0].Value) > maxCookie {
		return ""
	}
	return cookies[0].Value
}

// setCookie gives the browser a refresh token to keep until it is closed, or with "" takes it away.
func setCookie(w http.ResponseWriter, r *http.Request, token string) {
	cookie := &http.Cookie{
		Name: cookieName, Value: token, Path: cookiePath, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// A browser does not send it back over plain HTTP, so not where that is all there is, as with make run.
		Secure: visitorOf(r.Context()).scheme == "https",
	}
	if token == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// loginAnswer is what login has answered.
type loginAnswer struct {
	status int
	header http.Header
	body   []byte
}

// ask posts body to login at path.
func (s *sessions) ask(r *http.Request, path string, body any) (*loginAnswer, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request to login: %w", err)
	}
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, s.login.target.JoinPath(path).String(), bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("make the request to login: %w", err)
	}
	request.Header["User-Agent"] = r.Header["User-Agent"]
	request.Header.Set("Content-Type", function.TypeJSON)
	introduce(r.Context(), request.Header, s.login, s.trust)
	request.GetBody = nil // a sign-in counts, and a refresh token is good for one use: nothing is sent twice
	answer, err := s.transport.RoundTrip(request)
	if err != nil {
		return nil, explain(s.login.function, err)
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, explain(s.login.function, err)
	}
	kind := answer.Header.Get("Content-Type")
	if len(got) > maxAnswer || answer.StatusCode >= 300 && kind != "application/problem+json" {
		return nil, explain(s.login.function, errNotThere)
	}
	return &loginAnswer{answer.StatusCode, answer.Header, got}, nil
}

// pass gives the browser what login has answered, with the refresh token in the cookie instead of in the body.
func (a *loginAnswer) pass(w http.ResponseWriter, r *http.Request) error {
	if a.status != http.StatusOK {
		h := w.Header()
		for _, name := range []string{"Content-Type", "Retry-After"} {
			if value := a.header.Get(name); value != "" {
				h.Set(name, value)
			}
		}
		if a.status == http.StatusUnauthorized {
			// Not login's challenge: the browser would ask for the password itself.
			h.Set("WWW-Authenticate", `Bearer realm="strongroom"`)
		}
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body) // the client may be gone; there is nobody left to tell
		return nil
	}
	var members map[string]json.RawMessage
	var token tokenBody
	if err := errors.Join(json.Unmarshal(a.body, &members), json.Unmarshal(a.body, &token)); err != nil {
		return fmt.Errorf("decode login's answer: %w", err)
	}
	if token.RefreshToken == "" {
		return errors.New("login's answer has no refresh token")
	}
	delete(members, "refresh_token")
	setCookie(w, r, token.RefreshToken)
	return problem.JSON(w, http.StatusOK, members)
}
