package main

import (
	"net/http"
	"net/url"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

var (
	errNoRefreshToken = problem.BadRequest.With("give a refresh_token and nothing else: as JSON or as a form")
	errScope          = problem.BadRequest.With("the only scope of a logout is all")
	errRefreshType    = problem.UnsupportedType.With("send the refresh token as %s or %s, in UTF-8", typeJSON, typeForm).
				Header("Accept", typeJSON+", "+typeForm)
)

// refresh answers POST /refresh: a new access token and a new refresh token for one that is good (RFC 6749 §6). The
// roles are those of now, not those of the sign-in.
func (h *handler) refresh(w http.ResponseWriter, r *http.Request) error {
	given, err := readRefreshToken(w, r)
	if err != nil {
		return err
	}
	account, next, err := h.store.Refresh(r.Context(), given)
	if err != nil {
		return err
	}
	return h.answer(w, account, next)
}

// logout answers POST /logout: it ends the session of a refresh token, or with ?scope=all every session of its user.
// A token that is not good any more gets the same answer (RFC 7009 §2.2).
func (h *handler) logout(w http.ResponseWriter, r *http.Request) error {
	query, err := function.Query(r, "scope")
	if err != nil {
		return err
	}
	all := query.Get("scope") == "all"
	if query.Has("scope") && !all {
		return errScope
	}
	given, err := readRefreshToken(w, r)
	if err != nil {
		return err
	}
	from := accounts.Actor{Address: h.trust.ClientAddress(r), RequestID: function.RequestID(r.Context())}
	if err := h.store.EndSession(r.Context(), given, all, from); err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// readRefreshToken takes it from the body, the only place where it may be.
func readRefreshToken(w http.ResponseWriter, r *http.Request) (string, error) {
	if err := checkQuery(r, "refresh_token"); err != nil {
		return "", err
	}
	kind, err := function.MediaType(r)
	if err != nil {
		return "", err
	}
	if kind != typeJSON && kind != typeForm {
		return "", errRefreshType
	}
	body, err := function.ReadBody(w, r, maxBody)
	if err != nil {
		return "", err
	}
	var given struct {
		RefreshToken string `json:"refresh_token"`
	}
	if kind == typeJSON {
		if err := function.DecodeJSON(body, &given); err != nil {
			return "", err
		}
	} else {
		values, err := url.ParseQuery(string(body))
		if err != nil || len(values) != 1 || len(values["refresh_token"]) != 1 {
			return "", errNoRefreshToken
		}
		given.RefreshToken = values.Get("refresh_token")
	}
	if given.RefreshToken == "" {
		return "", errNoRefreshToken
	}
	return given.RefreshToken, nil
}
