// Package client determines the address of the client that sent a request.
package client

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
)

// HeaderAddress is the header in which the gateway sends the client's IP address to the login and accounts
// functions. The Sign method of Trust returns the value for this header.
const HeaderAddress = "X-Client-Address"

// signatureLifetime is the largest accepted difference, in either direction, between the current time and the
// timestamp in an X-Client-Address header.
const signatureLifetime = time.Minute

// Trust defines which request headers a function trusts when it determines the client's IP address.
type Trust struct {
	// Hops is the number of trusted proxies in front of the function. Each proxy appends an entry to X-Forwarded-For:
	// the address from which the proxy received the request.
	Hops int
	// Key is the HMAC key with which the gateway signs client addresses. If Key is empty, the X-Client-Address header
	// is ignored.
	Key []byte
	// Now returns the current time. If Now is nil, time.Now is used.
	Now func() time.Time
}

// TrustSettings are the settings that determine which proxies a function trusts to report client addresses.
type TrustSettings struct {
	// TrustedHops is the number of trusted proxies in front of the function. If the number is too low, the function
	// treats a proxy's address as the client's address. If it is too high, clients can forge their addresses.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// GatewayKeyFile is the path of the file that contains the gateway's HMAC key. Without the key, the function
	// treats the gateway's address as the address of every client that connects through the gateway.
	GatewayKeyFile string `env:"GATEWAY_KEY_FILE"`
}

// Trust checks the settings, reads the key file, and returns the resulting Trust. An error names the invalid setting.
func (s TrustSettings) Trust() (Trust, error) {
	if s.TrustedHops < 0 {
		return Trust{}, errors.New("TRUSTED_HOPS: must not be negative")
	}
	trust := Trust{Hops: s.TrustedHops}
	if s.GatewayKeyFile == "" {
		return trust, nil
	}
	var err error
	trust.Key, err = function.LoadKey("GATEWAY_KEY_FILE", s.GatewayKeyFile)
	return trust, err
}

// Address returns the client's IP address from the first of these sources that is valid:
//   - the X-Client-Address header
//   - the entry in X-Forwarded-For from the outermost trusted proxy
//   - the peer address of the connection
func (t Trust) Address(r *http.Request) netip.Addr {
	if signed := r.Header.Values(HeaderAddress); len(signed) == 1 {
		if address, ok := t.verify(signed[0]); ok {
			return address
		}
	}
	from := r.RemoteAddr
	if forwarded := t.Forwarded(r); forwarded != nil {
		from = forwarded[0]
	}
	address, _ := parseAddress(from)
	return address
}

// Forwarded returns the X-Forwarded-For entries that the trusted proxies appended. It returns nil if no proxy is
// trusted, if entries are missing, or if the outermost trusted proxy's entry is not an address. If the result is not
// nil, the caller can also trust other headers that the outermost trusted proxy sets.
func (t Trust) Forwarded(r *http.Request) []string {
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if t.Hops <= 0 || t.Hops > len(entries) {
		return nil
	}
	// Keep only the entries that the trusted proxies appended, because any client can forge the entries before them.
	entries = entries[len(entries)-t.Hops:]
	for i := range entries {
		entries[i] = strings.TrimSpace(entries[i])
	}
	if _, ok := parseAddress(entries[0]); !ok {
		return nil
	}
	return entries
}

// Sign returns a value for the X-Client-Address header: the address, the current Unix time in seconds, and the
// hexadecimal HMAC-SHA-256 of both, separated by spaces.
func (t Trust) Sign(address netip.Addr) string {
	what := address.String() + " " + strconv.FormatInt(t.now().Unix(), 10)
	return what + " " + hex.EncodeToString(t.sum(what))
}

// verify returns the address from the value of an X-Client-Address header. It returns false if the signature is
// invalid, or if the timestamp differs from the current time by more than signatureLifetime.
func (t Trust) verify(signed string) (netip.Addr, bool) {
	i := strings.LastIndexByte(signed, ' ')
	if len(t.Key) == 0 || i < 0 {
		return netip.Addr{}, false
	}
	what := signed[:i]
	sum, err := hex.DecodeString(signed[i+1:])
	if err != nil || !hmac.Equal(sum, t.sum(what)) {
		return netip.Addr{}, false
	}
	// The signature is valid, so the address and the timestamp come from the gateway.
	text, at, _ := strings.Cut(what, " ")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || t.now().Sub(time.Unix(seconds, 0)).Abs() > signatureLifetime {
		return netip.Addr{}, false
	}
	address, err := netip.ParseAddr(text)
	return address, err == nil
}

// sum returns the HMAC of a fixed prefix followed by the given text. Because of the prefix, an HMAC that was computed
// for another purpose with the same key is never a valid signature of an address.
func (t Trust) sum(what string) []byte {
	mac := hmac.New(sha256.New, t.Key)
	_, _ = mac.Write([]byte("client address\n" + what)) // never fails
	return mac.Sum(nil)
}

func (t Trust) now() time.Time {
	if t.Now == nil {
		return time.Now()
	}
	return t.Now()
}

// parseAddress parses an IP address with or without a port. http.Request.RemoteAddr includes a port, and some
// proxies also add a port to the address in X-Forwarded-For.
func parseAddress(s string) (netip.Addr, bool) {
	if pair, err := netip.ParseAddrPort(s); err == nil {
		return pair.Addr(), true
	}
	address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return address, err == nil
}
