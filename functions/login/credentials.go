package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxBody bounds the body of a login, in bytes.
const maxBody = 4 << 10

// credentials are what a client says of itself.
type credentials struct{ username, password string }

const (
	typeJSON = function.TypeJSON
	typeForm = "application/x-www-form-urlencoded"
)

var (
	errMissing = problem.BadRequest.With("give a username and a password: as JSON, as a form, or as HTTP Basic with an empty body")
	errUnknown = problem.BadRequest.With("the body may have username and password and nothing else, each once")
	errNotUTF8 = problem.BadRequest.With("the username and the password must be UTF-8")
	errNotForm = problem.BadRequest.With("the body must be a form like username=…&password=…")
	errInQuery = problem.BadRequest.With("credentials in the query string end up in logs: put them into the body, and change this password")
	errTwice   = problem.BadRequest.With("give the credentials either as HTTP Basic or in the body")
	errBasic   = problem.BadRequest.With("the Authorization header is not well-formed (RFC 7617)")
	errType    = problem.UnsupportedType.With("send the credentials as %s or %s, in UTF-8", typeJSON, typeForm).
			Header("Accept", typeJSON+", "+typeForm)
)

// checkQuery returns errInQuery if one of the parameters in secret is in the query string of r.
func checkQuery(r *http.Request, secret ...string) error {
	for name := range r.URL.Query() {
		if slices.ContainsFunc(secret, func(s string) bool { return strings.EqualFold(s, name) }) {
			return errInQuery
		}
	}
	return nil
}

// readCredentials takes them from the one place where they are.
func readCredentials(w http.ResponseWriter, r *http.Request) (credentials, error) {
	if err := checkQuery(r, "username", "password"); err != nil {
		return credentials{}, err
	}
	basic, given, err := basicCredentials(r)
	if err != nil {
		return credentials{}, err
	}
	body, err := function.ReadBody(w, r, maxBody)
	if err != nil {
		return credentials{}, err
	}
	switch {
	case given && len(body) == 0:
		return basic.valid()
	case given:
		return credentials{}, errTwice
	case len(body) == 0:
		return credentials{}, errMissing
	}
	read, err := bodyReader(r)
	if err != nil {
		return credentials{}, err
	}
	c, err := read(body)
	if err != nil {
		return credentials{}, err
	}
	return c.valid()
}

// valid refuses what is not UTF-8, and the character that a decoder silently puts in the place of what is not: it would
// make one password of several.
func (c credentials) valid() (credentials, error) {
	for _, s := range []string{c.username, c.password} {
		if !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError) {
			return credentials{}, errNotUTF8
		}
	}
	return c, nil
}

// basicCredentials reads HTTP Basic (RFC 7617). Another scheme is left alone: a client may send the token that it has.
func basicCredentials(r *http.Request) (c credentials, given bool, err error) {
	values := r.Header.Values("Authorization")
	if len(values) > 1 {
		return credentials{}, false, errBasic
	}
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Basic") {
		return credentials{}, false, nil
	}
	username, password, ok := r.BasicAuth()
	if !ok {
		return credentials{}, false, errBasic
	}
	return credentials{username, password}, true, nil
}

// bodyReader returns what reads a body of the request's content type.
func bodyReader(r *http.Request) (func(body []byte) (credentials, error), error) {
	kind, err := function.MediaType(r)
	if err != nil {
		return nil, err
	}
	switch kind {
	case typeJSON:
		return fromJSON, nil
	case typeForm:
		return fromForm, nil
	}
	return nil, errType
}

func fromForm(body []byte) (credentials, error) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return credentials{}, errNotForm
	}
	for name, all := range values {
		if name != "username" && name != "password" || len(all) != 1 {
			return credentials{}, errUnknown
		}
	}
	if len(values) != 2 {
		return credentials{}, errMissing
	}
	return credentials{values.Get("username"), values.Get("password")}, nil
}

func fromJSON(body []byte) (credentials, error) {
	var given struct {
		Username *string `json:"username"`
		Password *string `json:"password"`
	}
	if err := function.DecodeJSON(body, &given); err != nil {
		return credentials{}, err
	}
	if given.Username == nil || given.Password == nil {
		return credentials{}, errMissing
	}
	return credentials{*given.Username, *given.Password}, nil
}
