package passkey_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/passkey"
	"github.com/strongroom-dev/strongroom/shared/passkey/passkeytest"
	"github.com/strongroom-dev/strongroom/shared/problem"
	requests "github.com/strongroom-dev/strongroom/shared/request"
)

// ada and grace are the users in the tests.
var (
	ada   = accounts.User{ID: "0195a3f0-0000-7000-8000-00000000ada0", Username: "ada"}
	grace = accounts.User{ID: "0195a3f0-0000-7000-8000-0000000face0", Username: "grace"}
)

// trust has the key of the gateway.
var trust = client.Trust{Key: bytes.Repeat([]byte("k"), 32)}

const (
	host   = "files.example:8443"
	origin = "https://" + host
)

// fixture has the ceremonies and a store with at most one passkey. It implements passkey.Store.
type fixture struct {
	*passkey.Ceremonies
	now     time.Time
	owner   accounts.User
	passkey accounts.Passkey
	used    map[[16]byte]bool
	err     error
}

func newFixture() *fixture {
	f := &fixture{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), owner: ada, used: map[[16]byte]bool{}}
	f.Ceremonies = passkey.New(trust, func() time.Time { return f.now })
	return f
}

func (f *fixture) PasskeyOwner(_ context.Context, credentialID []byte) (accounts.Passkey, accounts.User, error) {
	if !bytes.Equal(credentialID, f.passkey.CredentialID) {
		return accounts.Passkey{}, accounts.User{}, problem.NotFound.With("no such passkey")
	}
	return f.passkey, f.owner, f.err
}

func (f *fixture) UsePasskey(_ context.Context, p accounts.Passkey, c accounts.Challenge) error {
	if f.used[c.Nonce] {
		return accounts.ErrChallengeUsed
	}
	f.used[c.Nonce], f.passkey = true, p
	return nil
}

// request returns a request through the gateway at the given host.
func request(host string) *http.Request {
	r := httptest.NewRequest("POST", "http://login.internal/login/passkey", nil)
	r.Header.Set("X-Forwarded-Host", host)
	trust.Introduce(r.Header, &requests.Origin{ID: "r1"})
	return r
}

// options returns the JSON form of options.
func options(t *testing.T, value any, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// register registers the passkey of an authenticator for ada.
func (f *fixture) register(t *testing.T, host string, a *passkeytest.Authenticator) {
	t.Helper()
	begun, err := f.BeginRegistration(request(host), ada, nil)
	var used accounts.Challenge
	f.passkey, used, err = f.Register(request(host), ada, a.Create(t, options(t, begun, err)))
	if err != nil {
		t.Fatal(err)
	}
	f.used[used.Nonce] = true
}

// TestSignIn checks which responses of an authenticator sign the user in. Each case changes a successful sign-in.
func TestSignIn(t *testing.T) {
	for name, test := range map[string]struct {
		host, origin string                                         // the defaults are host and origin
		change       func(f *fixture, a *passkeytest.Authenticator) // changes the ceremony before the response is created
		forge        func(response []byte) []byte                   // changes the response
		later        func(f *fixture)                               // runs before the response is sent
		begin        string                                         // the host of the first request; the default is host
		finishAt     string                                         // the host of the second request; the default is host
		want         error
	}{
		"domain with a port":     {},
		"domain":                 {host: "files.example", origin: "https://files.example"},
		"domain in capitals":     {host: "Files.Example", origin: "https://files.example"},
		"local machine":          {host: "localhost:8080", origin: "http://localhost:8080"},
		"subdomain of localhost": {host: "gateway.localhost:8080", origin: "http://gateway.localhost:8080"},
		"last second":            {later: func(f *fixture) { f.now = f.now.Add(5*time.Minute - time.Second) }},
		"plain HTTP":             {origin: "http://" + host, want: problem.BadPasskey},
		"wrong origin":           {origin: "https://evil.example", want: problem.BadPasskey},
		"wrong port":             {origin: "https://files.example", want: problem.BadPasskey},
		"forged host":            {finishAt: "evil.example", want: problem.BadPasskey},
		"passkey of another domain": {begin: "evil.example", finishAt: "evil.example", change: func(_ *fixture, a *passkeytest.Authenticator) {
			a.Party, a.Origin = "evil.example", "https://evil.example"
		}, want: problem.BadPasskey},
		"challenge of another domain": {finishAt: "evil.example", change: func(f *fixture, a *passkeytest.Authenticator) {
			a.Party, a.Origin, f.passkey.Party = "evil.example", "https://evil.example", "evil.example"
		}, want: problem.BadPasskey},
		"wrong relying party":      {change: func(_ *fixture, a *passkeytest.Authenticator) { a.Party = "evil.example" }, want: problem.BadPasskey},
		"user not verified":        {change: func(_ *fixture, a *passkeytest.Authenticator) { a.Unverified = true }, want: problem.BadPasskey},
		"disabled user":            {change: func(f *fixture, _ *passkeytest.Authenticator) { f.owner.Disabled = true }, want: problem.BadPasskey},
		"removed passkey":          {change: func(f *fixture, _ *passkeytest.Authenticator) { f.passkey = accounts.Passkey{} }, want: problem.BadPasskey},
		"passkey of another user":  {change: func(f *fixture, _ *passkeytest.Authenticator) { f.owner = grace }, want: problem.BadPasskey},
		"counter did not increase": {change: func(_ *fixture, a *passkeytest.Authenticator) { a.Counter = 0 }},
		"expired challenge":        {later: func(f *fixture) { f.now = f.now.Add(5 * time.Minute) }, want: problem.BadPasskey},
		"store down":               {later: func(f *fixture) { f.err = problem.Unavailable.With("down") }, want: problem.Unavailable},
		"response is not JSON":     {forge: func([]byte) []byte { return []byte("x") }, want: problem.BadPasskey},
		"response without members": {forge: func([]byte) []byte { return []byte("{}") }, want: problem.BadPasskey},
		"changed signature": {forge: func(response []byte) []byte {
			return replaceMember(response, "signature", "AAAA")
		}, want: problem.BadPasskey},
		"own challenge": {forge: func(response []byte) []byte {
			data := `{"type":"webauthn.get","challenge":"` + base64.RawURLEncoding.EncodeToString(make([]byte, 56)) + `","origin":"` + origin + `"}`
			return replaceMember(response, "clientDataJSON", base64.RawURLEncoding.EncodeToString([]byte(data)))
		}, want: problem.BadPasskey},
	} {
		t.Run(name, func(t *testing.T) {
			at, page := host, origin
			if test.host != "" {
				at = test.host
			}
			f := newFixture()
			a := passkeytest.New(t, page)
			if test.host != "" {
				a.Origin = test.origin
			}
			a.Counter = 5
			f.register(t, at, a)
			if test.origin != "" {
				a.Origin = test.origin
			}
			if test.change != nil {
				test.change(f, a)
			}
			begun, err := f.BeginSignIn(request(cmp.Or(test.begin, at)))
			response := a.Get(t, options(t, begun, err))
			if test.forge != nil {
				response = test.forge(response)
			}
			if test.later != nil {
				test.later(f)
			}
			if test.finishAt != "" {
				at = test.finishAt
			}
			var log bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
			u, err := f.SignIn(request(at), f, response)
			slog.SetDefault(before)
			if warned := strings.Contains(log.String(), "might have been copied"); warned != (name == "counter did not increase") {
				t.Errorf("got log %s, want a warning only if the counter did not increase", &log)
			}
			if !errors.Is(err, test.want) || test.want == nil && (err != nil || u.ID != ada.ID) {
				t.Fatalf("got user %q and error %v, want error %v", u.ID, err, test.want)
			}
			if test.want != nil {
				return
			}
			if u, err := f.SignIn(request(at), f, response); !errors.Is(err, problem.BadPasskey) {
				t.Errorf("the same response again: got user %q and error %v, want %v", u.ID, err, passkey.ErrRefused)
			}
			begun, err = f.BeginSignIn(request(at))
			if u, err := f.SignIn(request(at), f, a.Get(t, options(t, begun, err))); err != nil || u.ID != ada.ID {
				t.Errorf("a second sign-in: got user %q and error %v, want %s", u.ID, err, ada.ID)
			}
		})
	}
}

// replaceMember returns a response in which a member of the member "response" has another value.
func replaceMember(response []byte, name, value string) []byte {
	var credential map[string]any
	if err := json.Unmarshal(response, &credential); err != nil {
		panic(err)
	}
	credential["response"].(map[string]any)[name] = value
	changed, err := json.Marshal(credential)
	if err != nil {
		panic(err)
	}
	return changed
}

// TestRegistration checks which responses of an authenticator register a passkey. Each case changes a successful
// registration.
func TestRegistration(t *testing.T) {
	for name, test := range map[string]struct {
		change func(a *passkeytest.Authenticator)
		user   accounts.User // the user of the second request; the default is ada
		at     string        // the host of the second request; the default is host
		after  time.Duration // between the requests
		forge  func(f *fixture, options []byte) []byte
		want   error
	}{
		"valid":               {},
		"wrong origin":        {change: func(a *passkeytest.Authenticator) { a.Origin = "https://evil.example" }, want: problem.Unprocessable},
		"wrong relying party": {change: func(a *passkeytest.Authenticator) { a.Party = "evil.example" }, want: problem.Unprocessable},
		"user not verified":   {change: func(a *passkeytest.Authenticator) { a.Unverified = true }, want: problem.Unprocessable},
		"ES256K":              {change: func(a *passkeytest.Authenticator) { a.Algorithm = -47 }, want: problem.Unprocessable},
		"another user":        {user: grace, want: problem.Unprocessable},
		"another host":        {at: "evil.example", want: problem.Unprocessable},
		"expired":             {after: 5 * time.Minute, want: problem.Unprocessable},
		"challenge of a sign-in": {forge: func(f *fixture, created []byte) []byte {
			begun, err := f.BeginSignIn(request(host))
			if err != nil {
				panic(err)
			}
			return bytes.Replace(created, challengeOf(created), []byte(begun.PublicKey.Challenge.String()), 1)
		}, want: problem.Unprocessable},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			a := passkeytest.New(t, origin)
			if test.change != nil {
				test.change(a)
			}
			begun, err := f.BeginRegistration(request(host), ada, nil)
			created := options(t, begun, err)
			if test.forge != nil {
				created = test.forge(f, created)
			}
			response := a.Create(t, created)
			f.now = f.now.Add(test.after)
			u, at := ada, host
			if test.user.ID != "" {
				u = test.user
			}
			if test.at != "" {
				at = test.at
			}
			p, _, err := f.Register(request(at), u, response)
			if !errors.Is(err, test.want) || test.want == nil && (err != nil || p.Party != "files.example" || len(p.CredentialID) == 0) {
				t.Errorf("got passkey %+v and error %v, want error %v", p, err, test.want)
			}
		})
	}
}

// challengeOf returns the challenge in creation options.
func challengeOf(options []byte) []byte {
	var o struct {
		PublicKey struct {
			Challenge string `json:"challenge"`
		} `json:"publicKey"`
	}
	if err := json.Unmarshal(options, &o); err != nil {
		panic(err)
	}
	return []byte(o.PublicKey.Challenge)
}

// TestOptions checks that options require a discoverable credential and user verification, and that each challenge is
// new. Creation options exclude the passkeys of the same domain, and permit only signature algorithms that NIST has
// approved (FIPS 186-5), with SHA-256 or a longer hash.
func TestOptions(t *testing.T) {
	f := newFixture()
	a := passkeytest.New(t, origin)
	f.register(t, host, a)
	elsewhere := f.passkey
	elsewhere.Party = "old.example"
	creation, err := f.BeginRegistration(request(host), ada, []accounts.Passkey{f.passkey, elsewhere})
	if err != nil {
		t.Fatal(err)
	}
	if o := creation.PublicKey; o.AuthenticatorSelection.ResidentKey != "required" || o.AuthenticatorSelection.UserVerification != "required" ||
		o.RelyingParty.ID != "files.example" || len(o.CredentialExcludeList) != 1 {
		t.Errorf("got creation options %+v", o)
	}
	// The COSE identifiers (RFC 9053, section 2, and RFC 8812, section 2) of ECDSA, EdDSA, RSASSA-PSS and
	// RSASSA-PKCS1-v1_5.
	approved := []int{-7, -35, -36, -8, -37, -38, -39, -257, -258, -259}
	for _, p := range creation.PublicKey.Parameters {
		if !slices.Contains(approved, int(p.Algorithm)) {
			t.Errorf("got the algorithm %d, want one of %d", p.Algorithm, approved)
		}
	}
	sign, err := f.BeginSignIn(request(host))
	if err != nil {
		t.Fatal(err)
	}
	if o := sign.PublicKey; o.UserVerification != "required" || o.RelyingPartyID != "files.example" || len(o.AllowedCredentials) != 0 {
		t.Errorf("got request options %+v", o)
	}
	again, err := f.BeginSignIn(request(host))
	if err != nil {
		t.Fatal(err)
	}
	const nonce = 16 // bytes at the beginning of a challenge
	nonces := map[string]bool{}
	for _, challenge := range [][]byte{creation.PublicKey.Challenge, sign.PublicKey.Challenge, again.PublicKey.Challenge} {
		nonces[string(challenge[:nonce])] = true
	}
	if len(nonces) != 3 {
		t.Errorf("got %d nonces in three challenges, want 3", len(nonces))
	}
}

// TestUnavailable checks the errors for a system that cannot support passkeys.
func TestUnavailable(t *testing.T) {
	for name, test := range map[string]struct {
		trust client.Trust
		host  string
		want  error
	}{
		"no key":         {host: host, want: problem.Unavailable},
		"IP address":     {trust: trust, host: "127.0.0.1:8080", want: problem.BadRequest},
		"IPv6 address":   {trust: trust, host: "[::1]:8080", want: problem.BadRequest},
		"malformed host": {trust: trust, host: "files.example/x", want: problem.BadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			c := passkey.New(test.trust, time.Now)
			if _, err := c.BeginSignIn(request(test.host)); !errors.Is(err, test.want) {
				t.Errorf("got error %v, want %v", err, test.want)
			}
		})
	}
}
