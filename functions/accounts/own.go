package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// settleTimeout bounds the noting of an outcome, which goes on when the client is gone.
const settleTimeout = 3 * time.Second

// errWrongPassword is not a 401: the token is good, and a client must not take it for one that has expired.
var errWrongPassword = problem.WrongPassword.With("check it and try again")

func (h *handler) showMe(w http.ResponseWriter, _ *http.Request, caller accounts.User) error {
	return problem.JSON(w, http.StatusOK, accountOf(caller))
}

// changePassword gives the caller another password. It ends the sessions of the account and makes its tokens void, the
// one that came along, too: who has just changed the password can sign in, and who had stolen a token can not.
func (h *handler) changePassword(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	var given struct {
		Current *string `json:"current_password"`
		New     *string `json:"new_password"`
	}
	if err := function.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	if given.Current == nil || given.New == nil {
		return problem.BadRequest.With("give the current_password and the new_password")
	}
	if err := password.Check(*given.New); err != nil { // before an attempt is spent
		return err
	}
	by := h.actor(r, caller)
	if err := h.prove(r.Context(), caller, by, *given.Current); err != nil {
		return err
	}
	hash, err := h.hasher.Hash(r.Context(), *given.New)
	if err != nil {
		return err
	}
	if err := h.store.ChangePassword(r.Context(), by, hash); err != nil {
		return err
	}
	noContent(w)
	return nil
}

// prove compares the current password of caller. Attempts are counted as login counts them: a stolen token must not be
// a way to guess a password without end.
func (h *handler) prove(ctx context.Context, caller accounts.User, by accounts.Actor, given string) error {
	settle, err := h.store.Reserve(ctx, caller.Username, by.Address)
	if err != nil {
		return err
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
	ok, _, err := h.hasher.Verify(ctx, caller.PasswordHash, given)
	if errors.Is(err, password.ErrMalformed) {
		slog.ErrorContext(ctx, "a stored password hash can not be used", "user_id", caller.ID, "error", err)
	} else if err != nil {
		return err
	}
	if !ok {
		outcome = accounts.Failed
		slog.InfoContext(ctx, "change of password refused", "user_id", caller.ID, "address", by.Address)
		return errWrongPassword
	}
	outcome = accounts.Succeeded
	return nil
}
