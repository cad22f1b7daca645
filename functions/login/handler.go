package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// accountStore is what accounts.Store does for a login.
type accountStore interface {
	ByUsername(ctx context.Context, username string) (accounts.User, error)
	ReplaceHash(ctx context.Context, id, old, next string) error
	Reserve(ctx context.Context, username string, address netip.Addr) (accounts.Settle, error)
	StartSession(ctx context.Context, u accounts.User, lifetime time.Duration) (refresh string, err error)
	Refresh(ctx context.Context, refresh string) (u accounts.User, next string, err error)
	EndSession(ctx context.Context, refresh string, all bool, from accounts.Actor) error
}

// hasher is what password.Hasher does.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
	Verify(ctx context.Context, hash, password string) (ok, rehash bool, err error)
}

// signer is what token.Signer does.
type signer interface {
	Sign(subject token.Subject) (raw string, claims *token.Claims, err error)
}

// handler answers POST /login, which is also at /, POST /refresh and POST /logout.
type handler struct {
	store           accountStore
	hasher          hasher
	signer          signer
	trust           function.Trust
	sessionLifetime time.Duration
}

func newHandler(store accountStore, hasher hasher, signer signer, trust function.Trust, sessionLifetime time.Duration) http.Handler {
	h := &handler{store, hasher, signer, trust, sessionLifetime}
	return problem.HandlerFunc(h.route)
}

// settleTimeout bounds the noting of an outcome, which goes on when the client is gone.
const settleTimeout = 5 * time.Second

// errBadCredentials is the one answer to a wrong password, an unknown user and a disabled one. RFC 9110 §15.5.2 wants
// a challenge; a web page that must not have the browser ask calls fetch with credentials: "omit".
var errBadCredentials = problem.BadCredentials.With("check both and try again").
	Header("WWW-Authenticate", `Basic realm="strongroom", charset="UTF-8"`)

// answer is what a client gets that signed in; its upper part is RFC 6749 §5.1.
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

func (h *handler) route(w http.ResponseWriter, r *http.Request) error {
	endpoints := map[string]problem.HandlerFunc{"/": h.login, "/login": h.login, "/refresh": h.refresh, "/logout": h.logout}
	endpoint := endpoints[r.URL.Path]
	if endpoint == nil {
		return problem.NotFound.With("there is nothing at this path")
	}
	if r.Method != http.MethodPost {
		return problem.MethodNotAllowed.With("use POST").Header("Allow", http.MethodPost)
	}
	return endpoint(w, r)
}

// login answers POST /login.
func (h *handler) login(w http.ResponseWriter, r *http.Request) error {
	err := h.signIn(w, r)
	telemetry.Login(r.Context(), result(err))
	return err
}

// result is what metrics call what came of a sign-in.
func result(err error) string {
	switch {
	case err == nil:
		return "success"
	case errors.Is(err, problem.BadCredentials):
		return "refused"
	case errors.Is(err, problem.TooManyAttempts):
		return "locked"
	case problem.Status(err) < 500:
		return "malformed"
	}
	return "unavailable"
}

func (h *handler) signIn(w http.ResponseWriter, r *http.Request) error {
	given, err := readCredentials(w, r)
	if err != nil {
		return err
	}
	account, err := h.authenticate(r.Context(), given, h.trust.ClientAddress(r))
	if err != nil {
		return err
	}
	refresh, err := h.store.StartSession(r.Context(), account, h.sessionLifetime)
	if err != nil {
		return err
	}
	return h.answer(w, account, refresh)
}

// answer gives account an access token, and refresh to get the next one with.
func (h *handler) answer(w http.ResponseWriter, account accounts.User, refresh string) error {
	roles := []string{account.Role}
	raw, claims, err := h.signer.Sign(token.Subject{ID: account.ID, Username: account.Username, Roles: roles, Version: account.TokenVersion})
	if err != nil {
		return err
	}
	return problem.JSON(w, http.StatusOK, answer{
		AccessToken:  raw,
		TokenType:    "Bearer",
		ExpiresIn:    int64(claims.ExpiresAt.Sub(claims.IssuedAt) / time.Second),
		RefreshToken: refresh,
		Scope:        claims.Scope,
		User:         user{account.ID, account.Username, roles},
	})
}

// authenticate returns the user whose credentials these are. Whatever the reason to refuse them, exactly one hash is
// computed, so that the time it takes tells nothing.
func (h *handler) authenticate(ctx context.Context, given credentials, address netip.Addr) (accounts.User, error) {
	settle, err := h.store.Reserve(ctx, given.username, address)
	switch {
	case errors.Is(err, problem.Unprocessable): // nobody can have such a name
		return accounts.User{}, h.refuse(ctx, given.password, errBadCredentials)
	case errors.Is(err, problem.TooManyAttempts):
		return accounts.User{}, h.refuse(ctx, given.password, err)
	case err != nil:
		return accounts.User{}, err
	}
	outcome := accounts.Undecided
	defer func() {
		// A client that leaves before its answer does not get the attempt back.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		if err := settle(ctx, outcome); err != nil {
			slog.WarnContext(ctx, "the attempt counts as failed until it is forgotten", "error", err)
		}
	}()
	account, err := h.store.ByUsername(ctx, given.username)
	known := err == nil
	if errors.Is(err, problem.NotFound) {
		account = accounts.User{PasswordHash: password.Dummy}
	} else if err != nil {
		return accounts.User{}, err
	}
	ok, rehash, err := h.hasher.Verify(ctx, account.PasswordHash, given.password)
	if errors.Is(err, password.ErrMalformed) {
		slog.ErrorContext(ctx, "a stored password hash can not be used", "user_id", account.ID, "error", err)
	} else if err != nil {
		return accounts.User{}, err
	}
	if !known || account.Disabled || !ok {
		outcome = accounts.Failed
		slog.InfoContext(ctx, "sign-in refused", "user_id", account.ID, "disabled", account.Disabled, "address", address)
		return accounts.User{}, errBadCredentials
	}
	outcome = accounts.Succeeded
	if rehash {
		h.rehash(ctx, account, given.password)
	}
	return account, nil
}

// refuse returns err after as much work as a comparison is.
func (h *handler) refuse(ctx context.Context, given string, err error) error {
	if _, _, busy := h.hasher.Verify(ctx, password.Dummy, given); busy != nil {
		return busy
	}
	return err
}

// rehash stores the password's hash with the parameters of today. That it fails is no reason to refuse the login: the
// next one tries again.
func (h *handler) rehash(ctx context.Context, account accounts.User, given string) {
	hash, err := h.hasher.Hash(ctx, given)
	if err == nil {
		err = h.store.ReplaceHash(ctx, account.ID, account.PasswordHash, hash)
	}
	if err != nil {
		slog.WarnContext(ctx, "the password hash keeps its old parameters", "user_id", account.ID, "error", err)
	}
}
