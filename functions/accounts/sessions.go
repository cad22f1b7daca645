package main

import (
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// session is a session of the caller in a JSON response.
type session struct {
	ID         string    `json:"id"`
	Current    bool      `json:"current"` // the access token of the request belongs to this session
	Method     string    `json:"method"`
	Device     string    `json:"device,omitempty"`
	Address    string    `json:"address,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at"`
	ExpiresAt  time.Time `json:"expires_at"`
}

// listSessions handles GET /sessions.
func (h *handler) listSessions(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	all, err := h.store.Sessions(r.Context(), caller.ID)
	if err != nil {
		return err
	}
	listed := make([]session, len(all))
	for i, s := range all {
		listed[i] = session{s.ID, s.ID == token.Caller(r.Context()).Session, s.Method, s.Device, "", s.StartedAt, s.LastUsedAt, s.ExpiresAt}
		if s.Address.IsValid() {
			listed[i].Address = s.Address.String()
		}
	}
	return respond.JSON(w, http.StatusOK, map[string][]session{"sessions": listed})
}

// endOtherSessions handles DELETE /sessions, which ends all sessions of the caller except the current session.
func (h *handler) endOtherSessions(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	if err := h.store.EndOtherSessions(r.Context(), h.actor(r, caller), token.Caller(r.Context()).Session); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// endSessionsOf handles DELETE /accounts/{id}/sessions. An admin ends all sessions of a user whose device was stolen.
func (h *handler) endSessionsOf(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	if err := h.store.EndSessions(r.Context(), h.actor(r, caller), r.PathValue("id")); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// endSession handles DELETE /sessions/{id}.
func (h *handler) endSession(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	if err := h.store.EndOwnSession(r.Context(), h.actor(r, caller), r.PathValue("id")); err != nil {
		return err
	}
	return respond.NoContent(w)
}
