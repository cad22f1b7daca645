// Package token issues access tokens, which are JWTs as RFC 9068 defines them, and verifies them with the public
// keys in a JWK Set (RFC 7517).
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

	"github.com/strongroom-dev/strongroom/shared/strictjson"
)

// The roles of an account, and the scopes of an access token.
const (
	RoleUser  = "user"
	RoleAdmin = "admin"

	ScopeFilesRead      = "files:read"
	ScopeFilesWrite     = "files:write"
	ScopeFilesAny       = "files:any"
	ScopeAccountsManage = "accounts:manage"
)

// ClientID is the value of the client_id claim, which RFC 9068 requires. It is the same in every access token,
// because Strongroom itself is the only client.
const ClientID = "strongroom"

// scopes lists the scopes that each role grants.
var scopes = map[string][]string{
	RoleUser:  {ScopeFilesRead, ScopeFilesWrite},
	RoleAdmin: {ScopeFilesRead, ScopeFilesWrite, ScopeFilesAny, ScopeAccountsManage},
}

// ScopesOf returns the scopes that roles grant, without duplicates and separated by spaces (RFC 6749, section 3.3). An
// unknown role grants no scopes.
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

// The values of the acr claim, which states how the user signed in (RFC 9068, section 2.2.1).
const (
	ACRPassword    = "1" // with a password
	ACRMultiFactor = "2" // with a passkey, or with a password and another factor
)

// Claims holds the claims of an access token (RFC 9068, section 2.2). Times have a resolution of one second.
type Claims struct {
	Issuer    string
	Audience  []string
	Subject   string // the user's ID
	ExpiresAt time.Time
	IssuedAt  time.Time
	ID        string // jti
	ClientID  string
	Username  string
	Roles     []string
	Scope     string // space-separated
	Version   int    // the user's token version when the token was issued

	// The following claims describe the sign-in. They are empty in a token that an earlier version issued.
	Session  string    // sid, the ID of the session
	AuthTime time.Time // the time of the sign-in
	ACR      string    // ACRPassword or ACRMultiFactor

	payload []byte // the JSON that the claims were decoded from; nil if the token is new
}

// Payload returns the JSON from which the claims were decoded, or nil if Signer.Sign created the claims. The caller
// must not change the JSON, because other callers share it.
func (c *Claims) Payload() []byte { return c.payload }

// HasScope reports whether scope is one of the token's scopes.
func (c *Claims) HasScope(scope string) bool {
	return slices.Contains(strings.Fields(c.Scope), scope)
}

// wire defines the JSON form of Claims. The claims without omitempty are required, either by RFC 9068, section 2.2, or
// by Strongroom.
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
	Session   string          `json:"sid,omitempty"`
	AuthTime  *int64          `json:"auth_time,omitempty"`
	ACR       string          `json:"acr,omitempty"`
}

// MarshalJSON encodes the claims as the payload of a token. If the audience has only one member, MarshalJSON encodes
// it as a string instead of an array.
func (c *Claims) MarshalJSON() ([]byte, error) {
	var audience any = c.Audience
	if len(c.Audience) == 1 {
		audience = c.Audience[0]
	}
	aud, err := json.Marshal(audience)
	if err != nil {
		return nil, err
	}
	var authTime *int64
	if !c.AuthTime.IsZero() {
		seconds := c.AuthTime.Unix()
		authTime = &seconds
	}
	return json.Marshal(wire{c.Issuer, c.Subject, aud, c.ExpiresAt.Unix(), c.IssuedAt.Unix(), nil, c.ID, c.ClientID,
		c.Username, c.Roles, c.Scope, c.Version, c.Session, authTime, c.ACR})
}

// UnmarshalJSON decodes and checks claims. Names are case-sensitive, duplicates are invalid, and times must be
// integers. Unknown claims are ignored, as RFC 7519, section 4, requires.
func (c *Claims) UnmarshalJSON(data []byte) error {
	var w wire
	if err := strictjson.DecodeKnown(data, &w); err != nil {
		return err
	}
	var audience []string
	if err := json.Unmarshal(w.Audience, &audience); err != nil {
		audience = []string{""}
		if err := json.Unmarshal(w.Audience, &audience[0]); err != nil {
			return errors.New("the aud claim is neither a string nor an array of strings")
		}
	}
	if w.NotBefore != nil {
		// Reject nbf, because Verifier does not check this claim and would accept a token too early. The login
		// function never issues a token with nbf.
		return errors.New("the nbf claim is not supported")
	}
	times := map[string]int64{"exp": w.ExpiresAt, "iat": w.IssuedAt}
	var authTime time.Time
	if w.AuthTime != nil {
		times["auth_time"] = *w.AuthTime
		authTime = time.Unix(*w.AuthTime, 0)
	}
	for name, seconds := range times {
		if seconds <= 0 || seconds > maxTime {
			return fmt.Errorf("the time in the %s claim is out of range", name)
		}
	}
	for name, value := range map[string]string{"sub": w.Subject, "jti": w.ID, "client_id": w.ClientID, "username": w.Username} {
		if value == "" {
			return fmt.Errorf("the %s claim is empty", name)
		}
	}
	*c = Claims{w.Issuer, audience, w.Subject, time.Unix(w.ExpiresAt, 0), time.Unix(w.IssuedAt, 0), w.ID, w.ClientID,
		w.Username, w.Roles, w.Scope, w.Version, w.Session, authTime, w.ACR, bytes.Clone(data)}
	return nil
}

// maxTime is the latest time that a claim can contain, in Unix seconds. It is the last second of the year 9999,
// because RFC 3339 cannot express a later time.
const maxTime = 253402300799

// The following methods implement jwt.Claims, so that package jwt can validate the claims.

func (c *Claims) GetExpirationTime() (*jwt.NumericDate, error) {
	return jwt.NewNumericDate(c.ExpiresAt), nil
}
func (c *Claims) GetIssuedAt() (*jwt.NumericDate, error)  { return jwt.NewNumericDate(c.IssuedAt), nil }
func (c *Claims) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }
func (c *Claims) GetIssuer() (string, error)              { return c.Issuer, nil }
func (c *Claims) GetSubject() (string, error)             { return c.Subject, nil }
func (c *Claims) GetAudience() (jwt.ClaimStrings, error)  { return c.Audience, nil }
