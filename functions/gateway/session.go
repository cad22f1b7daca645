package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
)

const (
	// cookieName and cookiePath are the name and the path of the session cookie, which contains a browser's refresh
	// token.
	cookieName = "strongroom_session"
	cookiePath = "/session"
	// maxBody is the maximum size of the body of a sign-in request, in bytes. The login function has the same limit.
	maxBody = 4 << 10
	// maxCookie is the maximum length of a refresh token in a session cookie, in bytes. Refresh tokens from the login
	// function are only 64 bytes long.
	maxCookie = 512
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
		"/session":         {http.MethodPost: s.guarded(s.begin), http.MethodDelete: s.guarded(s.end)},
		"/session/refresh": {http.MethodPost: s.guarded(s.refresh)},
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
		Username string `json:"username"`
		Password string `json:"password"`
	}
	if err := request.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	answer, err := s.ask(r, "/login", given)
	if err != nil {
		return err
	}
	return answer.pass(w, r)
}

// refresh handles POST /session/refresh. It responds with a new access token, or with 204 (No Content) if the request
// has no session cookie.
func (s *sessions) refresh(w http.ResponseWriter, r *http.Request) error {
	token := refreshToken(r)
	if token == "" {
		return respond.NoContent(w)
	}
	answer, err := s.ask(r, "/refresh", tokenBody{token})
	if err != nil {
		return err
	}
	if answer.status == http.StatusUnauthorized { // the session has ended, so delete the cookie
		setCookie(w, r, "")
	}
	return answer.pass(w, r)
}

// end handles DELETE /session, which signs the user out.
func (s *sessions) end(w http.ResponseWriter, r *http.Request) error {
	if token := refreshToken(r); token != "" {
		answer, err := s.ask(r, "/logout", tokenBody{token})
		if err != nil {
			return err
		}
		if answer.status != http.StatusNoContent {
			return answer.pass(w, r) // the browser keeps the cookie, because the user needs it to try again
		}
	}
	setCookie(w, r, "")
	return respond.NoContent(w)
}

// tokenBody is the JSON body of a /refresh or /logout request to the login function.
type tokenBody struct {
	RefreshToken string `json:"refresh_token"`
}

// refreshToken returns the refresh token in the session cookie of r. It returns an empty string if r does not have
// exactly one session cookie, or if the token is longer than maxCookie.
func refreshToken(r *http.Request) string {
	cookies := r.CookiesNamed(cookieName)
	if len(cookies) != 1 || len(cookies[0].Value) > maxCookie {
		return ""
	}
	return cookies[0].Value
}

// setCookie stores the refresh token in the session cookie until the user closes the browser. If the token is empty,
// setCookie deletes the cookie.
func setCookie(w http.ResponseWriter, r *http.Request, token string) {
	// To protect the refresh token, hide this cookie from scripts, and restrict it to this site's own requests to the
	// session endpoints.
	cookie := &http.Cookie{
		Name: cookieName, Value: token, Path: cookiePath, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// Over plain HTTP (for example, with `make run`), do not set Secure, because browsers would not send the
		// cookie back.
		Secure: visitorOf(r.Context()).scheme == "https",
	}
	if token == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// loginAnswer is a response from the login function.
type loginAnswer struct {
	status int
	header http.Header
	body   []byte
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
	introduce(r.Context(), post.Header, s.login, s.trust)
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
// from the body to the session cookie.
func (a *loginAnswer) pass(w http.ResponseWriter, r *http.Request) error {
	if a.status != http.StatusOK {
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
	var members map[string]json.RawMessage
	var token tokenBody
	if err := errors.Join(json.Unmarshal(a.body, &members), json.Unmarshal(a.body, &token)); err != nil {
		return fmt.Errorf("decode the response from the login function: %w", err)
	}
	if token.RefreshToken == "" {
		return errors.New("the response from the login function contains no refresh token")
	}
	delete(members, "refresh_token")
	setCookie(w, r, token.RefreshToken)
	return respond.JSON(w, http.StatusOK, members)
}
