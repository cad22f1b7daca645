package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
)

// errWrongPassword has status 403 instead of 401, because a client might take a 401 to mean that its access token
// has expired.
var errWrongPassword = problem.WrongPassword.With("check the current password and try again")

func (h *handler) showMe(w http.ResponseWriter, _ *http.Request, caller accounts.User) error {
	return respond.JSON(w, http.StatusOK, accountOf(caller))
}

// changePassword handles PUT /accounts/me/password.
func (h *handler) changePassword(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	var given struct {
		Current string `json:"current_password"`
		New     string `json:"new_password"`
	}
	if err := request.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	if err := password.Check(given.New); err != nil { // checked first, because prove counts a login attempt
		return err
	}
	by := h.actor(r, caller)
	if err := h.prove(r.Context(), caller, by, given.Current); err != nil {
		return err
	}
	hash, err := h.hasher.Hash(r.Context(), given.New)
	if err != nil {
		return err
	}
	// ChangePassword also ends all sessions of the account and invalidates all of its access tokens, so that a
	// thief with a stolen token loses access.
	if err := h.store.ChangePassword(r.Context(), by, hash); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// prove returns errWrongPassword if the given password is not the caller's current password.
func (h *handler) prove(ctx context.Context, caller accounts.User, by accounts.Actor, given string) error {
	// Count a login attempt, so that a thief with a stolen access token can try only a limited number of passwords.
	settle, err := h.store.Reserve(ctx, caller.Username, by.Address)
	if err != nil {
		return err
	}
	outcome := accounts.Undecided
	defer func() { settle.Record(ctx, outcome) }()
	ok, _, err := h.hasher.Verify(ctx, caller.PasswordHash, given)
	if errors.Is(err, password.ErrMalformed) {
		slog.ErrorContext(ctx, "cannot use the stored password hash", "user_id", caller.ID, "error", err)
	} else if err != nil {
		return err
	}
	if !ok {
		outcome = accounts.Failed
		slog.InfoContext(ctx, "rejected password change", "user_id", caller.ID, "address", by.Address)
		return errWrongPassword
	}
	outcome = accounts.Succeeded
	return nil
}
