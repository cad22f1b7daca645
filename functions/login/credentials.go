package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

// maxBody is the maximum size of a request body, in bytes.
const maxBody = 4 << 10

// credentials contains the user name, the password and the optional recovery code in a request, and the new password
// that replaces the password.
type credentials struct {
	username, password, recoveryCode string
	newPassword                      *string // nil if the request has no new password
}

const (
	typeJSON = request.TypeJSON
	typeForm = "application/x-www-form-urlencoded"
)

var (
	errMissing = problem.BadRequest.With("send a username and a password in a JSON object, in a form, or with HTTP Basic authentication and an empty body: only an object and a form can also contain a new_password and a recovery_code")
	errUnknown = problem.BadRequest.With("the form must contain the fields username and password, can contain the fields new_password and recovery_code, each at most once, and must contain no other fields")
	errNotUTF8 = problem.BadRequest.With("the username, the passwords and the recovery_code must be valid UTF-8 and must not contain the character U+FFFD")
	errNotForm = problem.BadRequest.With("the body must be a valid form, such as username=…&password=…")
	errInQuery = problem.BadRequest.With("do not send credentials in the query string, because query strings end up in logs: change these credentials, and send the new credentials in the body")
	errTwice   = problem.BadRequest.With("send the credentials either in the Authorization header or in the body, but not in both")
	errBasic   = problem.BadRequest.With("the Authorization header is invalid: send exactly one Authorization header with Basic credentials (RFC 7617)")
	errType    = problem.UnsupportedType.With("send the credentials in a body with the content type %s or %s, encoded in UTF-8", typeJSON, typeForm).
			Header("Accept", typeJSON+", "+typeForm)
)

// checkQuery returns errInQuery if the query string of r contains one of the secret parameters. It ignores the case of
// their names.
func checkQuery(r *http.Request, secret ...string) error {
	for name := range r.URL.Query() {
		if slices.ContainsFunc(secret, func(s string) bool { return strings.EqualFold(s, name) }) {
			return errInQuery
		}
	}
	return nil
}

// readCredentials returns the credentials in the Authorization header (HTTP Basic) or in the body of r. If both or
// neither contain credentials, it returns an error.
func readCredentials(w http.ResponseWriter, r *http.Request) (credentials, error) {
	if err := checkQuery(r, "username", "password", "new_password", "recovery_code"); err != nil {
		return credentials{}, err
	}
	basic, given, err := basicCredentials(r)
	if err != nil {
		return credentials{}, err
	}
	body, err := request.ReadBody(w, r, maxBody)
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
	kind, err := request.MediaType(r)
	if err != nil {
		return credentials{}, err
	}
	var c credentials
	switch kind {
	case typeJSON:
		c, err = fromJSON(body)
	case typeForm:
		c, err = fromForm(body)
	default:
		err = errType
	}
	if err != nil {
		return credentials{}, err
	}
	return c.valid()
}

// valid returns c without spaces around the user name, because keyboards add such spaces, and no user name begins or
// ends with a space. The error is errNotUTF8 if a part of c is not valid UTF-8 or contains U+FFFD.
func (c credentials) valid() (credentials, error) {
	texts := []string{c.username, c.password, c.recoveryCode}
	if c.newPassword != nil {
		texts = append(texts, *c.newPassword)
	}
	for _, s := range texts {
		// Reject U+FFFD, because decoders silently replace invalid bytes with it, which could make different passwords
		// equal.
		if !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError) {
			return credentials{}, errNotUTF8
		}
	}
	c.username = strings.TrimSpace(c.username)
	return c, nil
}

// basicCredentials returns the HTTP Basic credentials (RFC 7617) in the Authorization header of r, and reports whether
// the header contains such credentials.
func basicCredentials(r *http.Request) (c credentials, given bool, err error) {
	values := r.Header.Values("Authorization")
	if len(values) > 1 {
		return credentials{}, false, errBasic
	}
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Ignore schemes other than Basic, because a client might send an old access token in the header and the
	// credentials in the body.
	if !strings.EqualFold(scheme, "Basic") {
		return credentials{}, false, nil
	}
	username, password, ok := r.BasicAuth()
	if !ok {
		return credentials{}, false, errBasic
	}
	return credentials{username: username, password: password}, true, nil
}

func fromForm(body []byte) (credentials, error) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return credentials{}, errNotForm
	}
	for name, all := range values {
		if !slices.Contains([]string{"username", "password", "new_password", "recovery_code"}, name) || len(all) != 1 {
			return credentials{}, errUnknown
		}
	}
	if !values.Has("username") || !values.Has("password") {
		return credentials{}, errMissing
	}
	c := credentials{username: values.Get("username"), password: values.Get("password"), recoveryCode: values.Get("recovery_code")}
	if values.Has("new_password") {
		c.newPassword = &values["new_password"][0]
	}
	return c, nil
}

func fromJSON(body []byte) (credentials, error) {
	var given struct {
		Username     string  `json:"username"`
		Password     string  `json:"password"`
		NewPassword  *string `json:"new_password,omitempty"`
		RecoveryCode string  `json:"recovery_code,omitempty"`
	}
	err := request.DecodeJSON(body, &given)
	return credentials{given.Username, given.Password, given.RecoveryCode, given.NewPassword}, err
}
