package accounts

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/function"
)

// HeaderDevice is the header in which a client sends the device token of an earlier sign-in.
const HeaderDevice = "X-Device-Token"

// KeySettings is the setting for the key of the functions that call Attempt, Unlock or Update.
type KeySettings struct {
	// SignInKeyFile is the path of the file that contains the HMAC key for device tokens and for hashes of user names.
	// All of these functions must have the same key.
	SignInKeyFile string `env:"SIGN_IN_KEY_FILE,required,notEmpty"`
}

// LoadKey reads the key file. An error names the invalid setting.
func (s KeySettings) LoadKey() ([]byte, error) {
	return function.LoadKey("SIGN_IN_KEY_FILE", s.SignInKeyFile)
}

// UseKey sets the key from KeySettings. It must be called before Attempt, Unlock and Update.
func (s *Store) UseKey(key []byte) { s.lockout.key = key }

// sum returns the HMAC-SHA-256 of a text.
func (l *lockout) sum(text string) []byte {
	mac := hmac.New(sha256.New, l.key)
	_, _ = mac.Write([]byte(text)) // never fails
	return mac.Sum(nil)
}

// deviceSize is the size of a device token in bytes: the ID of a user, a random ID of the device, the time in
// microseconds since 1970, and an HMAC-SHA-256 of these values.
const deviceSize = len(uuid.UUID{}) + len(uuid.UUID{}) + 8 + sha256.Size

// DeviceToken returns a token that identifies the client's device in later attempts of the user, for 30 days. If the
// client already has a device token of this user, the new token identifies the same device.
func (s *Store) DeviceToken(u User, given string) (string, error) {
	return s.lockout.newDevice(u.ID, given)
}

func (l *lockout) newDevice(userID, given string) (string, error) {
	user, err := parseID(userID)
	if err != nil {
		return "", err
	}
	device, err := uuid.NewRandom()
	if err != nil {
		return "", err
	}
	if id, known := l.parseDevice(given); id == userID {
		device = uuid.MustParse(known)
	}
	raw := append(append(user[:], device[:]...), binary.BigEndian.AppendUint64(nil, uint64(l.now().UnixMicro()))...)
	return base64.RawURLEncoding.EncodeToString(append(raw, l.sum("device\n"+string(raw))...)), nil
}

// parseDevice returns the IDs of the user and the device in a device token. It returns empty strings if the token is
// invalid or older than 30 days.
func (l *lockout) parseDevice(text string) (user, device string) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != deviceSize {
		return "", ""
	}
	signed, sum := raw[:deviceSize-sha256.Size], raw[deviceSize-sha256.Size:]
	issued := time.UnixMicro(int64(binary.BigEndian.Uint64(signed[2*len(uuid.UUID{}):])))
	if !hmac.Equal(sum, l.sum("device\n"+string(signed))) || l.now().Sub(issued) >= knownFor {
		return "", ""
	}
	return uuid.UUID(signed[:16]).String(), uuid.UUID(signed[16:32]).String()
}
