package main

import (
	"net/http"
	"net/url"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/token"
)

var (
	errNoRefreshToken = problem.BadRequest.With("send a JSON object or a form with exactly one refresh_token and no other members or fields")
	errScope          = problem.BadRequest.With(`the only valid value of the "scope" query parameter is "all"`)
	errRefreshType    = problem.UnsupportedType.With("send the refresh token in a body with the content type %s or %s, encoded in UTF-8", typeJSON, typeForm).
				Header("Accept", typeJSON+", "+typeForm)
)

// refresh handles POST /refresh. It exchanges a valid refresh token for a new access token and a new refresh token
// (RFC 6749, section 6).
func (h *handler) refresh(w http.ResponseWriter, r *http.Request) error {
	given, err := readRefreshToken(w, r)
	if err != nil {
		return err
	}
	account, session, next, err := h.store.Refresh(r.Context(), given, h.lifetimes)
	if err != nil {
		return token.Challenge(err)
	}
	// The account contains the user's current role, so the new access token has the correct scopes even if an operator
	// has changed the role directly in the database since the sign-in.
	return h.answer(w, r, account, session, next, "")
}

// logout handles POST /logout. It ends the session to which the refresh token belongs or, with the query string
// ?scope=all, all sessions of the user.
func (h *handler) logout(w http.ResponseWriter, r *http.Request) error {
	query, err := request.Query(r, "scope")
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
	from := request.OriginOf(r.Context())
	// EndSession returns no error for an invalid refresh token, because such a token does not belong to a session that
	// could be ended (RFC 7009, section 2.2).
	if err := h.store.EndSession(r.Context(), given, all, accounts.Actor{Address: from.Address, RequestID: from.ID}); err != nil {
		return err
	}
	return respond.NoContent(w)
}

// readRefreshToken returns the refresh token in the body of r. If the query string contains a refresh token,
// readRefreshToken returns an error, because query strings end up in logs.
func readRefreshToken(w http.ResponseWriter, r *http.Request) (string, error) {
	if err := checkQuery(r, "refresh_token"); err != nil {
		return "", err
	}
	kind, err := request.MediaType(r)
	if err != nil {
		return "", err
	}
	if kind != typeJSON && kind != typeForm {
		return "", errRefreshType
	}
	body, err := request.ReadBody(w, r, maxBody)
	if err != nil {
		return "", err
	}
	var given struct {
		RefreshToken string `json:"refresh_token"`
	}
	if kind == typeJSON {
		if err := request.DecodeJSON(body, &given); err != nil {
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
