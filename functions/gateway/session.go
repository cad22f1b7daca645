package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
)

const (
	// sessionCookie and deviceCookie are the base names (see cookieName) of the cookies that contain a browser's refresh
	// token and device token.
	sessionCookie = "session"
	deviceCookie  = "device"
	// deviceCookieAge is how long a device token is valid.
	deviceCookieAge = 30 * 24 * time.Hour
	// maxBody is the maximum size of the body of a sign-in request, in bytes. The login function has the same limit.
	maxBody = 4 << 10
	// headerDevice is the header in which the login function expects a device token (accounts.HeaderDevice).
	headerDevice = "X-Device-Token"
	// maxPasskeyBody is the maximum size of the body of a sign-in with a passkey, in bytes. The login function has the
	// same limit.
	maxPasskeyBody = 16 << 10
	// maxAnswer is the maximum size of a response body from the login function, in bytes. The access token in the body
	// can be up to 8 KiB long.
	maxAnswer = 64 << 10
)

// sessions serves the session endpoints. It stores a browser's refresh token in a cookie that scripts cannot read, so
// that a malicious script cannot steal the token.
type sessions struct {
	login     route
	transport http.RoundTripper
	trust     client.Trust
	// guard rejects requests that a browser sends on behalf of another site's page (cross-site request forgery).
	guard *http.CrossOriginProtection
}

func newSessions(login route, transport http.RoundTripper, trust client.Trust) *sessions {
	return &sessions{login, patient{transport, login.patience}, trust, http.NewCrossOriginProtection()}
}

func (s *sessions) handler() http.Handler {
	return routing.Table{
		"/session":                 {http.MethodPost: s.guarded(s.begin), http.MethodDelete: s.guarded(s.end)},
		"/session/refresh":         {http.MethodPost: s.guarded(s.refresh)},
		"/session/passkey":         {http.MethodPost: s.guarded(s.beginWithPasskey)},
		"/session/passkey/options": {http.MethodPost: s.guarded(s.passkeyOptions)},
	}.Handler()
}

// guarded returns a handler that rejects requests from other sites' pages. It passes all other requests to the next
// handler, and applies the login route's time limit to them.
func (s *sessions) guarded(next problem.HandlerFunc) http.Handler {
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if err := s.guard.Check(r); err != nil {
			return problem.CrossSite.Because(err, "only pages of this site may use a session")
		}
		w.Header().Set("Cache-Control", "no-store")
		ctx, cancel := context.WithTimeout(r.Context(), s.login.timeout)
		defer cancel()
		return next(w, r.WithContext(ctx))
	})
}

// begin handles POST /session, which signs the user in.
func (s *sessions) begin(w http.ResponseWriter, r *http.Request) error {
	var given struct {
		Username     string  `json:"username"`
		Password     string  `json:"password"`
		NewPassword  *string `json:"new_password,omitempty"`
		RecoveryCode string  `json:"recovery_code,omitempty"`
	}
	if err := request.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	return s.signIn(w, r, "/login", given)
}

// signIn sends the given body to a path of the login function that signs the user in. If the browser has a session
// already, this session ends, because the new session replaces its cookie.
func (s *sessions) signIn(w http.ResponseWriter, r *http.Request, path string, given any) error {
	tokens, err := refreshTokens(r)
	if err != nil {
		return err
	}
	answer, err := s.ask(r, path, given)
	if err != nil {
		return err
	}
	if answer.status == http.StatusOK {
		refused, err := s.endAll(r, tokens)
		if refused != nil {
			err = fmt.Errorf("got status %d from the login function", refused.status)
		}
		if err != nil {
			// Only log the error. The user has signed in, and can still end the session in the list of sessions.
			slog.WarnContext(r.Context(), "could not end the previous session of a browser", "error", err)
		}
	}
	return answer.pass(w, r)
}

// passkeyOptions handles POST /session/passkey/options, which begins a sign-in with a passkey.
func (s *sessions) passkeyOptions(w http.ResponseWriter, r *http.Request) error {
	answer, err := s.ask(r, "/login/passkey/options", struct{}{})
	if err != nil {
		return err
	}
	return answer.copy(w)
}

// beginWithPasskey handles POST /session/passkey, which signs the user in with a passkey.
func (s *sessions) beginWithPasskey(w http.ResponseWriter, r *http.Request) error {
	var given struct {
		Credential json.RawMessage `json:"credential"`
	}
	if err := request.ReadJSON(w, r, maxPasskeyBody, &given); err != nil {
		return err
	}
	return s.signIn(w, r, "/login/passkey", given)
}

// refresh handles POST /session/refresh. It responds with a new access token, or with 204 (No Content) if the request
// has no session cookie. If the request has several session cookies, refresh tries all of them.
func (s *sessions) refresh(w http.ResponseWriter, r *http.Request) error {
	tokens, err := refreshTokens(r)
	if err != nil {
		return err
	}
	if len(tokens) == 0 {
		return respond.NoContent(w)
	}
	var answer *loginAnswer
	for _, token := range tokens {
		if answer, err = s.ask(r, "/refresh", tokenBody{token}); err != nil {
			return err
		}
		if answer.status != http.StatusUnauthorized {
			return answer.pass(w, r)
		}
	}
	setCookie(w, r, "") // all sessions have ended
	return answer.pass(w, r)
}

// end handles DELETE /session, which signs the user out. It ends the sessions of all session cookies, so that no
// session continues after a 204 response.
func (s *sessions) end(w http.ResponseWriter, r *http.Request) error {
	tokens, err := refreshTokens(r)
	if err != nil {
		return err
	}
	refused, err := s.endAll(r, tokens)
	if err != nil {
		return err
	}
	if refused != nil {
		return refused.pass(w, r) // the browser keeps the cookie, because the user needs it to try again
	}
	setCookie(w, r, "")
	return respond.NoContent(w)
}

// endAll ends the sessions of refresh tokens. If the login function does not end a session, endAll returns its response
// or an error.
func (s *sessions) endAll(r *http.Request, tokens []string) (refused *loginAnswer, err error) {
	for _, token := range tokens {
		answer, err := s.ask(r, "/logout", tokenBody{token})
		if err != nil {
			return nil, err
		}
		if answer.status != http.StatusNoContent {
			return answer, nil
		}
	}
	return nil, nil
}

// tokenBody is the JSON body of a /refresh or /logout request to the login function.
type tokenBody struct {
	RefreshToken string `json:"refresh_token"`
}

// refreshTokens returns the refresh tokens in the session cookies of r.
func refreshTokens(r *http.Request) ([]string, error) {
	tokens, ok := cookieValues(r, sessionCookie)
	if !ok {
		return nil, problem.BadRequest.With("the request has too many session cookies: delete the cookies of this site")
	}
	return tokens, nil
}

// setCookie stores the refresh token in the session cookie until the user closes the browser. If the token is empty,
// setCookie deletes the cookie.
func setCookie(w http.ResponseWriter, r *http.Request, token string) {
	http.SetCookie(w, newCookie(visitorOf(r.Context()), sessionCookie, token))
}

// loginAnswer is a response from the login function.
type loginAnswer struct {
	status int
	header http.Header
	body   []byte
}

// addDevice sets the device token in h if r has exactly one device cookie.
func addDevice(r *http.Request, h http.Header) {
	if devices, _ := cookieValues(r, deviceCookie); len(devices) == 1 {
		h.Set(headerDevice, devices[0])
	}
}

// ask sends a POST request with the given body, as JSON, to the login function. Its errors can be sent to the client
// as problem documents.
func (s *sessions) ask(r *http.Request, path string, body any) (*loginAnswer, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request to the login function: %w", err)
	}
	post, err := http.NewRequestWithContext(r.Context(), http.MethodPost, s.login.target.JoinPath(path).String(), bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("create the request to the login function: %w", err)
	}
	post.Header["User-Agent"] = r.Header["User-Agent"]
	post.Header.Set("Content-Type", request.TypeJSON)
	addDevice(r, post.Header)
	introduce(r.Context(), post.Header, s.trust)
	// Clear GetBody, so that http.Transport cannot send the request twice. A repeated sign-in would count as a second
	// attempt, and a refresh token is valid for only one use.
	post.GetBody = nil
	answer, err := s.transport.RoundTrip(post)
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

// pass sends a response from the login function to the browser. If the status is 200 (OK), pass moves the refresh token
// and the device token from the body to their cookies.
func (a *loginAnswer) pass(w http.ResponseWriter, r *http.Request) error {
	if a.status != http.StatusOK {
		return a.copy(w)
	}
	var members map[string]json.RawMessage
	var token struct {
		tokenBody
		DeviceToken string `json:"device_token"`
	}
	if err := errors.Join(json.Unmarshal(a.body, &members), json.Unmarshal(a.body, &token)); err != nil {
		return fmt.Errorf("decode the response from the login function: %w", err)
	}
	if token.RefreshToken == "" {
		return errors.New("the response from the login function contains no refresh token")
	}
	delete(members, "refresh_token")
	setCookie(w, r, token.RefreshToken)
	if token.DeviceToken != "" {
		delete(members, "device_token")
		cookie := newCookie(visitorOf(r.Context()), deviceCookie, token.DeviceToken)
		cookie.MaxAge = int(deviceCookieAge / time.Second)
		http.SetCookie(w, cookie)
	}
	return respond.JSON(w, http.StatusOK, members)
}

// copy sends a response from the login function to the browser without a change of the body.
func (a *loginAnswer) copy(w http.ResponseWriter) error {
	h := w.Header()
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if value := a.header.Get(name); value != "" {
			h.Set(name, value)
		}
	}
	if a.status == http.StatusUnauthorized {
		// Replace the Basic challenge from the login function, because it would make the browser show its own
		// password dialog.
		h.Set("WWW-Authenticate", `Bearer realm="strongroom"`)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // an error means that the client has disconnected
	return nil
}
