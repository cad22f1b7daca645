// Package passkey performs the WebAuthn ceremonies (https://www.w3.org/TR/webauthn-3/) that register a passkey and that
// sign a user in with a passkey. A passkey is a discoverable credential. Each ceremony requires user verification,
// such as a fingerprint or a PIN, so a passkey consists of two factors.
package passkey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

// MaxBody is the maximum size of a request body with the response of an authenticator, in bytes. A response without an
// attestation statement has less than 8 KiB.
const MaxBody = 16 << 10

// ErrRefused is the error for every passkey that is not accepted, so that the response does not reveal the reason.
var ErrRefused = problem.BadPasskey.With("the passkey is unknown, or its response is invalid or too old: try again").
	// RFC 9110, section 15.5.2, requires a challenge in a 401 response.
	Header("WWW-Authenticate", `Bearer realm="strongroom"`)

// ErrNotRegistered is the error for every new passkey that is not accepted.
var ErrNotRegistered = problem.Unprocessable.With("the passkey cannot be added, because the response of the authenticator is invalid or too old: try again")

var errNoKey = problem.Unavailable.With("passkeys are not available: GATEWAY_KEY_FILE is not set")

// Ceremonies performs ceremonies. It stores no state between the two requests of a ceremony (see newChallenge).
type Ceremonies struct {
	trust client.Trust
	now   func() time.Time
}

// New returns Ceremonies that sign challenges with the key of trust, the key of the gateway. Without a key, every
// ceremony fails with a problem.Unavailable.
func New(trust client.Trust, now func() time.Time) *Ceremonies { return &Ceremonies{trust, now} }

// party returns the relying party for r. Its ID is the domain in the address of the gateway.
//
// A client that forges the Host header changes the ID only for its own request. This gives the client no access,
// because an authenticator signs the ID of the relying party for which the passkey was created, and a browser adds the
// origin of the page. Both must match the party. The party must also match the party of the passkey and of the
// challenge.
func (c *Ceremonies) party(r *http.Request) (*webauthn.WebAuthn, error) {
	if len(c.trust.Key) == 0 {
		return nil, errNoKey
	}
	host := strings.ToLower(c.trust.Host(r))
	domain := host
	if name, _, err := net.SplitHostPort(host); err == nil {
		domain = name
	}
	// Browsers support passkeys only on pages with HTTPS, and on pages of the local machine.
	origins := []string{"https://" + host}
	if domain == "localhost" || strings.HasSuffix(domain, ".localhost") {
		origins = append(origins, "http://"+host)
	}
	required := true
	party, err := webauthn.New(&webauthn.Config{
		RPID:          domain,
		RPDisplayName: "Strongroom",
		RPOrigins:     origins,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey:        protocol.ResidentKeyRequirementRequired,
			RequireResidentKey: &required,
			UserVerification:   protocol.VerificationRequired,
		},
		AttestationPreference: protocol.PreferNoAttestation,
		Timeouts: webauthn.TimeoutsConfig{
			Login:        webauthn.TimeoutConfig{Timeout: lifetime},
			Registration: webauthn.TimeoutConfig{Timeout: lifetime},
		},
		// Some password managers add the output of an extension that the options do not request.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
	})
	if err != nil {
		return nil, problem.BadRequest.Because(err, "passkeys require a domain name: use an address of Strongroom that is not an IP address")
	}
	return party, nil
}

// user implements webauthn.User.
type user struct {
	accounts.User
	id          uuid.UUID
	credentials []webauthn.Credential
}

func (u user) WebAuthnID() []byte                         { return u.id[:] }
func (u user) WebAuthnName() string                       { return u.Username }
func (u user) WebAuthnDisplayName() string                { return u.Username }
func (u user) WebAuthnCredentials() []webauthn.Credential { return u.credentials }

func userOf(u accounts.User, passkeys ...accounts.Passkey) (user, error) {
	id, err := uuid.Parse(u.ID)
	if err != nil {
		return user{}, fmt.Errorf("parse user ID %q: %w", u.ID, err)
	}
	known := user{u, id, nil}
	for _, p := range passkeys {
		var credential webauthn.Credential
		if err := json.Unmarshal(p.Credential, &credential); err != nil {
			return user{}, fmt.Errorf("decode passkey %s: %w", p.ID, err)
		}
		known.credentials = append(known.credentials, credential)
	}
	return known, nil
}

// CreationOptions is the response that begins a registration. Its JSON form is an object with the member publicKey,
// for PublicKeyCredential.parseCreationOptionsFromJSON.
type CreationOptions struct {
	PublicKey protocol.PublicKeyCredentialCreationOptions `json:"publicKey"`
}

// RequestOptions is the response that begins a sign-in. Its JSON form is an object with the member publicKey, for
// PublicKeyCredential.parseRequestOptionsFromJSON.
type RequestOptions struct {
	PublicKey protocol.PublicKeyCredentialRequestOptions `json:"publicKey"`
}

// BeginRegistration begins the registration of a passkey for u, who already has the given passkeys.
func (c *Ceremonies) BeginRegistration(r *http.Request, u accounts.User, existing []accounts.Passkey) (CreationOptions, error) {
	party, err := c.party(r)
	if err != nil {
		return CreationOptions{}, err
	}
	known, err := userOf(u, existing...)
	if err != nil {
		return CreationOptions{}, err
	}
	var exclude []protocol.CredentialDescriptor
	for i, credential := range known.credentials {
		if existing[i].Party == party.Config.RPID {
			exclude = append(exclude, credential.Descriptor())
		}
	}
	options, _, err := party.BeginRegistration(known, webauthn.WithExclusions(exclude),
		func(options *protocol.PublicKeyCredentialCreationOptions) error {
			options.Challenge = c.newChallenge(party, registration(u.ID))
			return nil
		})
	if err != nil {
		return CreationOptions{}, fmt.Errorf("begin the registration of a passkey: %w", err)
	}
	return CreationOptions{options.Response}, nil
}

// Register checks the response of an authenticator to BeginRegistration. It returns the passkey, without a name, and
// the challenge, which the caller must mark as used. The error is a problem.Unprocessable if the response is not
// accepted.
func (c *Ceremonies) Register(r *http.Request, u accounts.User, response []byte) (accounts.Passkey, accounts.Challenge, error) {
	refuse := func(err error) (accounts.Passkey, accounts.Challenge, error) {
		slog.InfoContext(r.Context(), "rejected a new passkey", "user_id", u.ID, "error", reason(err))
		return accounts.Passkey{}, accounts.Challenge{}, ErrNotRegistered
	}
	party, err := c.party(r)
	if err != nil {
		return accounts.Passkey{}, accounts.Challenge{}, err
	}
	known, err := userOf(u)
	if err != nil {
		return accounts.Passkey{}, accounts.Challenge{}, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(response)
	if err != nil {
		return refuse(err)
	}
	text := parsed.Response.CollectedClientData.Challenge
	challenge, err := c.openChallenge(party, registration(u.ID), text)
	if err != nil {
		return refuse(err)
	}
	credential, err := party.CreateCredential(known, webauthn.SessionData{
		Challenge:        text,
		UserID:           known.WebAuthnID(),
		UserVerification: protocol.VerificationRequired,
		CredParams:       webauthn.CredentialParametersDefault(),
	}, parsed)
	if err != nil {
		return refuse(err)
	}
	// Do not store the attestation, because the options request none.
	credential.Attestation = webauthn.CredentialAttestation{}
	encoded, err := json.Marshal(credential)
	if err != nil {
		return accounts.Passkey{}, accounts.Challenge{}, fmt.Errorf("encode a passkey: %w", err)
	}
	return accounts.Passkey{CredentialID: credential.ID, Credential: encoded, Party: party.Config.RPID}, challenge, nil
}

// BeginSignIn begins a sign-in. The authenticator lets the user select a passkey, so the options name no user.
func (c *Ceremonies) BeginSignIn(r *http.Request) (RequestOptions, error) {
	party, err := c.party(r)
	if err != nil {
		return RequestOptions{}, err
	}
	options, _, err := party.BeginDiscoverableLogin(webauthn.WithChallenge(c.newChallenge(party, signIn)))
	if err != nil {
		return RequestOptions{}, fmt.Errorf("begin a sign-in with a passkey: %w", err)
	}
	return RequestOptions{options.Response}, nil
}

// Store contains the methods of accounts.Store that a sign-in uses.
type Store interface {
	PasskeyOwner(ctx context.Context, credentialID []byte) (accounts.Passkey, accounts.User, error)
	UsePasskey(ctx context.Context, p accounts.Passkey, c accounts.Challenge) error
}

// SignIn checks the response of an authenticator to BeginSignIn, and returns the user of the passkey. The error is
// ErrRefused if the response is not accepted, if the same response was already accepted, or if the user is disabled.
func (c *Ceremonies) SignIn(r *http.Request, store Store, response []byte) (accounts.User, error) {
	var owner accounts.User
	refuse := func(err error) (accounts.User, error) {
		slog.InfoContext(r.Context(), "rejected sign-in with a passkey", "event", "signin.refused", "user_id", owner.ID,
			"disabled", owner.Disabled, "address", request.OriginOf(r.Context()).Address, "error", reason(err))
		return accounts.User{}, ErrRefused
	}
	party, err := c.party(r)
	if err != nil {
		return accounts.User{}, err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(response)
	if err != nil {
		return refuse(err)
	}
	text := parsed.Response.CollectedClientData.Challenge
	challenge, err := c.openChallenge(party, signIn, text)
	if err != nil {
		return refuse(err)
	}
	stored, owner, err := store.PasskeyOwner(r.Context(), parsed.RawID)
	if errors.Is(err, problem.NotFound) {
		return refuse(err)
	} else if err != nil {
		return accounts.User{}, err
	}
	known, err := userOf(owner, stored)
	if err != nil {
		return accounts.User{}, err
	}
	_, credential, err := party.ValidatePasskeyLogin(func(_, _ []byte) (webauthn.User, error) { return known, nil },
		webauthn.SessionData{Challenge: text, UserVerification: protocol.VerificationRequired}, parsed)
	switch {
	case err == nil && stored.Party != party.Config.RPID:
		err = fmt.Errorf("the passkey was created for %s, not for %s", stored.Party, party.Config.RPID)
	case err == nil && owner.Disabled:
		err = errors.New("the user is disabled")
	}
	if err != nil {
		return refuse(err)
	}
	if credential.Authenticator.CloneWarning {
		// Only log a warning, because the counter can also be wrong for other reasons, such as a restored backup of
		// the account store, and most passkeys have no counter (WebAuthn Level 3, section 6.1.1).
		slog.WarnContext(r.Context(), "the signature counter of a passkey did not increase: the passkey might have been copied",
			"user_id", owner.ID, "passkey_id", stored.ID)
	}
	credential.Authenticator.CloneWarning = false
	if stored.Credential, err = json.Marshal(credential); err != nil {
		return accounts.User{}, fmt.Errorf("encode passkey %s: %w", stored.ID, err)
	}
	err = store.UsePasskey(r.Context(), stored, challenge)
	if errors.Is(err, accounts.ErrChallengeUsed) || errors.Is(err, problem.NotFound) {
		return refuse(err)
	} else if err != nil {
		return accounts.User{}, err
	}
	return owner, nil
}

// reason returns the full reason for an error of the WebAuthn library, for the log.
func reason(err error) error {
	var detailed *protocol.Error
	if errors.As(err, &detailed) && detailed.DevInfo != "" {
		return fmt.Errorf("%w: %s", err, detailed.DevInfo)
	}
	return err
}
