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

// HeaderAddress is the name of the header in which the gateway sends the client's address to the login and accounts
// functions. The header's value consists of the address, the time in Unix seconds, and the HMAC-SHA-256 of both in
// hexadecimal, separated by spaces.
const HeaderAddress = "X-Client-Address"

// signatureLifetime is the largest accepted difference, in either direction, between the time in a signed address and
// the current time.
const signatureLifetime = time.Minute

// Trust defines which headers of a request a function trusts when it determines the client's address.
type Trust struct {
	// Hops is the number of trusted proxies in front of the function. Each proxy appends an entry to X-Forwarded-For:
	// the address from which the proxy received the request.
	Hops int
	// Key is the HMAC key with which the gateway signs client addresses. If Key is empty, Address ignores the header
	// that HeaderAddress names.
	Key []byte
	// Now returns the current time. If Now is nil, time.Now is used.
	Now func() time.Time
}

// TrustSettings are the settings that determine which proxies a function trusts to report client addresses.
type TrustSettings struct {
	// TrustedHops is the number of trusted proxies in front of the function. Each of these proxies appends the address
	// of its client to X-Forwarded-For. If TrustedHops is 0, the function uses the peer address of the TCP connection.
	// If the number is too low, the function uses a proxy's address as the address of every client. If the number is
	// too high, a client can claim any address.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// GatewayKeyFile is the path of a file that contains the HMAC key with which the gateway signs client addresses.
	// Without this key, a function uses the gateway's address as the address of every client that uses the gateway.
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

// Address returns the address of the client that sent the request. It returns the first address in this list that is
// available and valid:
//   - the address in the header that HeaderAddress names, if its signature is valid
//   - the address that the outermost trusted proxy appended to X-Forwarded-For
//   - the peer address of the connection
//
// Address uses only the last Hops entries of X-Forwarded-For, which the trusted proxies appended. It ignores the
// entries before them, because any client can forge those entries.
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

// Forwarded returns the entries of X-Forwarded-For that the trusted proxies appended. It returns nil if no proxy is
// trusted, if X-Forwarded-For has too few entries, or if the entry from the outermost trusted proxy is not an address.
// If the result is not nil, the caller can also trust the other headers that the outermost trusted proxy sets, such as
// X-Forwarded-Proto.
func (t Trust) Forwarded(r *http.Request) []string {
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if t.Hops <= 0 || t.Hops > len(entries) {
		return nil
	}
	entries = entries[len(entries)-t.Hops:]
	for i := range entries {
		entries[i] = strings.TrimSpace(entries[i])
	}
	if _, ok := parseAddress(entries[0]); !ok {
		return nil
	}
	return entries
}

// Sign returns the address, the current time, and a signature of both, in the format of the header that HeaderAddress
// names.
func (t Trust) Sign(address netip.Addr) string {
	what := address.String() + " " + strconv.FormatInt(t.now().Unix(), 10)
	return what + " " + hex.EncodeToString(t.sum(what))
}

// verify returns the address from a signed value, which has the format that Sign returns. It returns false if the
// signature is invalid, or if the signed time differs from the current time by more than signatureLifetime.
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
	// The signature is valid, so the gateway wrote the address and the time.
	text, at, _ := strings.Cut(what, " ")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || t.now().Sub(time.Unix(seconds, 0)).Abs() > signatureLifetime {
		return netip.Addr{}, false
	}
	address, err := netip.ParseAddr(text)
	return address, err == nil
}

// sum returns the HMAC of a fixed prefix and the given text. Because of the prefix, an HMAC that was computed with the
// same key for another purpose is never a valid signature of an address.
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

// parseAddress parses an IP address with or without a port. It accepts a port because some proxies append the client's
// port to the address in X-Forwarded-For, and because http.Request.RemoteAddr always contains a port.
func parseAddress(s string) (netip.Addr, bool) {
	if pair, err := netip.ParseAddrPort(s); err == nil {
		return pair.Addr(), true
	}
	address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return address, err == nil
}
