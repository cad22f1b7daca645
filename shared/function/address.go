package function

import (
	"net/http"
	"net/netip"
	"strings"
)

// ClientAddress returns the address that the request came from, as the outermost of the trusted proxies saw it. Each
// proxy adds its peer at the right of X-Forwarded-For; what is left of the trusted ones' entries anybody can write.
// Of a request that did not come through all of them it is the peer of the connection.
func ClientAddress(r *http.Request, trustedHops int) netip.Addr {
	if trustedHops > 0 {
		entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if i := len(entries) - trustedHops; i >= 0 {
			if address, ok := parseAddress(strings.TrimSpace(entries[i])); ok {
				return address
			}
		}
	}
	address, _ := parseAddress(r.RemoteAddr)
	return address
}

// parseAddress reads an address with or without a port; some proxies write one.
func parseAddress(s string) (netip.Addr, bool) {
	if pair, err := netip.ParseAddrPort(s); err == nil {
		return pair.Addr(), true
	}
	address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return address, err == nil
}
