package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// visitor describes the client that sent a request.
type visitor struct {
	// address is the IP address of the client. path is the value of X-Forwarded-For in the request to the function. It
	// contains the address of the client and the addresses of the trusted proxies.
	address netip.Addr
	path    string
	// scheme (http or https) and host (the Host header) come from the client's request to the outermost trusted proxy,
	// or to the gateway if there is no trusted proxy.
	scheme, host string
	// origin is the origin of the page that sent the request, if CORS permits pages of that origin to read the
	// response. Otherwise, origin is empty.
	origin string
}

type visitorKey struct{}

// visitorOf returns the visitor in ctx, or an empty visitor if ctx contains none.
func visitorOf(ctx context.Context) visitor {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v
}

// newVisitor returns a description of the client that sent r. It uses only header values that trusted proxies wrote,
// because clients can forge all other values. Trusted proxies write the last entries of X-Forwarded-For. If r came
// through all trusted proxies, they also wrote X-Forwarded-Proto and X-Forwarded-Host.
func newVisitor(r *http.Request, trust client.Trust) visitor {
	// Use a Trust without a key, so that ClientAddress ignores a signed address in r. Only the gateway signs addresses,
	// so a signed address in a request from a client is not trustworthy.
	v := visitor{address: client.Trust{Hops: trust.Hops}.Address(r), scheme: "http", host: r.Host}
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	v.path = peer
	if r.TLS != nil {
		v.scheme = "https"
	}
	forwarded := trust.Forwarded(r)
	if forwarded == nil {
		return v
	}
	v.path = strings.Join(append(forwarded, peer), ", ")
	if scheme := r.Header.Values("X-Forwarded-Proto"); len(scheme) == 1 && (scheme[0] == "http" || scheme[0] == "https") {
		v.scheme = scheme[0]
	}
	if host := r.Header.Values("X-Forwarded-Host"); len(host) == 1 && host[0] != "" {
		v.host = host[0]
	}
	return v
}

// strip removes the headers from h that clients must not set, because functions trust these headers: the forwarding
// headers and the signed address, which only the gateway may set, and the headers with the user's identity, which only
// the validate function may set. It also removes variants of these names with underscores instead of hyphens, because
// some programs treat both characters alike.
func strip(h http.Header) {
	for name := range h {
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.HasPrefix(plain, "x-auth-") || strings.HasPrefix(plain, "x-forwarded-") || plain == "forwarded" ||
			plain == strings.ToLower(client.HeaderAddress) {
			delete(h, name)
		}
	}
}

// introduce sets the headers in h that describe the client's request to a function: X-Forwarded-For, X-Forwarded-Proto,
// X-Forwarded-Host, the request ID and the trace context. If to.signed is true, introduce also sets the header with the
// client's signed address. It first removes all headers from h that a client must not set.
func introduce(ctx context.Context, h http.Header, to route, trust client.Trust) {
	v := visitorOf(ctx)
	strip(h)
	h.Set("X-Forwarded-For", v.path)
	h.Set("X-Forwarded-Proto", v.scheme)
	h.Set("X-Forwarded-Host", v.host)
	h.Set("X-Request-Id", function.RequestID(ctx))
	telemetry.Inject(ctx, h)
	if to.signed {
		h.Set(client.HeaderAddress, trust.Sign(v.address))
	}
}
