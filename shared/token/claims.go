// Package token signs and verifies access tokens: JWTs by the profile of RFC 9068, signed with ES256. It also loads
// key sets (RFC 7517) and has the HTTP middleware that demands a bearer token (RFC 6750) and yields the caller.
package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/strongroom-dev/strongroom/shared/jsonobject"
)

// The roles that an account may have, and the scopes that a token may carry.
const (
	RoleUser  = "user"
	RoleAdmin = "admin"

	ScopeFilesRead      = "files:read"
	ScopeFilesWrite     = "files:write"
	ScopeFilesAny       = "files:any"
	ScopeAccountsManage = "accounts:manage"
)

// ClientID is the client_id of every token (RFC 9068 requires one): there is one client, Strongroom itself.
const ClientID = "strongroom"

// scopes that each role grants.
var scopes = map[string][]string{
	RoleUser:  {ScopeFilesRead, ScopeFilesWrite},
	RoleAdmin: {ScopeFilesRead, ScopeFilesWrite, ScopeFilesAny, ScopeAccountsManage},
}

// ScopesOf returns the scopes that roles grant, each once, space-separated (RFC 6749 §3.3). Unknown roles grant none.
func ScopesOf(roles []string) string {
	var granted []string
	for _, role := range roles {
		for _, scope := range scopes[role] {
			if !slices.Contains(granted, scope) {
				granted = append(granted, scope)
			}
		}
	}
	return strings.Join(granted, " ")
}

// Claims are what an access token says (RFC 9068 §2.2). Times have a resolution of one second.
type Claims struct {
	Issuer    string
	Audience  []string
	Subject   string // the user's id
	ExpiresAt time.Time
	IssuedAt  time.Time
	ID        string // jti
	ClientID  string
	Username  string
	Roles     []string
	Scope     string // space-separated
	Version   int    // the user's token version when the token was issued

	payload []byte // what they were read from, nil for those of a new token
}

// Payload returns the JSON that the claims of a verified token were read from. It must not be changed.
func (c *Claims) Payload() []byte { return c.payload }

// HasScope tells whether the token carries scope.
func (c *Claims) HasScope(scope string) bool {
	return slices.Contains(strings.Fields(c.Scope), scope)
}

// wire is the JSON form of Claims, in the order in which it is written.
type wire struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Audience  json.RawMessage `json:"aud"`
	ExpiresAt int64           `json:"exp"`
	IssuedAt  int64           `json:"iat"`
	NotBefore *int64          `json:"nbf,omitempty"`
	ID        string          `json:"jti"`
	ClientID  string          `json:"client_id"`
	Username  string          `json:"username"`
	Roles     []string        `json:"roles"`
	Scope     string          `json:"scope"`
	Version   int             `json:"ver"`
}

var wireNames = []string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "username", "roles", "scope", "ver"}

// required are the claims without which a token is refused; RFC 9068 §2.2, and those that Strongroom acts upon.
var required = []string{"iss", "sub", "aud", "exp", "iat", "jti", "client_id", "username", "roles", "scope", "ver"}

// MarshalJSON writes the claims with the names of RFC 9068.
func (c *Claims) MarshalJSON() ([]byte, error) {
	var audience any = c.Audience
	if len(c.Audience) == 1 {
		audience = c.Audience[0]
	}
	aud, err := json.Marshal(audience)
	if err != nil {
		return nil, err
	}
	return json.Marshal(wire{c.Issuer, c.Subject, aud, c.ExpiresAt.Unix(), c.IssuedAt.Unix(), nil, c.ID, c.ClientID,
		c.Username, c.Roles, c.Scope, c.Version})
}

// UnmarshalJSON reads claims strictly: names are matched exactly and may occur once, times are integers, and every
// claim that Strongroom acts upon must be there. Unknown claims are ignored, as RFC 7519 §4 wants it.
func (c *Claims) UnmarshalJSON(data []byte) error {
	if err := checkObject(data, wireNames, required); err != nil {
		return err
	}
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	var audience []string
	if err := json.Unmarshal(w.Audience, &audience); err != nil {
		audience = []string{""}
		if err := json.Unmarshal(w.Audience, &audience[0]); err != nil {
			return errors.New("aud is neither a string nor an array of strings")
		}
	}
	if w.NotBefore != nil {
		// Our login never writes nbf. Whoever does means a token that is not yet good, and we would have to wait.
		return errors.New("nbf is not supported")
	}
	for name, seconds := range map[string]int64{"exp": w.ExpiresAt, "iat": w.IssuedAt} {
		if seconds <= 0 || seconds > maxTime {
			return fmt.Errorf("%s is out of range", name)
		}
	}
	for name, value := range map[string]string{"sub": w.Subject, "jti": w.ID, "client_id": w.ClientID, "username": w.Username} {
		if value == "" {
			return fmt.Errorf("%s is empty", name)
		}
	}
	*c = Claims{w.Issuer, audience, w.Subject, time.Unix(w.ExpiresAt, 0), time.Unix(w.IssuedAt, 0), w.ID, w.ClientID,
		w.Username, w.Roles, w.Scope, w.Version, bytes.Clone(data)}
	return nil
}

// maxTime is the last second of the year 9999, the last that RFC 3339 can write.
const maxTime = 253402300799

// The methods of jwt.Claims, by which golang-jwt checks what it knows of.

func (c *Claims) GetExpirationTime() (*jwt.NumericDate, error) {
	return jwt.NewNumericDate(c.ExpiresAt), nil
}
func (c *Claims) GetIssuedAt() (*jwt.NumericDate, error)  { return jwt.NewNumericDate(c.IssuedAt), nil }
func (c *Claims) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }
func (c *Claims) GetIssuer() (string, error)              { return c.Issuer, nil }
func (c *Claims) GetSubject() (string, error)             { return c.Subject, nil }
func (c *Claims) GetAudience() (jwt.ClaimStrings, error)  { return c.Audience, nil }

// checkObject refuses what encoding/json lets pass and two readers could understand differently: what package
// jsonobject refuses, members whose names differ from a known one only in case, and null for a known member.
func checkObject(data []byte, known, required []string) error {
	members, err := jsonobject.Members(data)
	if err != nil {
		return err
	}
	for name, value := range members {
		for _, k := range known {
			if name != k && strings.EqualFold(name, k) {
				return fmt.Errorf("%q is not %q", name, k)
			}
			if name == k && string(value) == "null" {
				return fmt.Errorf("%q is null", name)
			}
		}
	}
	for _, name := range required {
		if _, there := members[name]; !there {
			return fmt.Errorf("%q is missing", name)
		}
	}
	return nil
}
