package main

import (
	"context"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/passkey"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// store contains the methods of accounts.Store that the accounts function uses.
type store interface {
	// The following methods read accounts and the audit trail.
	Current(ctx context.Context, claims *token.Claims) (accounts.User, error)
	ByID(ctx context.Context, id string) (accounts.User, error)
	List(ctx context.Context, limit int, cursor string) (users []accounts.User, next string, err error)
	Audit(ctx context.Context, filter accounts.AuditFilter, limit int, cursor string) (entries []accounts.AuditEntry, next string, err error)
	// The following methods change accounts on behalf of admins. Each method checks the admin's account again in
	// its transaction, because the account might have changed since the handler read it.
	Create(ctx context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error)
	Update(ctx context.Context, by accounts.Actor, id string, patch accounts.Patch) (accounts.User, error)
	Delete(ctx context.Context, by accounts.Actor, id string) error
	Unlock(ctx context.Context, by accounts.Actor, id string) error
	// The following methods are used when users change their own password. ChangePassword also checks the account
	// again in its transaction.
	Attempt(ctx context.Context, a accounts.Attempt, compare func(ctx context.Context, u accounts.User) (bool, error)) (accounts.User, error)
	ChangePassword(ctx context.Context, by accounts.Actor, passwordHash string) (accounts.User, error)
	// The following methods list and end the sessions of a user.
	Sessions(ctx context.Context, user string) ([]accounts.Session, error)
	EndOwnSession(ctx context.Context, by accounts.Actor, session string) error
	EndOtherSessions(ctx context.Context, by accounts.Actor, session string) error
	EndSessions(ctx context.Context, by accounts.Actor, user string) error // by an admin
	// The following methods read and change passkeys, recovery codes and the roles that require a second factor. The
	// methods that change them check the actor's account again.
	Passkeys(ctx context.Context, userID string) (passkeys []accounts.Passkey, codes int, err error)
	AddPasskey(ctx context.Context, by accounts.Actor, p accounts.Passkey, c accounts.Challenge) (accounts.Passkey, error)
	RenamePasskey(ctx context.Context, by accounts.Actor, id, name string) (accounts.Passkey, error)
	RemovePasskey(ctx context.Context, by accounts.Actor, id string) error
	RemovePasskeys(ctx context.Context, by accounts.Actor, userID string) error
	ReplaceRecoveryCodes(ctx context.Context, by accounts.Actor) (codes []string, err error)
	SecondFactors(ctx context.Context) (roles []string, err error)
	SetSecondFactors(ctx context.Context, by accounts.Actor, roles []string) error
}

// hasher is implemented by password.Hasher.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
	Verify(ctx context.Context, hash, password string) (ok, rehash bool, err error)
}

// handler serves /accounts, /sessions and all paths below them.
type handler struct {
	store    store
	hasher   hasher
	policy   password.Policy
	passkeys *passkey.Ceremonies
	now      func() time.Time
}

// endpoint handles a request. The parameter caller is the client's account, as currently stored in the database.
type endpoint func(w http.ResponseWriter, r *http.Request, caller accounts.User) error

func newHandler(verifier *token.Verifier, store store, hasher hasher, policy password.Policy, trust client.Trust, now func() time.Time) http.Handler {
	h := &handler{store, hasher, policy, passkey.New(trust, now), now}
	user := func(serve endpoint, scopes ...string) http.Handler {
		return verifier.Require(problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			caller, err := h.caller(r.Context(), scopes)
			if err == nil {
				err = serve(w, r, caller)
			}
			return token.Challenge(err)
		}), scopes...)
	}
	admin := func(serve endpoint) http.Handler { return user(serve, token.ScopeAccountsManage) }
	// A change of an account outlives the admin's access token. It therefore requires a recent sign-in, so that a stolen
	// access token is not enough.
	change := func(serve endpoint) http.Handler { return admin(h.recent(serve)) }
	own := func(serve endpoint) http.Handler { return user(h.recent(h.ownPasskeys(serve))) }
	return routing.Table{
		"/accounts":                     {http.MethodGet: admin(h.list), http.MethodPost: change(h.create)},
		"/accounts/audit":               {http.MethodGet: admin(h.audit)},
		"/accounts/me":                  {http.MethodGet: user(h.showMe)},
		"/accounts/me/password":         {http.MethodPut: user(h.changePassword)},
		"/sessions":                     {http.MethodGet: user(h.listSessions), http.MethodDelete: user(h.recent(h.endOtherSessions))},
		"/sessions/{id}":                {http.MethodDelete: user(h.recent(h.endSession))},
		"/accounts/me/passkeys":         {http.MethodGet: user(h.listPasskeys), http.MethodPost: own(h.addPasskey)},
		"/accounts/me/passkeys/options": {http.MethodPost: own(h.passkeyOptions)},
		"/accounts/me/passkeys/{id}":    {http.MethodPatch: own(h.renamePasskey), http.MethodDelete: own(h.removePasskey)},
		"/accounts/me/recovery-codes":   {http.MethodPost: own(h.createRecoveryCodes)},
		"/accounts/{id}/passkeys":       {http.MethodDelete: change(h.removePasskeys)},
		"/accounts/second-factor":       {http.MethodGet: admin(h.showSecondFactors), http.MethodPut: change(h.setSecondFactors)},
		"/accounts/{id}":                {http.MethodGet: admin(h.show), http.MethodPatch: change(h.update), http.MethodDelete: change(h.delete)},
		"/accounts/{id}/lockout":        {http.MethodDelete: change(h.unlock)},
		"/accounts/{id}/sessions":       {http.MethodDelete: change(h.endSessionsOf)},
	}.Handler()
}

// recent returns an endpoint that requires a recent sign-in (see token.Claims.DemandRecent) and then calls next.
func (h *handler) recent(next endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
		if err := token.Caller(r.Context()).DemandRecent(h.now()); err != nil {
			return err
		}
		return next(w, r, caller)
	}
}

// caller returns the client's account. The error is token.ErrStale if the access token is no longer valid, and a
// problem.InsufficientScope if the account's role lacks one of the given scopes.
func (h *handler) caller(ctx context.Context, scopes []string) (accounts.User, error) {
	claims := token.Caller(ctx)
	// Read the account from the database, because it might have changed, and the session might have ended, since the
	// access token was issued.
	u, err := h.store.Current(ctx, claims)
	if err != nil {
		return accounts.User{}, err
	}
	// Check the current role's scopes, because the access token's scopes might be outdated. The token stays valid
	// even if an operator changes the role directly in the database.
	now := token.Claims{Scope: token.ScopesOf(u.Roles(claims.ACR))}
	return u, now.Demand(scopes...)
}

// actor returns an accounts.Actor that identifies the caller as the author of a change. It includes the client's IP
// address and the request ID.
func (h *handler) actor(r *http.Request, caller accounts.User) accounts.Actor {
	from := request.OriginOf(r.Context())
	return accounts.Actor{
		ID:        caller.ID,
		Username:  caller.Username,
		Version:   caller.TokenVersion,
		Address:   from.Address,
		RequestID: from.ID,
	}
}

// account is a user in a JSON response.
type account struct {
	ID         string    `json:"id"`
	Username   string    `json:"username"`
	Role       string    `json:"role"`
	Disabled   bool      `json:"disabled"`
	HasPasskey bool      `json:"has_passkey"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
}

func accountOf(u accounts.User) account {
	return account{u.ID, u.Username, u.Role, u.Disabled, u.HasPasskey, u.CreatedAt, u.UpdatedAt}
}
