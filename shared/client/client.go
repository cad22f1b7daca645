// Package client determines which client sent a request, and signs the result for other functions.
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
	"github.com/strongroom-dev/strongroom/shared/request"
)

// The gateway describes the client in these two headers. Introduce sets them, and Identify reads them.
const (
	// HeaderAddress contains the client's IP address.
	HeaderAddress = "X-Client-Address"
	// HeaderRequest contains the request ID of the gateway, and the client's own request ID.
	HeaderRequest = "X-Gateway-Request"
)

// signatureLifetime is the largest accepted difference, in either direction, between the current time and the
// timestamp in a signed header.
const signatureLifetime = time.Minute

// The purposes of signatures. A signature for one purpose is never valid for another purpose.
const (
	forAddress = "client address"
	forRequest = "request"
)

// Trust defines which request headers a function trusts when it determines the client's IP address.
type Trust struct {
	// Hops is the number of trusted proxies in front of the function. Each proxy appends an entry to X-Forwarded-For:
	// the address from which the proxy received the request.
	Hops int
	// Key is the HMAC key with which the gateway signs headers. If Key is empty, signed headers are ignored.
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

// address returns the client's IP address from the first of these sources that is valid:
//   - the X-Client-Address header
//   - the entry in X-Forwarded-For from the outermost trusted proxy
//   - the peer address of the connection
func (t Trust) address(r *http.Request) netip.Addr {
	if text, ok := t.verify(forAddress, r.Header.Values(HeaderAddress)); ok {
		if address, err := netip.ParseAddr(text); err == nil {
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

// Host returns the host that the client requested, with the port, if any. It is the Host header of r, or the value of
// X-Forwarded-Host if the gateway has signed r.
func (t Trust) Host(r *http.Request) string {
	if _, signed := t.verify(forRequest, r.Header.Values(HeaderRequest)); signed {
		return r.Header.Get("X-Forwarded-Host")
	}
	// Ignore X-Forwarded-Host in all other requests, because most proxies forward a forged value unchanged.
	return r.Host
}

// Identify returns a handler that adds the origin of the request to the context, and then calls next. A request that
// the gateway has signed has the request IDs of the gateway. Any other request is public and gets a new request ID.
func (t Trust) Identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o := request.NewOrigin(r)
		o.Address, o.Public = t.address(r), true
		if ids, ok := t.verify(forRequest, r.Header.Values(HeaderRequest)); ok {
			o.ID, o.ClientID, _ = strings.Cut(ids, " ")
			o.Public = false
		}
		next.ServeHTTP(w, r.WithContext(request.WithOrigin(r.Context(), o)))
	})
}

// Identify reads the settings and returns the handler of Trust.Identify. An error names the invalid setting.
// function.Main calls this method if it is a method of the function's settings.
func (s TrustSettings) Identify(next http.Handler) (http.Handler, error) {
	trust, err := s.Trust()
	return trust.Identify(next), err
}

// Introduce sets the headers from which Identify reads the origin o in another function.
func (t Trust) Introduce(h http.Header, o *request.Origin) {
	h.Set("X-Request-Id", o.ID) // for the logs of proxies
	h.Set(HeaderRequest, t.sign(forRequest, o.ID+" "+o.ClientID))
	h.Set(HeaderAddress, t.sign(forAddress, o.Address.String()))
}

// sign returns the value of a signed header: the text, the current Unix time in seconds, and the hexadecimal
// HMAC-SHA-256 of both, separated by spaces.
func (t Trust) sign(purpose, text string) string {
	what := text + " " + strconv.FormatInt(t.now().Unix(), 10)
	return what + " " + hex.EncodeToString(t.sum(purpose, what))
}

// verify returns the text in the only value of a signed header. It returns false if there is another number of values,
// if the signature is invalid, or if the timestamp differs from the current time by more than signatureLifetime.
func (t Trust) verify(purpose string, values []string) (text string, ok bool) {
	if len(t.Key) == 0 || len(values) != 1 {
		return "", false
	}
	what, signature, ok := cutLast(values[0])
	sum, err := hex.DecodeString(signature)
	if !ok || err != nil || !hmac.Equal(sum, t.sum(purpose, what)) {
		return "", false
	}
	// The signature is valid, so the text and the timestamp come from the gateway.
	text, at, ok := cutLast(what)
	seconds, err := strconv.ParseInt(at, 10, 64)
	return text, ok && err == nil && t.now().Sub(time.Unix(seconds, 0)).Abs() <= signatureLifetime
}

// cutLast splits s at its last space.
func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// sum returns the HMAC of the purpose followed by the given text. Because of the purpose, an HMAC that was computed
// for another purpose with the same key is never a valid signature.
func (t Trust) sum(purpose, what string) []byte {
	mac := hmac.New(sha256.New, t.Key)
	_, _ = mac.Write([]byte(purpose + "\n" + what)) // never fails
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
