package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	issuer   = "https://strongroom.test"
	audience = "strongroom"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fixture is a signer and a verifier with matching keys. Its method forge signs tokens that the signer would never
// issue.
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

var ada = Subject{ID: "0190-ada", Username: "ada", Roles: []string{RoleUser}, Version: 3, Session: "0a", AuthTime: noon, ACR: ACRPassword}

// forge signs any header and payload with the signer's key, so that a verifier can reject the token only because of its
// header or payload.
func (f fixture) forge(t testing.TB, header, payload string) string {
	t.Helper()
	header = strings.ReplaceAll(header, "KID", f.signer.keyID)
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	signature, err := sign(input, f.signer.key)
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
	_, payload := cutLast(raw[:strings.LastIndexByte(raw, '.')])
	if want, _ := decode(payload, 0); string(got.Payload()) != string(want) || issued.Payload() != nil {
		t.Errorf("got payload %s after verifying and %s after signing, want %s and none", got.Payload(), issued.Payload(), want)
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

// TestDemandRecent checks which tokens prove a sign-in in the last 10 minutes. A token of an earlier version, which
// does not contain the time of the sign-in, is valid, but proves no recent sign-in.
func TestDemandRecent(t *testing.T) {
	f := newFixture(t, noon)
	for name, c := range map[string]struct {
		payload string
		recent  bool
	}{
		"now":              {strings.Replace(goodPayload, `"jti"`, `"auth_time":1767355200,"jti"`, 1), true},
		"10 minutes ago":   {strings.Replace(goodPayload, `"jti"`, `"auth_time":1767354600,"jti"`, 1), true},
		"a second too old": {strings.Replace(goodPayload, `"jti"`, `"auth_time":1767354599,"jti"`, 1), false},
		"earlier version":  {goodPayload, false},
	} {
		claims, err := f.verifier.Verify(f.forge(t, goodHeader, c.payload))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := claims.DemandRecent(noon); c.recent && err != nil || !c.recent && !errors.Is(err, problem.SignInTooOld) {
			t.Errorf("%s: got error %v, want none: %t", name, err, c.recent)
		}
	}
}

// TestSignedTokensVerify checks many tokens, because half of all ECDSA signatures need a conversion (see lowS).
func TestSignedTokensVerify(t *testing.T) {
	f := newFixture(t, noon)
	for range 64 {
		raw, _, err := f.signer.Sign(ada)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.verifier.Verify(raw); err != nil {
			t.Fatalf("verify %s: %v", raw, err)
		}
	}
}

// TestRefused checks that the verifier rejects invalid tokens with a valid signature. The JWT library accepts most of
// them. Each token differs from a valid token in one respect.
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
	tokens := map[string]string{}
	for name, header := range map[string]string{
		"unknown critical extension":     `{"alg":"ES256","kid":"KID","typ":"at+jwt","crit":["exp"],"exp":1}`,
		"unencoded payload":              `{"alg":"ES256","kid":"KID","typ":"at+jwt","crit":["b64"],"b64":false}`,
		"b64 without crit":               `{"alg":"ES256","kid":"KID","typ":"at+jwt","b64":false}`,
		"empty crit":                     `{"alg":"ES256","kid":"KID","typ":"at+jwt","crit":[]}`,
		"refresh token":                  `{"alg":"ES256","kid":"KID","typ":"refresh+jwt"}`,
		"plain JWT":                      `{"alg":"ES256","kid":"KID","typ":"JWT"}`,
		"no typ":                         `{"alg":"ES256","kid":"KID"}`,
		"no kid":                         `{"alg":"ES256","typ":"at+jwt"}`,
		"unknown kid":                    `{"alg":"ES256","kid":"other","typ":"at+jwt"}`,
		"kid is a number":                `{"alg":"ES256","kid":7,"typ":"at+jwt"}`,
		"duplicate header parameter":     `{"alg":"none","alg":"ES256","kid":"KID","typ":"at+jwt"}`,
		"header parameter in upper case": `{"alg":"ES256","kid":"KID","typ":"at+jwt","ALG":"none"}`,
		"alg does not match the key":     `{"alg":"RS256","kid":"KID","typ":"at+jwt"}`,
		"alg none":                       `{"alg":"none","kid":"KID","typ":"at+jwt"}`,
	} {
		tokens[name] = f.forge(t, header, goodPayload)
	}
	for name, payload := range map[string]string{
		"claim in upper case":           replace(`"roles":`, `"ROLES":["admin"],"roles":`),
		"claim with a long s":           replace(`"roles":`, `"ſcope":"accounts:manage","roles":`),
		"duplicate claim":               replace(`"roles":["user"]`, `"roles":["user"],"roles":["admin"]`),
		"no sub":                        replace(`"sub":"0190-ada",`, ``),
		"empty sub":                     replace(`"0190-ada"`, `""`),
		"no jti":                        replace(`"jti":"j1",`, ``),
		"no client_id":                  replace(`"client_id":"strongroom",`, ``),
		"null roles":                    replace(`["user"]`, `null`),
		"no exp":                        replace(`"exp":1767356100,`, ``),
		"exp as a string":               replace(`1767356100`, `"1767356100"`),
		"exp too large":                 replace(`1767356100`, `1000000000000000000`),
		"exp as 1e18":                   replace(`1767356100`, `1e18`),
		"negative exp":                  replace(`1767356100`, `-1`),
		"expired":                       replace(`1767356100`, `1767355190`),
		"issued in the future":          replace(`1767355200`, `1767355260`),
		"auth_time as a string":         replace(`"jti"`, `"auth_time":"1767355200","jti"`),
		"negative auth_time":            replace(`"jti"`, `"auth_time":-1,"jti"`),
		"null auth_time":                replace(`"jti"`, `"auth_time":null,"jti"`),
		"auth_time too large":           replace(`"jti"`, `"auth_time":253402300800,"jti"`),
		"acr as a number":               replace(`"jti"`, `"acr":2,"jti"`),
		"sid as a number":               replace(`"jti"`, `"sid":2,"jti"`),
		"nbf":                           replace(`"jti"`, `"nbf":1767355260,"jti"`),
		"other issuer":                  replace(`strongroom.test`, `strongroom.test.evil`),
		"other audience":                replace(`"aud":"strongroom"`, `"aud":"elsewhere"`),
		"empty audience":                replace(`"aud":"strongroom"`, `"aud":[]`),
		"audience that is a number":     replace(`"aud":"strongroom"`, `"aud":7`),
		"audience with a number":        replace(`"aud":"strongroom"`, `"aud":["strongroom",7]`),
		"payload that is not an object": `[]`,
		"payload that is not UTF-8":     replace(`"ada"`, "\"a\xffda\""),
		"trailing data":                 goodPayload + `{}`,
	} {
		tokens[name] = f.forge(t, goodHeader, payload)
	}
	for name, raw := range tokens {
		if status := f.status(raw); status != http.StatusUnauthorized {
			t.Errorf("%s: got status %d, want 401", name, status)
		}
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

// TestVariants checks that the verifier rejects a valid token with changed bytes. If it accepted a variant, a client
// could evade a list of blocked tokens.
func TestVariants(t *testing.T) {
	f := newFixture(t, noon)
	raw := f.forge(t, goodHeader, goodPayload)
	if got := f.status(raw); got != http.StatusOK {
		t.Fatalf("valid token: got status %d, want 200", got)
	}
	parts := strings.Split(raw, ".")
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	for name, variant := range map[string]string{
		"signature (r, n-s)":              parts[0] + "." + parts[1] + "." + encode(signature),
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
		"valid token":       {authorization: []string{"Bearer " + good}, scopes: []string{ScopeFilesRead, ScopeFilesWrite}, status: 200},
		"upper-case scheme": {authorization: []string{"BEARER " + good}, status: 200},
		"no credentials":    {status: 401, challenge: `Bearer realm="strongroom"`},
		"other scheme":      {authorization: []string{"Basic YTpi"}, status: 401, challenge: `Bearer realm="strongroom"`},
		"no token":          {authorization: []string{"Bearer "}, status: 400, challenge: `Bearer realm="strongroom", error="invalid_request", error_description="the Authorization header has no token"`},
		"two headers":       {authorization: []string{"Bearer " + good, "Bearer " + good}, status: 400, challenge: `Bearer realm="strongroom", error="invalid_request", error_description="send only one Authorization header"`},
		"invalid token":     {authorization: []string{"Bearer x"}, status: 401, challenge: `Bearer realm="strongroom", error="invalid_token", error_description="the access token is invalid"`},
		"scope missing":     {authorization: []string{"Bearer " + good}, scopes: []string{ScopeFilesAny}, status: 403, challenge: `Bearer realm="strongroom", error="insufficient_scope", scope="files:any"`},
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

func TestChallengeOfErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err       error
		status    int
		challenge string
	}{
		"an account that has changed": {fmt.Errorf("ada: %w", ErrStale), 401, realm + `, error="invalid_token", error_description="` + ErrStale.Error() + `"`},
		"a session that has ended":    {fmt.Errorf("ada: %w", problem.SessionEnded.With("sign in again")), 401, realm},
		"a store that is unavailable": {problem.Unavailable.With("try again"), 503, ""},
	} {
		answer := httptest.NewRecorder()
		problem.Write(answer, httptest.NewRequest("GET", "/", nil), Challenge(c.err))
		if got := answer.Header().Get("WWW-Authenticate"); answer.Code != c.status || got != c.challenge {
			t.Errorf("%s: got status %d and challenge %q, want %d and %q", name, answer.Code, got, c.status, c.challenge)
		}
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
		"RSA key, no exponent":    `{"keys":[{"kty":"RSA","n":"` + encode(append([]byte{0x80}, make([]byte, 255)...)) + `"}]}`,
		"key that is a number":    `{"keys":[7]}`,
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
	for _, pair := range [][2]string{{"", audience}, {issuer, ""}} {
		if _, err := NewVerifier(keys, pair[0], pair[1]); err == nil {
			t.Errorf("got a verifier for issuer %q and audience %q, want an error", pair[0], pair[1])
		}
	}
	type config struct {
		path, issuer, audience string
		lifetime               time.Duration
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
	good := config{path: write("good", private), issuer: issuer, audience: audience, lifetime: time.Minute}
	// RFC 8037, appendix A.1, has this key.
	const ed25519 = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}`
	for name, c := range map[string]struct {
		change func(*config)
		want   string // a part of the error
	}{
		"no issuer":                 {func(c *config) { c.issuer = "" }, "TOKEN_ISSUER"},
		"no audience":               {func(c *config) { c.audience = "" }, "TOKEN_AUDIENCE"},
		"no lifetime":               {func(c *config) { c.lifetime = 0 }, "TOKEN_LIFETIME: "},
		"no file":                   {func(c *config) { c.path = filepath.Join(dir, "none") }, "TOKEN_SIGNING_KEY_FILE: stat " + filepath.Join(dir, "none")},
		"no private part":           {func(c *config) { c.path = write("public", []byte(public)) }, "is not a valid private key"},
		"mismatched private part":   {func(c *config) { c.path = write("mixed", mixedJSON) }, "does not match its public key"},
		"key for another algorithm": {func(c *config) { c.path = write("ed25519", []byte(ed25519)) }, "the key is for EdDSA, want ES256"},
		"file too large":            {func(c *config) { c.path = write("large", make([]byte, maxKeysFile+1)) }, "is larger than 262144 bytes"},
		"file is not a JWK":         {func(c *config) { c.path = write("nonsense", []byte("x")) }, "TOKEN_SIGNING_KEY_FILE: load " + filepath.Join(dir, "nonsense")},
	} {
		s := good
		c.change(&s)
		_, err := SignerSettings{s.path, s.issuer, s.audience, s.lifetime}.Signer()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one that contains %q", name, err, c.want)
		} else if strings.Contains(err.Error(), mixed.D) {
			t.Errorf("%s: the error contains the private key", name)
		}
	}
}

// TestVerifierSettings checks that the verifier publishes its keys and accepts the signer's tokens. The error for an
// invalid key file names the setting and the file.
func TestVerifierSettings(t *testing.T) {
	private, jwks, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{"private": private, "jwks": jwks, "cut off": jwks[:len(jwks)-1], "large": make([]byte, maxKeysFile+1)} {
		if err := os.WriteFile(path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"none", "private", "cut off", "large"} {
		if _, err := (Settings{path(name), issuer, audience}).Verifier(); err == nil || !strings.HasPrefix(err.Error(), "TOKEN_KEYS_FILE: ") || !strings.Contains(err.Error(), path(name)) {
			t.Errorf("file %q: got error %v, want one that names the setting and the file", name, err)
		}
	}
	verifier, err := Settings{path("jwks"), issuer, audience}.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := SignerSettings{path("private"), issuer, audience, time.Minute}.Signer()
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := signer.Sign(ada)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(raw); err != nil {
		t.Errorf("verify the signer's token: got error %v, want none", err)
	}
	published, err := ParseKeys(verifier.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := published.Open(raw); err != nil {
		t.Errorf("verify the signer's token with the published keys: got error %v, want none", err)
	}
}

func TestScopesOf(t *testing.T) {
	for roles, want := range map[string]string{
		"":           "",
		"user":       "files:read files:write",
		"admin user": "files:read files:write files:any accounts:manage",
		"nonsense":   "",
	} {
		if got := ScopesOf(strings.Fields(roles)); got != want {
			t.Errorf("ScopesOf(%q) = %q, want %q", roles, got, want)
		}
	}
}
