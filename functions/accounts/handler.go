package main

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// store contains the methods of accounts.Store that the accounts function uses.
type store interface {
	// The following methods read accounts and the audit trail.
	Current(ctx context.Context, id string, version int) (accounts.User, error)
	ByID(ctx context.Context, id string) (accounts.User, error)
	List(ctx context.Context, limit int, cursor string) (users []accounts.User, next string, err error)
	Audit(ctx context.Context, limit int, cursor string) (entries []accounts.AuditEntry, next string, err error)
	// The following methods change accounts on behalf of admins. Each method checks the admin's account again in
	// its transaction, because the account might have changed since the handler read it.
	Create(ctx context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error)
	Update(ctx context.Context, by accounts.Actor, id string, patch accounts.Patch) (accounts.User, error)
	Delete(ctx context.Context, by accounts.Actor, id string) error
	// The following methods are used when users change their own password. ChangePassword also checks the account
	// again in its transaction.
	Reserve(ctx context.Context, username string, address netip.Addr) (accounts.Settle, error)
	ChangePassword(ctx context.Context, by accounts.Actor, passwordHash string) error
}

// hasher is implemented by password.Hasher.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
	Verify(ctx context.Context, hash, password string) (ok, rehash bool, err error)
}

// handler serves /accounts and all paths below it.
type handler struct {
	store  store
	hasher hasher
	trust  client.Trust
}

// endpoint handles a request. The parameter caller is the client's account, as currently stored in the database.
type endpoint func(w http.ResponseWriter, r *http.Request, caller accounts.User) error

func newHandler(verifier *token.Verifier, store store, hasher hasher, trust client.Trust) http.Handler {
	h := &handler{store, hasher, trust}
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
	return routing.Table{
		"/accounts":             {http.MethodGet: admin(h.list), http.MethodPost: admin(h.create)},
		"/accounts/audit":       {http.MethodGet: admin(h.audit)},
		"/accounts/me":          {http.MethodGet: user(h.showMe)},
		"/accounts/me/password": {http.MethodPut: user(h.changePassword)},
		"/accounts/{id}":        {http.MethodGet: admin(h.show), http.MethodPatch: admin(h.update), http.MethodDelete: admin(h.delete)},
	}.Handler()
}

// caller returns the client's account. The error is token.ErrStale if the access token is no longer valid, and a
// problem.InsufficientScope if the account's role lacks one of the given scopes.
func (h *handler) caller(ctx context.Context, scopes []string) (accounts.User, error) {
	claims := token.Caller(ctx)
	// Read the account from the database, because it might have changed since the access token was issued.
	u, err := h.store.Current(ctx, claims.Subject, claims.Version)
	if err != nil {
		return accounts.User{}, err
	}
	// Check the current role's scopes, because the access token's scopes might be outdated. The token stays valid
	// even if an operator changes the role directly in the database.
	now := token.Claims{Scope: token.ScopesOf([]string{u.Role})}
	return u, now.Demand(scopes...)
}

// actor returns an accounts.Actor that identifies the caller as the author of a change. It includes the client's IP
// address and the request ID.
func (h *handler) actor(r *http.Request, caller accounts.User) accounts.Actor {
	return accounts.Actor{
		ID:        caller.ID,
		Username:  caller.Username,
		Version:   caller.TokenVersion,
		Address:   h.trust.Address(r),
		RequestID: function.RequestID(r.Context()),
	}
}

// account is a user in a JSON response.
type account struct {
	ID        string    `json:"id"`
	Username  string    `json:"username"`
	Role      string    `json:"role"`
	Disabled  bool      `json:"disabled"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func accountOf(u accounts.User) account {
	return account{u.ID, u.Username, u.Role, u.Disabled, u.CreatedAt, u.UpdatedAt}
}
