package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
)

// maxBody is the maximum size of a request body, in bytes.
const maxBody = 4 << 10

// userPage is the response body for a list of accounts. Next is the cursor for the next page, and is omitted on the
// last page.
type userPage struct {
	Accounts []account `json:"accounts"`
	Next     string    `json:"next,omitempty"`
}

func (h *handler) list(w http.ResponseWriter, r *http.Request, _ accounts.User) error {
	limit, cursor, err := paging(r)
	if err != nil {
		return err
	}
	users, next, err := h.store.List(r.Context(), limit, cursor)
	if err != nil {
		return err
	}
	page := userPage{make([]account, len(users)), next}
	for i, u := range users {
		page.Accounts[i] = accountOf(u)
	}
	return respond.JSON(w, http.StatusOK, page)
}

// paging returns the values of the query parameters "limit" and "cursor" in r. The default limit is
// accounts.DefaultLimit.
func paging(r *http.Request) (limit int, cursor string, err error) {
	query, err := request.Query(r, "limit", "cursor")
	if err != nil {
		return 0, "", err
	}
	limit = accounts.DefaultLimit
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil {
			return 0, "", problem.BadRequest.With("the limit must be a number from 1 to %d", accounts.MaxLimit)
		}
	}
	return limit, query.Get("cursor"), nil
}

func (h *handler) create(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	var given struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Role     string `json:"role"`
	}
	if err := request.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	hash, err := h.hash(r, given.Password, given.Username)
	if err != nil {
		return err
	}
	u, err := h.store.Create(r.Context(), h.actor(r, caller), accounts.NewUser{
		Username: given.Username, PasswordHash: hash, Role: given.Role, MustChangePassword: true})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/accounts/"+u.ID)
	return respond.JSON(w, http.StatusCreated, accountOf(u))
}

// hash returns the hash of a new password for the user with the given name. The error is a problem.Unprocessable if the
// password is not allowed.
func (h *handler) hash(r *http.Request, chosen, username string) (string, error) {
	if err := h.policy.Check(chosen, username); err != nil {
		return "", err
	}
	return h.hasher.Hash(r.Context(), chosen)
}

func (h *handler) show(w http.ResponseWriter, r *http.Request, _ accounts.User) error {
	u, err := h.store.ByID(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, accountOf(u))
}

func (h *handler) update(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	var given struct {
		Role     *string `json:"role,omitempty"`
		Disabled *bool   `json:"disabled,omitempty"`
		Password *string `json:"password,omitempty"`
	}
	if err := request.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	if given.Role == nil && given.Disabled == nil && given.Password == nil {
		return problem.BadRequest.With("the body must have at least one of the members role, disabled and password")
	}
	if given.Password != nil && r.PathValue("id") == caller.ID {
		// This endpoint does not require the current password.
		return problem.Unprocessable.With("change your own password at /accounts/me/password")
	}
	patch := accounts.Patch{Role: given.Role, Disabled: given.Disabled}
	if given.Password != nil {
		u, err := h.store.ByID(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		hash, err := h.hash(r, *given.Password, u.Username)
		if err != nil {
			return err
		}
		patch.PasswordHash = &hash
	}
	u, err := h.store.Update(r.Context(), h.actor(r, caller), r.PathValue("id"), patch)
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, accountOf(u))
}

func (h *handler) delete(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	if err := h.store.Delete(r.Context(), h.actor(r, caller), r.PathValue("id")); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// unlock handles DELETE /accounts/{id}/lockout.
func (h *handler) unlock(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	if err := h.store.Unlock(r.Context(), h.actor(r, caller), r.PathValue("id")); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// auditPage is the response body for a page of the audit trail. Next is the cursor for the next page, and is omitted on
// the last page.
type auditPage struct {
	Entries []auditEntry `json:"entries"`
	Next    string       `json:"next,omitempty"`
}

type auditEntry struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	Action    string    `json:"action"`
	Actor     party     `json:"actor"`
	Account   party     `json:"account"`
	Role      string    `json:"role,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	Address   string    `json:"address,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
	// ClientRequestID is the client's own ID for the request.
	ClientRequestID string `json:"client_request_id,omitempty"`
}

// party is the actor or the account in an audit entry.
type party struct {
	ID       string `json:"id,omitempty"` // empty if the actor is a program, such as setup, or unknown
	Username string `json:"username"`     // the user name at the time of the change, empty if the actor is unknown
}

// auditFilter returns the filter in the query parameters of r.
func auditFilter(r *http.Request) (f accounts.AuditFilter, err error) {
	query, err := request.Query(r, "username", "action", "from", "to")
	if err != nil {
		return f, err
	}
	f.Username, f.Action = query.Get("username"), query.Get("action")
	for name, at := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if text := query.Get(name); text != "" {
			if *at, err = time.Parse(time.RFC3339, text); err != nil {
				return f, problem.BadRequest.With("the parameter %s must be a time such as 2026-03-01T12:00:00Z (RFC 3339)", name)
			}
		}
	}
	return f, nil
}

func (h *handler) audit(w http.ResponseWriter, r *http.Request, _ accounts.User) error {
	limit, cursor, err := paging(r)
	if err != nil {
		return err
	}
	filter, err := auditFilter(r)
	if err != nil {
		return err
	}
	entries, next, err := h.store.Audit(r.Context(), filter, limit, cursor)
	if err != nil {
		return err
	}
	page := auditPage{make([]auditEntry, len(entries)), next}
	for i, e := range entries {
		page.Entries[i] = auditEntry{e.ID, e.MadeAt, e.Action, party{e.ActorID, e.ActorName}, party{e.UserID, e.Username},
			e.Role, e.Detail, e.Address, e.RequestID, e.ClientRequestID}
	}
	return respond.JSON(w, http.StatusOK, page)
}
