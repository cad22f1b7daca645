package passkey

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/strongroom-dev/strongroom/shared/accounts"
)

// lifetime is how long a user can take to respond to a challenge.
const lifetime = 5 * time.Minute

// signIn is the purpose of a challenge for a sign-in.
const signIn = "sign-in"

// registration returns the purpose of a challenge for the registration of a passkey of a user.
func registration(userID string) string { return "registration " + userID }

const (
	nonceSize     = len(accounts.Challenge{}.Nonce)
	expirySize    = 8 // a Unix time in seconds
	challengeSize = nonceSize + expirySize + sha256.Size
)

// newChallenge returns a challenge that is valid only for the given party and purpose. It consists of a random nonce,
// the time of expiry, and the HMAC-SHA-256 of both, of the ID of the party and of the purpose. Because a challenge
// proves its own origin and age, the function does not store it, and anonymous clients cannot fill the database.
func (c *Ceremonies) newChallenge(party *webauthn.WebAuthn, purpose string) []byte {
	challenge := make([]byte, nonceSize, challengeSize)
	rand.Read(challenge) // rand.Read never fails
	challenge = binary.BigEndian.AppendUint64(challenge, uint64(c.now().Add(lifetime).Unix()))
	return append(challenge, c.sum(party, purpose, challenge)...)
}

// openChallenge returns the nonce and the time of expiry of a challenge. text is the challenge in base64url, as in the
// client data of a response. The error states why the challenge is not valid for the given party and purpose.
func (c *Ceremonies) openChallenge(party *webauthn.WebAuthn, purpose, text string) (accounts.Challenge, error) {
	challenge, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(challenge) != challengeSize {
		return accounts.Challenge{}, errors.New("the challenge is malformed")
	}
	signed, sum := challenge[:nonceSize+expirySize], challenge[nonceSize+expirySize:]
	if !hmac.Equal(sum, c.sum(party, purpose, signed)) {
		return accounts.Challenge{}, errors.New("the challenge was not issued for this domain and purpose")
	}
	expires := time.Unix(int64(binary.BigEndian.Uint64(signed[nonceSize:])), 0)
	if !c.now().Before(expires) {
		return accounts.Challenge{}, errors.New("the challenge has expired")
	}
	return accounts.Challenge{Nonce: [nonceSize]byte(signed), Expires: expires}, nil
}

// sum returns the HMAC of a fixed prefix, the ID of the party, the purpose and the given bytes. Because of the prefix,
// an HMAC that was computed for another purpose with the same key is never a valid signature of a challenge.
func (c *Ceremonies) sum(party *webauthn.WebAuthn, purpose string, signed []byte) []byte {
	mac := hmac.New(sha256.New, c.trust.Key)
	_, _ = mac.Write([]byte("passkey challenge\n" + party.Config.RPID + "\n" + purpose + "\n")) // never fails
	_, _ = mac.Write(signed)
	return mac.Sum(nil)
}
