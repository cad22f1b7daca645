package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/passkey"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/token"
)

var (
	errNeedsPasskey = problem.NeedsSecondFactor.With("sign in with a passkey or with a recovery code")
	errLocksOut     = problem.NeedsSecondFactor.With("before you require a second factor for your own role, sign in with a passkey")
)

// ownPasskeys returns an endpoint that changes the caller's passkeys or recovery codes. If the caller needs a second
// factor, the sign-in must have included it, unless the caller has no passkey yet.
func (h *handler) ownPasskeys(next endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
		if caller.SecondFactor && caller.HasPasskey && token.Caller(r.Context()).ACR != token.ACRMultiFactor {
			return errNeedsPasskey
		}
		return next(w, r, caller)
	}
}

// passkeyList is the response body for the list of the caller's passkeys.
type passkeyList struct {
	Passkeys      []passkeyInfo `json:"passkeys"`
	RecoveryCodes int           `json:"recovery_codes"` // the number of unused recovery codes
	SecondFactor  bool          `json:"second_factor"`  // the caller's role requires a second factor
}

// passkeyInfo is a passkey in a JSON response.
type passkeyInfo struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Domain    string     `json:"domain"`
	CreatedAt time.Time  `json:"created_at"`
	UsedAt    *time.Time `json:"used_at,omitempty"`
}

func infoOf(p accounts.Passkey) passkeyInfo {
	info := passkeyInfo{ID: p.ID, Name: p.Name, Domain: p.Party, CreatedAt: p.CreatedAt}
	if !p.UsedAt.IsZero() {
		info.UsedAt = &p.UsedAt
	}
	return info
}

// listPasskeys handles GET /accounts/me/passkeys.
func (h *handler) listPasskeys(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	passkeys, codes, err := h.store.Passkeys(r.Context(), caller.ID)
	if err != nil {
		return err
	}
	list := passkeyList{make([]passkeyInfo, len(passkeys)), codes, caller.SecondFactor}
	for i, p := range passkeys {
		list.Passkeys[i] = infoOf(p)
	}
	return respond.JSON(w, http.StatusOK, list)
}

// passkeyOptions handles POST /accounts/me/passkeys/options, which begins the registration of a passkey.
func (h *handler) passkeyOptions(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	existing, _, err := h.store.Passkeys(r.Context(), caller.ID)
	if err != nil {
		return err
	}
	options, err := h.passkeys.BeginRegistration(r, caller, existing)
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, options)
}

// addPasskey handles POST /accounts/me/passkeys.
func (h *handler) addPasskey(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	var given struct {
		Credential json.RawMessage `json:"credential"`
		Name       string          `json:"name"`
	}
	if err := request.ReadJSON(w, r, passkey.MaxBody, &given); err != nil {
		return err
	}
	p, challenge, err := h.passkeys.Register(r, caller, given.Credential)
	if err != nil {
		return err
	}
	p.Name = given.Name
	p, err = h.store.AddPasskey(r.Context(), h.actor(r, caller), p, challenge)
	if errors.Is(err, accounts.ErrChallengeUsed) {
		return passkey.ErrNotRegistered
	} else if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusCreated, infoOf(p))
}

// renamePasskey handles PATCH /accounts/me/passkeys/{id}.
func (h *handler) renamePasskey(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	var given struct {
		Name string `json:"name"`
	}
	if err := request.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	p, err := h.store.RenamePasskey(r.Context(), h.actor(r, caller), r.PathValue("id"), given.Name)
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, infoOf(p))
}

// removePasskey handles DELETE /accounts/me/passkeys/{id}.
func (h *handler) removePasskey(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	if err := h.store.RemovePasskey(r.Context(), h.actor(r, caller), r.PathValue("id")); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// createRecoveryCodes handles POST /accounts/me/recovery-codes. The codes replace the earlier codes.
func (h *handler) createRecoveryCodes(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	codes, err := h.store.ReplaceRecoveryCodes(r.Context(), h.actor(r, caller))
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, map[string][]string{"recovery_codes": codes})
}

// removePasskeys handles DELETE /accounts/{id}/passkeys. An admin removes the passkeys of a user who has lost them.
func (h *handler) removePasskeys(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	if err := h.store.RemovePasskeys(r.Context(), h.actor(r, caller), r.PathValue("id")); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// secondFactors is the request and the response body for the roles whose users need a second factor.
type secondFactors struct {
	Roles []string `json:"roles"`
}

// showSecondFactors handles GET /accounts/second-factor.
func (h *handler) showSecondFactors(w http.ResponseWriter, r *http.Request, _ accounts.User) error {
	roles, err := h.store.SecondFactors(r.Context())
	if err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, secondFactors{append([]string{}, roles...)})
}

// setSecondFactors handles PUT /accounts/second-factor.
func (h *handler) setSecondFactors(w http.ResponseWriter, r *http.Request, caller accounts.User) error {
	var given secondFactors
	if err := request.ReadJSON(w, r, maxBody, &given); err != nil {
		return err
	}
	// Without this check, the last admin could lose access.
	if slices.Contains(given.Roles, caller.Role) && token.Caller(r.Context()).ACR != token.ACRMultiFactor {
		return errLocksOut
	}
	if err := h.store.SetSecondFactors(r.Context(), h.actor(r, caller), given.Roles); err != nil {
		return err
	}
	return h.showSecondFactors(w, r, caller)
}
