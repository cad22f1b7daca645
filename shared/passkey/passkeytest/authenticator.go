// Package passkeytest provides a software authenticator for tests of passkeys.
package passkeytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// Authenticator has one passkey. It responds to options like a browser with an authenticator. The fields change its
// responses, so that tests can check which responses are refused.
type Authenticator struct {
	Origin     string // the origin of the page, such as https://files.example
	Unverified bool   // do not report that the user was verified
	Counter    uint32 // the signature counter
	Party      string // the relying party ID; the default is the ID in the options
	Algorithm  int    // the COSE identifier of the algorithm of the public key

	id     []byte
	key    *ecdsa.PrivateKey
	handle []byte
}

// New returns an authenticator with a new passkey, for a page with the given origin.
func New(t *testing.T, origin string) *Authenticator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 32)
	rand.Read(id)
	return &Authenticator{Origin: origin, Algorithm: es256, id: id, key: key}
}

// es256 is the COSE identifier of ES256 (RFC 9053, section 2.1).
const es256 = -7

// options contains the members of creation and request options that the authenticator uses.
type options struct {
	PublicKey struct {
		Challenge string `json:"challenge"`
		RPID      string `json:"rpId"`
		RP        struct {
			ID string `json:"id"`
		} `json:"rp"`
		User struct {
			ID string `json:"id"`
		} `json:"user"`
	} `json:"publicKey"`
}

// The flags of authenticator data (WebAuthn Level 3, section 6.1).
const (
	flagPresent  = 1 << 0
	flagVerified = 1 << 2
	flagAttested = 1 << 6
)

// Create returns the JSON form of the response to creation options.
func (a *Authenticator) Create(t *testing.T, optionsJSON []byte) []byte {
	t.Helper()
	o := decode(t, optionsJSON)
	a.handle = unbase64(t, o.PublicKey.User.ID)
	point, err := a.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	// The public key in COSE form (RFC 9053, section 7.1.1): key type EC2, algorithm, curve P-256, x and y.
	public := encode(t, map[int]any{1: 2, 3: a.Algorithm, -1: 1, -2: point[1:33], -3: point[33:]})
	data := a.data(o.PublicKey.RP.ID, flagAttested)
	data = append(data, make([]byte, 16)...) // AAGUID
	data = binary.BigEndian.AppendUint16(data, uint16(len(a.id)))
	data = append(append(data, a.id...), public...)
	object := encode(t, map[string]any{"fmt": "none", "attStmt": map[string]any{}, "authData": data})
	return a.respond(t, map[string]any{
		"clientDataJSON":    a.clientData(t, "webauthn.create", o.PublicKey.Challenge),
		"attestationObject": base64url(object),
		"transports":        []string{"internal"},
	})
}

// Get returns the JSON form of the response to request options.
func (a *Authenticator) Get(t *testing.T, optionsJSON []byte) []byte {
	t.Helper()
	o := decode(t, optionsJSON)
	a.Counter++
	data := a.data(o.PublicKey.RPID, 0)
	client := a.clientData(t, "webauthn.get", o.PublicKey.Challenge)
	hash := sha256.Sum256(unbase64(t, client))
	digest := sha256.Sum256(append(bytes.Clone(data), hash[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return a.respond(t, map[string]any{
		"clientDataJSON":    client,
		"authenticatorData": base64url(data),
		"signature":         base64url(signature),
		"userHandle":        base64url(a.handle),
	})
}

// data returns authenticator data without attested credential data.
func (a *Authenticator) data(party string, flags byte) []byte {
	if a.Party != "" {
		party = a.Party
	}
	flags |= flagPresent
	if !a.Unverified {
		flags |= flagVerified
	}
	hash := sha256.Sum256([]byte(party))
	return binary.BigEndian.AppendUint32(append(hash[:], flags), a.Counter)
}

func (a *Authenticator) clientData(t *testing.T, kind, challenge string) string {
	t.Helper()
	data, err := json.Marshal(map[string]any{"type": kind, "challenge": challenge, "origin": a.Origin, "crossOrigin": false})
	if err != nil {
		t.Fatal(err)
	}
	return base64url(data)
}

func (a *Authenticator) respond(t *testing.T, response map[string]any) []byte {
	t.Helper()
	credential, err := json.Marshal(map[string]any{
		"id": base64url(a.id), "rawId": base64url(a.id), "type": "public-key", "authenticatorAttachment": "platform",
		"clientExtensionResults": map[string]any{}, "response": response,
	})
	if err != nil {
		t.Fatal(err)
	}
	return credential
}

func decode(t *testing.T, optionsJSON []byte) (o options) {
	t.Helper()
	if err := json.Unmarshal(optionsJSON, &o); err != nil {
		t.Fatalf("decode options %s: %v", optionsJSON, err)
	}
	return o
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	mode, err := cbor.CTAP2EncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	data, err := mode.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func base64url(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func unbase64(t *testing.T, text string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
