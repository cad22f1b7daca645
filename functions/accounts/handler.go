package main

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// The store is accounts.Store, by what it is used for.
type (
	// reader tells what is stored.
	reader interface {
		Current(ctx context.Context, id string, version int) (accounts.User, error)
		ByID(ctx context.Context, id string) (accounts.User, error)
		List(ctx context.Context, limit int, cursor string) (users []accounts.User, next string, err error)
		Audit(ctx context.Context, limit int, cursor string) (entries []accounts.AuditEntry, next string, err error)
	}
	// changer does what admins may do.
	changer interface {
		CreateBy(ctx context.Context, by accounts.Actor, username, passwordHash, role string) (accounts.User, error)
		Update(ctx context.Context, by accounts.Actor, id string, patch accounts.Patch) (accounts.User, error)
		Delete(ctx context.Context, by accounts.Actor, id string) error
	}
	// keeper guards the own password.
	keeper interface {
		Reserve(ctx context.Context, username string, address netip.Addr) (accounts.Settle, error)
		ChangePassword(ctx context.Context, by accounts.Actor, passwordHash string) error
	}
	store interface {
		reader
		changer
		keeper
	}
)

// hasher is what password.Hasher does.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
	Verify(ctx context.Context, hash, password string) (ok, rehash bool, err error)
}

// handler answers /accounts and what is below it.
//
// A token tells what its bearer was allowed when it was issued, and this function is where that is taken away: so it
// believes no token, but looks the bearer up on every request. A token whose account is gone, disabled or has another
// token version is void, whatever it says (401, invalid_token: signing in again may help). The account of a good token
// whose role is not admin, because somebody changed it in the database by hand, has not the scope (403,
// insufficient_scope). What admins change, package accounts does in a transaction in which they still are.
type handler struct {
	store  store
	hasher hasher
	trust  function.Trust
}

// endpoint answers the requests of a caller, as its account is now.
type endpoint func(w http.ResponseWriter, r *http.Request, caller accounts.User) error

// resource is what is at a path: what answers each method, and the scopes that all of them need.
type resource struct {
	methods map[string]endpoint
	scopes  []string
}

func newHandler(verifier *token.Verifier, store store, hasher hasher, trust function.Trust) http.Handler {
	h := &handler{store, hasher, trust}
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		found, err := h.route(r.URL.Path)
		if err != nil {
			return err
		}
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		answer, ok := found.methods[method]
		if !ok {
			allow := found.allow()
			return problem.MethodNotAllowed.With("use %s", allow).Header("Allow", allow)
		}
		verifier.Require(problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			caller, err := h.caller(r.Context(), found.scopes)
			if err != nil {
				return err
			}
			return answer(w, r, caller)
		}), found.scopes...).ServeHTTP(w, r)
		return nil
	})
}

// route returns what is at path.
func (h *handler) route(path string) (resource, error) {
	manage := []string{token.ScopeAccountsManage}
	switch path {
	case "/accounts":
		return resource{map[string]endpoint{http.MethodGet: h.list, http.MethodPost: h.create}, manage}, nil
	case "/accounts/audit":
		return resource{map[string]endpoint{http.MethodGet: h.audit}, manage}, nil
	case "/accounts/me":
		return resource{map[string]endpoint{http.MethodGet: h.showMe}, nil}, nil
	case "/accounts/me/password":
		return resource{map[string]endpoint{http.MethodPut: h.changePassword}, nil}, nil
	}
	id, below := strings.CutPrefix(path, "/accounts/")
	if !below || id == "" || strings.Contains(id, "/") {
		return resource{}, problem.NotFound.With("there is nothing at this path")
	}
	of := func(answer func(http.ResponseWriter, *http.Request, accounts.User, string) error) endpoint {
		return func(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
			return answer(w, r, caller, id)
		}
	}
	return resource{map[string]endpoint{
		http.MethodGet: of(h.show), http.MethodPatch: of(h.update), http.MethodDelete: of(h.delete),
	}, manage}, nil
}

// allow is the value of an Allow header.
func (f resource) allow() string {
	var names []string
	for _, name := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if f.methods[name] == nil {
			continue
		}
		names = append(names, name)
		if name == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	return strings.Join(names, ", ")
}

// caller returns the account of the request's token, if that is still as good as the token says.
func (h *handler) caller(ctx context.Context, scopes []string) (accounts.User, error) {
	claims := token.Caller(ctx)
	u, err := h.store.Current(ctx, claims.Subject, claims.Version)
	if err != nil {
		return accounts.User{}, err
	}
	now := token.Claims{Scope: token.ScopesOf([]string{u.Role})}
	return u, now.Demand(scopes...)
}

// actor returns caller as the audit trail names it.
func (h *handler) actor(r *http.Request, caller accounts.User) accounts.Actor {
	return accounts.Actor{
		ID:        caller.ID,
		Username:  caller.Username,
		Version:   caller.TokenVersion,
		Address:   h.trust.ClientAddress(r),
		RequestID: function.RequestID(r.Context()),
	}
}

// account is a user in an answer.
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
