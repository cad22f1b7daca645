package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// accountStore contains the methods of accounts.Store that the login function uses.
type accountStore interface {
	ByUsername(ctx context.Context, username string) (accounts.User, error)
	ReplaceHash(ctx context.Context, id, oldHash, newHash string) error
	Reserve(ctx context.Context, username string, address netip.Addr) (accounts.Settle, error)
	StartSession(ctx context.Context, u accounts.User, lifetime time.Duration) (refresh string, err error)
	Refresh(ctx context.Context, refresh string) (u accounts.User, next string, err error)
	EndSession(ctx context.Context, refresh string, all bool, from accounts.Actor) error
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

// handler handles POST /login, POST /refresh and POST /logout. It handles POST / in the same way as POST /login.
type handler struct {
	store           accountStore
	hasher          hasher
	signer          signer
	trust           client.Trust
	sessionLifetime time.Duration
}

func newHandler(store accountStore, hasher hasher, signer signer, trust client.Trust, sessionLifetime time.Duration) http.Handler {
	h := &handler{store, hasher, signer, trust, sessionLifetime}
	login := problem.HandlerFunc(h.login)
	return routing.Table{
		"/":        {http.MethodPost: login},
		"/login":   {http.MethodPost: login},
		"/refresh": {http.MethodPost: problem.HandlerFunc(h.refresh)},
		"/logout":  {http.MethodPost: problem.HandlerFunc(h.logout)},
	}.Handler()
}

// hashWait limits the wait for a free slot in the password hasher. It is long enough for a burst of 200 sign-ins on
// one core, but shorter than clients' timeouts.
const hashWait = 8 * time.Second

// errBadCredentials is the error for a wrong password, an unknown user and a disabled user, so that a client cannot
// distinguish the three cases.
var errBadCredentials = problem.BadCredentials.With("check the user name and the password, and try again").
	// RFC 9110, Section 15.5.2, requires a challenge in a 401 response. A web page can avoid the browser's password
	// prompt by calling fetch with credentials: "omit".
	Header("WWW-Authenticate", `Basic realm="strongroom", charset="UTF-8"`)

// answer is the response body for a sign-in or a refresh. RFC 6749, section 5.1, defines all fields except User.
type answer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
	User         user   `json:"user"`
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
	case errors.Is(err, problem.BadCredentials):
		return telemetry.LoginRefused
	case errors.Is(err, problem.TooManyAttempts):
		return telemetry.LoginLocked
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
	account, err := h.authenticate(r.Context(), given, h.trust.Address(r))
	if err != nil {
		return err
	}
	refresh, err := h.store.StartSession(r.Context(), account, h.sessionLifetime)
	if err != nil {
		return err
	}
	return h.answer(w, account, refresh)
}

// answer sends the response to a sign-in or a refresh. The response contains a new access token for the account, and
// the given refresh token.
func (h *handler) answer(w http.ResponseWriter, account accounts.User, refresh string) error {
	roles := []string{account.Role}
	raw, claims, err := h.signer.Sign(token.Subject{ID: account.ID, Username: account.Username, Roles: roles, Version: account.TokenVersion})
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
	})
}

// authenticate returns the account to which the credentials belong. Before it rejects credentials, it computes exactly
// one password hash, so that the response time does not reveal the reason.
func (h *handler) authenticate(ctx context.Context, given credentials, address netip.Addr) (accounts.User, error) {
	settle, err := h.store.Reserve(ctx, given.username, address)
	switch {
	case errors.Is(err, problem.Unprocessable): // the user name is invalid, so no account can have it
		return accounts.User{}, h.refuse(ctx, given.password, errBadCredentials)
	case errors.Is(err, problem.TooManyAttempts):
		return accounts.User{}, h.refuse(ctx, given.password, err)
	case err != nil:
		return accounts.User{}, err
	}
	outcome := accounts.Undecided
	defer func() { settle.Record(ctx, outcome) }()
	account, err := h.store.ByUsername(ctx, given.username)
	known := err == nil
	if errors.Is(err, problem.NotFound) {
		account = accounts.User{PasswordHash: password.Dummy}
	} else if err != nil {
		return accounts.User{}, err
	}
	ok, rehash, err := h.hasher.Verify(ctx, account.PasswordHash, given.password)
	if errors.Is(err, password.ErrMalformed) {
		slog.ErrorContext(ctx, "cannot use the stored password hash", "user_id", account.ID, "error", err)
	} else if err != nil {
		return accounts.User{}, err
	}
	if !known || account.Disabled || !ok {
		outcome = accounts.Failed
		slog.InfoContext(ctx, "rejected sign-in", "user_id", account.ID, "disabled", account.Disabled, "address", address)
		return accounts.User{}, errBadCredentials
	}
	outcome = accounts.Succeeded
	if rehash {
		h.rehash(ctx, account, given.password)
	}
	return account, nil
}

// refuse computes one password hash before it returns err, so that the response takes as long as the response to a
// wrong password.
func (h *handler) refuse(ctx context.Context, given string, err error) error {
	if _, _, busy := h.hasher.Verify(ctx, password.Dummy, given); busy != nil {
		return busy
	}
	return err
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
