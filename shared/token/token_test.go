package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	issuer   = "https://strongroom.test"
	audience = "strongroom"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fixture is a signer and a verifier with matching keys. Its method forge signs tokens that the signer would never issue.
type fixture struct {
	signer   *Signer
	verifier *Verifier
}

func newFixture(t testing.TB, now time.Time) fixture {
	t.Helper()
	private, jwks, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.jwk")
	if err := os.WriteFile(path, private, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := LoadSigner(path, issuer, audience, 15*time.Minute, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(jwks)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := newVerifier(keys, issuer, audience, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return fixture{signer, verifier}
}

var ada = Subject{ID: "0190-ada", Username: "ada", Roles: []string{RoleUser}, Version: 3}

// forge signs any header and payload with the signer's key, so that a verifier can reject the token only because of its
// header or payload.
func (f fixture) forge(t testing.TB, header, payload string) string {
	t.Helper()
	header = strings.ReplaceAll(header, "KID", f.signer.keyID)
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	signature, err := jwt.SigningMethodES256.Sign(input, f.signer.key)
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + encode(signature)
}

const (
	goodHeader  = `{"alg":"ES256","kid":"KID","typ":"at+jwt"}`
	goodPayload = `{"iss":"https://strongroom.test","sub":"0190-ada","aud":"strongroom","exp":1767356100,"iat":1767355200,` +
		`"jti":"j1","client_id":"strongroom","username":"ada","roles":["user"],"scope":"files:read","ver":1}`
)

func TestSignedTokenVerifies(t *testing.T) {
	f := newFixture(t, noon)
	raw, issued, err := f.signer.Sign(ada)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.verifier.Verify(raw)
	if err != nil {
		t.Fatal(err)
	}
	gotJSON, _ := json.Marshal(got)
	wantJSON, _ := json.Marshal(issued)
	if string(gotJSON) != string(wantJSON) {
		t.Errorf("got claims %s, want %s", gotJSON, wantJSON)
	}
	if got, want := got.Scope, "files:read files:write"; got != want {
		t.Errorf("got scope %q, want %q", got, want)
	}
	header, _, _ := strings.Cut(raw, ".")
	decoded, _ := decode(header, 0)
	if !strings.Contains(string(decoded), `"typ":"at+jwt"`) || !strings.Contains(string(decoded), `"alg":"ES256"`) {
		t.Errorf("got header %s, want at+jwt and ES256", decoded)
	}
}

// TestRefused checks that the verifier rejects invalid tokens with a valid signature. The JWT library accepts most of them.
// Each token differs from a valid token in one respect.
func TestRefused(t *testing.T) {
	f := newFixture(t, noon)
	if _, err := f.verifier.Verify(f.forge(t, goodHeader, goodPayload)); err != nil {
		t.Fatalf("verify the valid token: %v", err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(goodPayload, old) {
			t.Fatalf("the payload does not contain %q", old)
		}
		return strings.Replace(goodPayload, old, new, 1)
	}
	for name, c := range map[string]struct{ header, payload string }{
		"unknown critical extension":     {`{"alg":"ES256","kid":"KID","typ":"at+jwt","crit":["exp"],"exp":1}`, goodPayload},
		"unencoded payload":              {`{"alg":"ES256","kid":"KID","typ":"at+jwt","crit":["b64"],"b64":false}`, goodPayload},
		"b64 without crit":               {`{"alg":"ES256","kid":"KID","typ":"at+jwt","b64":false}`, goodPayload},
		"empty crit":                     {`{"alg":"ES256","kid":"KID","typ":"at+jwt","crit":[]}`, goodPayload},
		"refresh token":                  {`{"alg":"ES256","kid":"KID","typ":"refresh+jwt"}`, goodPayload},
		"plain JWT":                      {`{"alg":"ES256","kid":"KID","typ":"JWT"}`, goodPayload},
		"no typ":                         {`{"alg":"ES256","kid":"KID"}`, goodPayload},
		"no kid":                         {`{"alg":"ES256","typ":"at+jwt"}`, goodPayload},
		"unknown kid":                    {`{"alg":"ES256","kid":"other","typ":"at+jwt"}`, goodPayload},
		"kid is a number":                {`{"alg":"ES256","kid":7,"typ":"at+jwt"}`, goodPayload},
		"duplicate header parameter":     {`{"alg":"none","alg":"ES256","kid":"KID","typ":"at+jwt"}`, goodPayload},
		"header parameter in upper case": {`{"alg":"ES256","kid":"KID","typ":"at+jwt","ALG":"none"}`, goodPayload},
		"alg does not match the key":     {`{"alg":"RS256","kid":"KID","typ":"at+jwt"}`, goodPayload},
		"alg none":                       {`{"alg":"none","kid":"KID","typ":"at+jwt"}`, goodPayload},
		"claim in upper case":            {goodHeader, replace(`"roles":`, `"ROLES":["admin"],"roles":`)},
		"claim with a long s":            {goodHeader, replace(`"roles":`, `"ſcope":"accounts:manage","roles":`)},
		"duplicate claim":                {goodHeader, replace(`"roles":["user"]`, `"roles":["user"],"roles":["admin"]`)},
		"no sub":                         {goodHeader, replace(`"sub":"0190-ada",`, ``)},
		"empty sub":                      {goodHeader, replace(`"0190-ada"`, `""`)},
		"no jti":                         {goodHeader, replace(`"jti":"j1",`, ``)},
		"no client_id":                   {goodHeader, replace(`"client_id":"strongroom",`, ``)},
		"null roles":                     {goodHeader, replace(`["user"]`, `null`)},
		"no exp":                         {goodHeader, replace(`"exp":1767356100,`, ``)},
		"exp as a string":                {goodHeader, replace(`1767356100`, `"1767356100"`)},
		"exp too large":                  {goodHeader, replace(`1767356100`, `1000000000000000000`)},
		"exp as 1e18":                    {goodHeader, replace(`1767356100`, `1e18`)},
		"negative exp":                   {goodHeader, replace(`1767356100`, `-1`)},
		"expired":                        {goodHeader, replace(`1767356100`, `1767355190`)},
		"issued in the future":           {goodHeader, replace(`1767355200`, `1767355260`)},
		"nbf":                            {goodHeader, replace(`"jti"`, `"nbf":1767355260,"jti"`)},
		"other issuer":                   {goodHeader, replace(`strongroom.test`, `strongroom.test.evil`)},
		"other audience":                 {goodHeader, replace(`"aud":"strongroom"`, `"aud":"elsewhere"`)},
		"empty audience":                 {goodHeader, replace(`"aud":"strongroom"`, `"aud":[]`)},
		"payload that is not an object":  {goodHeader, `[]`},
		"payload that is not UTF-8":      {goodHeader, replace(`"ada"`, "\"a\xffda\"")},
		"trailing data":                  {goodHeader, goodPayload + `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			if status := f.status(f.forge(t, c.header, c.payload)); status != http.StatusUnauthorized {
				t.Errorf("got status %d, want 401", status)
			}
		})
	}
}

// status returns the status of the response to a request with the token, from a handler that is wrapped by Require.
func (f fixture) status(raw string) int {
	request := httptest.NewRequest("GET", "/", nil)
	request.Header["Authorization"] = []string{"Bearer " + raw}
	answer := httptest.NewRecorder()
	f.verifier.Require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(answer, request)
	return answer.Code
}

// TestVariants checks that the verifier rejects a valid token with changed bytes. If it accepted a variant, a client could
// evade a list of blocked tokens.
func TestVariants(t *testing.T) {
	f := newFixture(t, noon)
	raw := f.forge(t, goodHeader, goodPayload)
	if got := f.status(raw); got != http.StatusOK {
		t.Fatalf("valid token: got status %d, want 200", got)
	}
	parts := strings.Split(raw, ".")
	for name, variant := range map[string]string{
		"line break after the signature":  raw + "\n",
		"line break inside the signature": raw[:len(raw)-5] + "\r\n" + raw[len(raw)-5:],
		"padding":                         raw + "==",
		"trailing bits":                   raw[:len(raw)-1] + string(raw[len(raw)-1]+1),
		"space":                           raw + " x",
		"fourth part":                     raw + ".x",
		"no signature":                    parts[0] + "." + parts[1] + ".",
		"no payload":                      parts[0] + ".." + parts[2],
		"changed payload":                 parts[0] + "." + encode([]byte(strings.Replace(goodPayload, "user", "admin", 1))) + "." + parts[2],
		"longer than 8 KiB":               f.forge(t, goodHeader, strings.Replace(goodPayload, `"ada"`, `"`+strings.Repeat("a", 8<<10)+`"`, 1)),
		"garbage":                         "x",
	} {
		if got := f.status(variant); got != http.StatusUnauthorized {
			t.Errorf("%s: got status %d, want 401", name, got)
		}
	}
}

func TestExpiry(t *testing.T) {
	// The token is valid for 15 minutes. The leeway for clocks is 10 seconds.
	for age, want := range map[time.Duration]error{
		-11 * time.Second:               ErrInvalid,
		-10 * time.Second:               nil,
		15*time.Minute + 9*time.Second:  nil,
		15*time.Minute + 10*time.Second: ErrExpired,
	} {
		f := newFixture(t, noon.Add(age))
		raw, _, err := f.signer.Sign(ada)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := f.verifier.Verify(raw); want == nil && got != nil || want != nil && !strings.HasPrefix(got.Error(), want.Error()) {
			t.Errorf("token with age %v: got error %v, want %v", age, got, want)
		}
	}
	// The error for a forged token does not reveal that the token has also expired.
	late := newFixture(t, noon.Add(time.Hour))
	stranger := newFixture(t, noon)
	stranger.signer.keyID = late.signer.keyID
	raw, _, _ := stranger.signer.Sign(ada)
	if _, err := late.verifier.Verify(raw); err == nil || !strings.HasPrefix(err.Error(), ErrInvalid.Error()) {
		t.Errorf("forged, expired token: got error %v, want %v", err, ErrInvalid)
	}
}

// TestRemembered checks that a cached token still expires, and that the size of the cache is bounded.
func TestRemembered(t *testing.T) {
	now := noon
	f := newFixture(t, noon)
	var err error
	if f.verifier, err = newVerifier(f.verifier.keys, issuer, audience, func() time.Time { return now }); err != nil {
		t.Fatal(err)
	}
	raw := f.forge(t, goodHeader, goodPayload)
	for range 2 {
		if _, err := f.verifier.Verify(raw); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.verifier.verified.Len(); got != 1 {
		t.Errorf("got %d cached tokens, want 1", got)
	}
	for _, variant := range []string{raw + "\n", raw + "=", raw[:len(raw)-1]} {
		if _, err := f.verifier.Verify(variant); err == nil {
			t.Errorf("%q: accepted as the cached token", variant)
		}
	}
	now = noon.Add(time.Hour)
	if _, err := f.verifier.Verify(raw); !errors.Is(err, ErrExpired) {
		t.Errorf("expired cached token: got error %v, want %v", err, ErrExpired)
	}
	now = noon
	for i := range remembered + 10 {
		if _, err := f.verifier.Verify(f.forge(t, goodHeader, strings.Replace(goodPayload, "j1", fmt.Sprint("j", i), 1))); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.verifier.verified.Len(); got != remembered {
		t.Errorf("got %d cached tokens, want %d", got, remembered)
	}
}

func TestChallenges(t *testing.T) {
	f := newFixture(t, noon)
	good, _, err := f.signer.Sign(ada)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		authorization []string
		scopes        []string
		status        int
		challenge     string
	}{
		"valid token":       {[]string{"Bearer " + good}, []string{ScopeFilesRead, ScopeFilesWrite}, 200, ""},
		"upper-case scheme": {[]string{"BEARER " + good}, nil, 200, ""},
		"no credentials":    {nil, nil, 401, `Bearer realm="strongroom"`},
		"other scheme":      {[]string{"Basic YTpi"}, nil, 401, `Bearer realm="strongroom"`},
		"no token":          {[]string{"Bearer "}, nil, 400, `Bearer realm="strongroom", error="invalid_request", error_description="the Authorization header has no token"`},
		"two headers":       {[]string{"Bearer " + good, "Bearer " + good}, nil, 400, `Bearer realm="strongroom", error="invalid_request", error_description="send only one Authorization header"`},
		"invalid token":     {[]string{"Bearer x"}, nil, 401, `Bearer realm="strongroom", error="invalid_token", error_description="the access token is invalid"`},
		"scope missing":     {[]string{"Bearer " + good}, []string{ScopeFilesAny}, 403, `Bearer realm="strongroom", error="insufficient_scope", scope="files:any"`},
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequest("GET", "/", nil)
			request.Header["Authorization"] = c.authorization
			answer := httptest.NewRecorder()
			f.verifier.Require(problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				if got := Caller(r.Context()); got == nil || got.Subject != ada.ID {
					t.Errorf("got caller %v, want %s", got, ada.ID)
				}
				return nil
			}), c.scopes...).ServeHTTP(answer, request)
			if answer.Code != c.status {
				t.Errorf("got status %d, want %d", answer.Code, c.status)
			}
			if got := answer.Header().Get("WWW-Authenticate"); got != c.challenge {
				t.Errorf("got challenge\n%s, want\n%s", got, c.challenge)
			}
			if got := answer.Header().Get("Content-Type"); c.status != 200 && got != "application/problem+json" {
				t.Errorf("got content type %q, want application/problem+json", got)
			}
		})
	}
}

func TestParseKeysRefuses(t *testing.T) {
	_, jwks, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	good := strings.TrimSuffix(strings.TrimPrefix(string(jwks), `{"keys":[`), `]}`)
	if _, err := ParseKeys(jwks); err != nil {
		t.Fatal(err)
	}
	const small = `{"kty":"RSA","e":"AQAB","n":"` // a modulus of 1024 bits follows
	for name, set := range map[string]string{
		"empty set":               `{"keys":[]}`,
		"key without a set":       good,
		"not JSON":                `keys`,
		"duplicate kid":           `{"keys":[` + good + `,` + good + `]}`,
		"private part":            `{"keys":[` + strings.Replace(good, `{`, `{"d":"AAAA",`, 1) + `]}`,
		"empty private part":      `{"keys":[` + strings.Replace(good, `{`, `{"d":"",`, 1) + `]}`,
		"symmetric key":           `{"keys":[{"kty":"oct","k":"AAAA"}]}`,
		"key for encryption":      `{"keys":[` + strings.Replace(good, `"use":"sig"`, `"use":"enc"`, 1) + `]}`,
		"key_ops encrypt":         `{"keys":[` + strings.Replace(good, `{`, `{"key_ops":["encrypt"],`, 1) + `]}`,
		"key_ops sign":            `{"keys":[` + strings.Replace(good, `{`, `{"key_ops":["sign"],`, 1) + `]}`,
		"wrong algorithm":         `{"keys":[` + strings.Replace(good, `ES256`, `HS256`, 1) + `]}`,
		"wrong curve":             `{"keys":[` + strings.Replace(good, `P-256`, `P-521`, 1) + `]}`,
		"point not on the curve":  `{"keys":[{"kty":"EC","crv":"P-256","x":"` + encode(make([]byte, 32)) + `","y":"` + encode(make([]byte, 32)) + `"}]}`,
		"short coordinate":        `{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}`,
		"RSA key with 1024 bits":  `{"keys":[` + small + encode(append([]byte{0x80}, make([]byte, 127)...)) + `"}]}`,
		"RSA key with exponent 1": `{"keys":[{"kty":"RSA","e":"AQ","n":"` + encode(append([]byte{0x80}, make([]byte, 255)...)) + `"}]}`,
		"duplicate member":        `{"keys":[` + strings.Replace(good, `{`, `{"use":"enc",`, 1) + `]}`,
		"member not in base64url": `{"keys":[{"kty":"EC","crv":"P-256","x":"!","y":"!"}]}`,
	} {
		if _, err := ParseKeys([]byte(set)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestThumbprint checks the example in RFC 7638, section 3.1.
func TestThumbprint(t *testing.T) {
	key := jwk{KeyType: "RSA", E: "AQAB", N: "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}
	if got, want := key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSettingsRefused(t *testing.T) {
	private, jwks, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(jwks)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewVerifier(keys, "", audience); err == nil {
		t.Error("got a verifier without an issuer, want an error")
	}
	if _, err := NewVerifier(keys, issuer, ""); err == nil {
		t.Error("got a verifier without an audience, want an error")
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := other.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var mixed jwk
	if err := json.Unmarshal(private, &mixed); err != nil {
		t.Fatal(err)
	}
	mixed.D = encode(secret)
	mixedJSON, _ := json.Marshal(mixed)
	public := strings.TrimSuffix(strings.TrimPrefix(string(jwks), `{"keys":[`), `]}`)
	good := write("good", private)
	for name, load := range map[string]func() (*Signer, error){
		"no issuer":   func() (*Signer, error) { return LoadSigner(good, "", audience, time.Minute, time.Now) },
		"no audience": func() (*Signer, error) { return LoadSigner(good, issuer, "", time.Minute, time.Now) },
		"no lifetime": func() (*Signer, error) { return LoadSigner(good, issuer, audience, 0, time.Now) },
		"no file": func() (*Signer, error) {
			return LoadSigner(filepath.Join(dir, "none"), issuer, audience, time.Minute, time.Now)
		},
		"no private part": func() (*Signer, error) {
			return LoadSigner(write("public", []byte(public)), issuer, audience, time.Minute, time.Now)
		},
		"mismatched private part": func() (*Signer, error) {
			return LoadSigner(write("mixed", mixedJSON), issuer, audience, time.Minute, time.Now)
		},
		"file too large": func() (*Signer, error) {
			return LoadSigner(write("large", make([]byte, maxKeysFile+1)), issuer, audience, time.Minute, time.Now)
		},
		"file is not a JWK": func() (*Signer, error) {
			return LoadSigner(write("nonsense", []byte("x")), issuer, audience, time.Minute, time.Now)
		},
	} {
		if _, err := load(); err == nil {
			t.Errorf("%s: got a signer, want an error", name)
		} else if strings.Contains(err.Error(), mixed.D) {
			t.Errorf("%s: the error contains the private key", name)
		}
	}
}

func TestScopesOf(t *testing.T) {
	for _, c := range []struct {
		roles []string
		want  string
	}{
		{nil, ""},
		{[]string{"user"}, "files:read files:write"},
		{[]string{"admin", "user"}, "files:read files:write files:any accounts:manage"},
		{[]string{"nonsense"}, ""},
	} {
		if got := ScopesOf(c.roles); got != c.want {
			t.Errorf("ScopesOf(%q) = %q, want %q", c.roles, got, c.want)
		}
	}
}
