package main

import (
	"encoding/json"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/passkey"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// errNeedsSecondFactor is the error for a correct password of a user who needs a second factor and has a passkey.
var errNeedsSecondFactor = problem.NeedsSecondFactor.With("sign in with a passkey, or add a recovery_code to the user name and the password")

// passkeyOptions handles POST /login/passkey/options, which begins a sign-in with a passkey.
func (h *handler) passkeyOptions(w http.ResponseWriter, r *http.Request) error {
	options, err := h.passkeys.BeginSignIn(r)
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, options)
}

// loginWithPasskey handles POST /login/passkey and records the result in a metric.
func (h *handler) loginWithPasskey(w http.ResponseWriter, r *http.Request) error {
	err := h.signInWithPasskey(w, r)
	telemetry.Login(r.Context(), result(err))
	return err
}

func (h *handler) signInWithPasskey(w http.ResponseWriter, r *http.Request) error {
	var given struct {
		Credential json.RawMessage `json:"credential"`
	}
	if err := request.ReadJSON(w, r, passkey.MaxBody, &given); err != nil {
		return err
	}
	// Do not limit the attempts of an address. A passkey cannot be guessed, and a refused attempt takes no password hash.
	//
	// Do not require a new password of a user whose password an admin has reset. The passkey proves who the user is, and
	// the reset password still cannot be used without a change.
	account, err := h.passkeys.SignIn(r, h.store, given.Credential)
	if err != nil {
		return err
	}
	return h.begin(w, r, account, accounts.MethodPasskey, accounts.Changes{})
}

// methodOf returns the method of a sign-in with a correct password. The start of the session checks the recovery code.
// The error is a problem.NeedsSecondFactor if the user needs a second factor and has a passkey, but the code is empty. A
// user without a passkey signs in with the password, but gets an access token without scopes, with which the user can
// only manage their own account.
func methodOf(account accounts.User, recoveryCode string) (method string, err error) {
	switch {
	case recoveryCode != "":
		return accounts.MethodRecoveryCode, nil
	case account.SecondFactor && account.HasPasskey:
		return "", errNeedsSecondFactor
	}
	return accounts.MethodPassword, nil
}
