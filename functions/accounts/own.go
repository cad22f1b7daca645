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

var errUnchanged = problem.Unprocessable.With("the new password must differ from the current password")

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
	// Check the new password first, because prove counts a login attempt.
	if password.Same(given.New, given.Current) {
		return errUnchanged
	}
	if err := h.policy.Check(given.New, caller.Username); err != nil {
		return err
	}
	by := h.actor(r, caller)
	if err := h.prove(r.Context(), caller, by, r.Header.Get(accounts.HeaderDevice), given.Current); err != nil {
		return err
	}
	hash, err := h.hasher.Hash(r.Context(), given.New)
	if err != nil {
		return err
	}
	// ChangePassword also ends all sessions of the account and invalidates all of its access tokens, so that a
	// thief with a stolen token loses access.
	if _, err := h.store.ChangePassword(r.Context(), by, hash); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// prove returns errWrongPassword if the given password is not the caller's current password.
func (h *handler) prove(ctx context.Context, caller accounts.User, by accounts.Actor, device, given string) error {
	// Count a sign-in attempt, so that a thief with a stolen access token can try only a limited number of passwords.
	attempt := accounts.Attempt{Username: caller.Username, Address: by.Address, Device: device}
	_, err := h.store.Attempt(ctx, attempt, func(ctx context.Context, u accounts.User) (ok bool, err error) {
		ok, _, err = h.hasher.Verify(ctx, u.PasswordHash, given)
		if errors.Is(err, password.ErrMalformed) {
			slog.ErrorContext(ctx, "cannot use the stored password hash", "user_id", u.ID, "error", err)
			return false, nil
		}
		return ok && u.ID == caller.ID, err // another user can have the name of a deleted user
	})
	reason := "locked"
	switch {
	case errors.Is(err, accounts.ErrBadCredentials):
		reason, err = "wrong password", errWrongPassword
	case !errors.Is(err, problem.TooManyAttempts):
		return err
	}
	slog.InfoContext(ctx, "rejected password change", "event", "password.refused", "reason", reason, "user_id", caller.ID,
		"address", by.Address)
	return err
}
