package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/passkey"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// accountStore contains the methods of accounts.Store that the login function uses.
type accountStore interface {
	Attempt(ctx context.Context, a accounts.Attempt, compare func(ctx context.Context, u accounts.User) (bool, error)) (accounts.User, error)
	DeviceToken(u accounts.User, given string) (string, error)
	ReplaceHash(ctx context.Context, id, oldHash, newHash string) error
	StartSession(ctx context.Context, u accounts.User, in accounts.SignIn, lifetimes accounts.Lifetimes) (session accounts.Session, refresh string, err error)
	Refresh(ctx context.Context, refresh string, lifetimes accounts.Lifetimes) (u accounts.User, session accounts.Session, next string, err error)
	ChangeAndStartSession(ctx context.Context, u accounts.User, changes accounts.Changes, in accounts.SignIn, lifetimes accounts.Lifetimes) (changed accounts.User, session accounts.Session, refresh string, err error)
	EndSession(ctx context.Context, refresh string, all bool, from accounts.Actor) error
	passkey.Store
}

// hasher contains the methods of password.Hasher that the login function uses.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
	Verify(ctx context.Context, hash, password string) (ok, rehash bool, err error)
}

// signer contains the method of token.Signer that the login function uses.
type signer interface {
	Sign(subject token.Subject) (raw string, claims *token.Claims, err error)
}

// handler handles POST /login, POST /refresh, POST /logout, and the paths below /login/passkey. It handles POST / in
// the same way as POST /login.
type handler struct {
	store     accountStore
	hasher    hasher
	signer    signer
	policy    password.Policy
	lifetimes accounts.Lifetimes // of sessions
	passkeys  *passkey.Ceremonies
}

func newHandler(store accountStore, hasher hasher, signer signer, policy password.Policy, trust client.Trust, lifetimes accounts.Lifetimes) http.Handler {
	h := &handler{store, hasher, signer, policy, lifetimes, passkey.New(trust, time.Now)}
	login := problem.HandlerFunc(h.login)
	return routing.Table{
		"/":                      {http.MethodPost: login},
		"/login":                 {http.MethodPost: login},
		"/login/passkey":         {http.MethodPost: problem.HandlerFunc(h.loginWithPasskey)},
		"/login/passkey/options": {http.MethodPost: problem.HandlerFunc(h.passkeyOptions)},
		"/refresh":               {http.MethodPost: problem.HandlerFunc(h.refresh)},
		"/logout":                {http.MethodPost: problem.HandlerFunc(h.logout)},
	}.Handler()
}

// hashWait limits the wait for a free slot in the password hasher. It is long enough for a burst of 200 sign-ins on
// one core, but shorter than clients' timeouts.
const hashWait = 8 * time.Second

// errBadCredentials is the error for a wrong or expired password, an unknown user and a disabled user, so that a client
// cannot distinguish these cases.
var errBadCredentials = problem.BadCredentials.With("check the user name and the password, and try again").
	// RFC 9110, Section 15.5.2, requires a challenge in a 401 response. A web page can avoid the browser's password
	// prompt by calling fetch with credentials: "omit".
	Header("WWW-Authenticate", `Basic realm="strongroom", charset="UTF-8"`)

var (
	// errMustChange is the error for a correct password that another person has set.
	errMustChange = problem.PasswordChange.With("send the new password as new_password, together with the user name and the current password")
	errUnchanged  = problem.Unprocessable.With("the new password must differ from the current password")
)

// answer is the response body for a sign-in or a refresh. RFC 6749, section 5.1, defines all fields except User and
// DeviceToken.
type answer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
	User         user   `json:"user"`
	DeviceToken  string `json:"device_token,omitempty"` // only after a sign-in
}

type user struct {
	ID       string   `json:"id"`
	Username string   `json:"username"`
	Roles    []string `json:"roles"`
}

// login handles POST /login and records the result in a metric.
func (h *handler) login(w http.ResponseWriter, r *http.Request) error {
	err := h.signIn(w, r)
	telemetry.Login(r.Context(), result(err))
	return err
}

// result returns the metric label for a sign-in that ended with err. If err is nil, the sign-in succeeded.
func result(err error) telemetry.LoginResult {
	switch {
	case err == nil:
		return telemetry.LoginSuccess
	case errors.Is(err, problem.BadCredentials), errors.Is(err, problem.BadPasskey), errors.Is(err, problem.NeedsSecondFactor):
		return telemetry.LoginRefused
	case errors.Is(err, problem.TooManyAttempts):
		return telemetry.LoginLocked
	case errors.Is(err, problem.PasswordChange):
		return telemetry.LoginMustChange
	case problem.Status(err) < 500:
		return telemetry.LoginMalformed
	}
	return telemetry.LoginUnavailable
}

func (h *handler) signIn(w http.ResponseWriter, r *http.Request) error {
	given, err := readCredentials(w, r)
	if err != nil {
		return err
	}
	if given.newPassword != nil {
		if password.Same(*given.newPassword, given.password) {
			return errUnchanged
		}
		if err := h.policy.Check(*given.newPassword, given.username); err != nil {
			return err
		}
	}
	account, err := h.authenticate(r.Context(), given, r.Header.Get(accounts.HeaderDevice))
	if err != nil {
		return err
	}
	if account.MustChangePassword && given.newPassword == nil {
		logRefusal(r.Context(), account, "password must be changed")
		return errMustChange
	}
	method, err := methodOf(account, given.recoveryCode)
	changes := accounts.Changes{RecoveryCode: given.recoveryCode}
	if err == nil && given.newPassword != nil {
		changes.PasswordHash, err = h.hasher.Hash(r.Context(), *given.newPassword)
	}
	if err == nil {
		err = h.begin(w, r, account, method, changes)
	}
	if errors.Is(err, problem.NeedsSecondFactor) {
		logRefusal(r.Context(), account, "no second factor")
	}
	return err
}

// begin makes the changes, starts a session for a user who signed in with the given method, and sends the response to the
// sign-in.
func (h *handler) begin(w http.ResponseWriter, r *http.Request, account accounts.User, method string, changes accounts.Changes) error {
	deviceToken, err := h.store.DeviceToken(account, r.Header.Get(accounts.HeaderDevice))
	if err != nil {
		return err
	}
	in := accounts.SignIn{Method: method, Address: request.OriginOf(r.Context()).Address, Device: device(r.UserAgent())}
	var session accounts.Session
	var refresh string
	changed := account
	if changes == (accounts.Changes{}) {
		session, refresh, err = h.store.StartSession(r.Context(), account, in, h.lifetimes)
	} else {
		changed, session, refresh, err = h.store.ChangeAndStartSession(r.Context(), account, changes, in, h.lifetimes)
	}
	if errors.Is(err, token.ErrStale) { // the account has changed since authenticate compared the password
		logRefusal(r.Context(), account, "account has changed")
		return errBadCredentials
	}
	if err != nil {
		return err
	}
	return h.answer(w, r, changed, session, refresh, deviceToken)
}

// answer sends the response to a sign-in or a refresh. The response contains a new access token for the account and the
// session, the given refresh token, and the given device token unless it is empty.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, account accounts.User, session accounts.Session, refresh, deviceToken string) error {
	request.OriginOf(r.Context()).UserID = account.ID // for the log
	roles := account.Roles(session.ACR())
	raw, claims, err := h.signer.Sign(token.Subject{ID: account.ID, Username: account.Username, Roles: roles, Version: account.TokenVersion,
		Session: session.ID, AuthTime: session.StartedAt, ACR: session.ACR()})
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, answer{
		AccessToken:  raw,
		TokenType:    "Bearer",
		ExpiresIn:    int64(claims.ExpiresAt.Sub(claims.IssuedAt) / time.Second),
		RefreshToken: refresh,
		Scope:        claims.Scope,
		User:         user{account.ID, account.Username, roles},
		DeviceToken:  deviceToken,
	})
}

// authenticate returns the account to which the credentials belong. Before it rejects credentials, it computes exactly
// one password hash, so that the response time does not reveal the reason. It computes no hash if the client must wait,
// because the response is then the same for every user name.
func (h *handler) authenticate(ctx context.Context, given credentials, device string) (accounts.User, error) {
	outdated := false
	attempt := accounts.Attempt{Username: given.username, Address: request.OriginOf(ctx).Address, Device: device}
	account, err := h.store.Attempt(ctx, attempt, func(ctx context.Context, u accounts.User) (ok bool, err error) {
		ok, outdated, err = h.hasher.Verify(ctx, u.PasswordHash, given.password)
		if errors.Is(err, password.ErrMalformed) {
			slog.ErrorContext(ctx, "cannot use the stored password hash", "user_id", u.ID, "error", err)
			return false, nil
		}
		return ok, err
	})
	switch {
	case errors.Is(err, problem.TooManyAttempts):
		logRefusal(ctx, account, "locked")
	case errors.Is(err, accounts.ErrBadCredentials):
		reason := "wrong password"
		if account.ID == "" {
			reason = "unknown user"
		} else if account.Disabled {
			reason = "disabled"
		} else if account.PasswordExpired(time.Now()) {
			reason = "password expired"
		}
		logRefusal(ctx, account, reason)
		return accounts.User{}, errBadCredentials
	}
	if err == nil && outdated {
		h.rehash(ctx, account, given.password)
	}
	return account, err
}

// logRefusal logs a refused sign-in. It does not log the user name, because users sometimes type a password into the
// user name field. If the account does not exist, its ID is empty.
func logRefusal(ctx context.Context, account accounts.User, reason string) {
	slog.InfoContext(ctx, "rejected sign-in", "event", "signin.refused", "reason", reason, "user_id", account.ID,
		"address", request.OriginOf(ctx).Address)
}

// rehash replaces the user's stored password hash with a new hash that has the current parameters.
func (h *handler) rehash(ctx context.Context, account accounts.User, given string) {
	hash, err := h.hasher.Hash(ctx, given)
	if err == nil {
		err = h.store.ReplaceHash(ctx, account.ID, account.PasswordHash, hash)
	}
	if err != nil {
		// Only log the error, because the user can still sign in with the old hash, and the next sign-in calls rehash
		// again.
		slog.WarnContext(ctx, "could not replace outdated password hash", "user_id", account.ID, "error", err)
	}
}
