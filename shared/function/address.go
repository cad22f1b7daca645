package function

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// HeaderClientAddress is the header in which the gateway tells login and accounts where a request comes from:
// the address, the time in Unix seconds, and an HMAC-SHA-256 of both in hex.
const HeaderClientAddress = "X-Client-Address"

const (
	// signatureLifetime is how far the time of a signed address may be from now, either way.
	signatureLifetime = time.Minute
	// minKeySize is that of the hash, in bytes (RFC 2104 §3).
	minKeySize = sha256.Size
)

// Trust is what a function believes of who a request came from.
type Trust struct {
	// Hops is how many proxies in front add the address of who called them to X-Forwarded-For.
	Hops int
	// Key is the one that the gateway signs addresses with; without it no signature is believed.
	Key []byte
	// Now tells the time; nil is time.Now.
	Now func() time.Time
}

// LoadTrust returns a Trust from the settings TRUSTED_HOPS and GATEWAY_KEY_FILE, whose file may be none (""). Errors
// name them.
func LoadTrust(hops int, keyFile string) (Trust, error) {
	if hops < 0 {
		return Trust{}, errors.New("TRUSTED_HOPS: a number of proxies is not negative")
	}
	if keyFile == "" {
		return Trust{Hops: hops}, nil
	}
	content, err := os.ReadFile(keyFile)
	if err != nil {
		return Trust{}, fmt.Errorf("GATEWAY_KEY_FILE: %w", err)
	}
	key := []byte(strings.TrimSpace(string(content)))
	if len(key) < minKeySize {
		return Trust{}, fmt.Errorf("GATEWAY_KEY_FILE: the key has %d bytes, want at least %d", len(key), minKeySize)
	}
	return Trust{Hops: hops, Key: key}, nil
}

// ClientAddress returns the address that the request came from: the one that the gateway has signed, where it did; else
// as the outermost of the trusted proxies saw it. Each proxy adds its peer at the right of X-Forwarded-For; what is left
// of the trusted ones' entries anybody can write. Of a request that did not come through all of them it is the peer of
// the connection.
func (t Trust) ClientAddress(r *http.Request) netip.Addr {
	if signed := r.Header.Values(HeaderClientAddress); len(signed) == 1 {
		if address, ok := t.verify(signed[0]); ok {
			return address
		}
	}
	if address, ok := t.forwarded(r); ok {
		return address
	}
	address, _ := parseAddress(r.RemoteAddr)
	return address
}

// Forwarded tells whether the request came through as many proxies as are trusted, so that what the outermost of them
// says of it, such as X-Forwarded-Proto, can be believed.
func (t Trust) Forwarded(r *http.Request) bool {
	_, ok := t.forwarded(r)
	return ok
}

// forwarded returns the address that the outermost of the trusted proxies saw.
func (t Trust) forwarded(r *http.Request) (netip.Addr, bool) {
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	i := len(entries) - t.Hops
	if t.Hops <= 0 || i < 0 {
		return netip.Addr{}, false
	}
	return parseAddress(strings.TrimSpace(entries[i]))
}

// SignAddress returns the value of HeaderClientAddress.
func (t Trust) SignAddress(address netip.Addr) string {
	what := address.String() + " " + strconv.FormatInt(t.now().Unix(), 10)
	return what + " " + hex.EncodeToString(t.sum(what))
}

// verify returns the address that SignAddress was given, if it was with the same key and not long ago.
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
	// From here on it is what the gateway wrote.
	text, at, _ := strings.Cut(what, " ")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || t.now().Sub(time.Unix(seconds, 0)).Abs() > signatureLifetime {
		return netip.Addr{}, false
	}
	address, err := netip.ParseAddr(text)
	return address, err == nil
}

// sum is the HMAC of what, under a name that keeps it apart from whatever else the key may be used for.
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

// parseAddress reads an address with or without a port; some proxies write one.
func parseAddress(s string) (netip.Addr, bool) {
	if pair, err := netip.ParseAddrPort(s); err == nil {
		return pair.Addr(), true
	}
	address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return address, err == nil
}
