package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// visitor is what the gateway knows of who sent a request.
type visitor struct {
	// address is the client's, as far as the trusted proxies tell, and path what goes into X-Forwarded-For: that and the
	// addresses of the proxies.
	address netip.Addr
	path    string
	// scheme and host are what the client called: https or http, and Host.
	scheme, host string
	// origin is the site whose page sent it, if pages of that site may read the answer (CORS).
	origin string
}

type visitorKey struct{}

// visitorOf returns what newVisitor found out of the request that ctx belongs to.
func visitorOf(ctx context.Context) visitor {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v
}

// newVisitor finds out who sent r. Of what its headers say only that is believed that the trusted proxies wrote: the
// last entries of X-Forwarded-For, and the protocol and the host if it came through all of them.
func newVisitor(r *http.Request, trust function.Trust) visitor {
	// Whoever calls the gateway has no signature to show: it makes them.
	v := visitor{address: function.Trust{Hops: trust.Hops}.ClientAddress(r), scheme: "http", host: r.Host}
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	v.path = peer
	if r.TLS != nil {
		v.scheme = "https"
	}
	if !trust.Forwarded(r) {
		return v
	}
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	trusted := append(entries[len(entries)-trust.Hops:], peer)
	for i := range trusted {
		trusted[i] = strings.TrimSpace(trusted[i])
	}
	v.path = strings.Join(trusted, ", ")
	if scheme := r.Header.Values("X-Forwarded-Proto"); len(scheme) == 1 && (scheme[0] == "http" || scheme[0] == "https") {
		v.scheme = scheme[0]
	}
	if host := r.Header.Values("X-Forwarded-Host"); len(host) == 1 && host[0] != "" {
		v.host = host[0]
	}
	return v
}

// strip removes from h what a client may not say of itself, however it is spelt: who validate has let in, and which
// address the gateway has signed. Some programs take an underscore for a hyphen.
func strip(h http.Header) {
	for name := range h {
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.HasPrefix(plain, "x-auth-") || strings.HasPrefix(plain, "x-forwarded-") || plain == "forwarded" ||
			plain == strings.ToLower(function.HeaderClientAddress) {
			delete(h, name)
		}
	}
}

// introduce tells a function who sent the request, in the headers of the one that the gateway sends: X-Forwarded-For,
// -Proto and -Host, the request's id and its trace, and for those functions that count by it, the client's address, signed.
func introduce(ctx context.Context, h http.Header, to route, trust function.Trust) {
	v := visitorOf(ctx)
	strip(h)
	h.Set("X-Forwarded-For", v.path)
	h.Set("X-Forwarded-Proto", v.scheme)
	h.Set("X-Forwarded-Host", v.host)
	h.Set("X-Request-Id", function.RequestID(ctx))
	telemetry.Inject(ctx, h)
	if to.signed {
		h.Set(function.HeaderClientAddress, trust.SignAddress(v.address))
	}
}
