package main

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// visitor describes the client that sent a request.
type visitor struct {
	// path is the value of X-Forwarded-For that the gateway sends to the function. It lists the addresses of the
	// client and of the trusted proxies.
	path string
	// scheme (http or https) and host (the Host header) are those of the client's original request, even if trusted
	// proxies forwarded that request. The proxies must preserve the Host header.
	scheme, host string
	// origin is the value of the Origin header if pages of that origin may read the response (CORS). Otherwise, origin
	// is empty.
	origin string
}

type visitorKey struct{}

// visitorOf returns the visitor in ctx, or an empty visitor if ctx contains none.
func visitorOf(ctx context.Context) visitor {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v
}

// newVisitor returns the visitor that describes the client of r.
func newVisitor(r *http.Request, trust client.Trust) visitor {
	v := visitor{scheme: "http", host: r.Host}
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	v.path = peer
	if r.TLS != nil {
		v.scheme = "https"
	}
	// Ignore the X-Forwarded headers unless r came through all trusted proxies, because the client could otherwise
	// have forged them. Always ignore X-Forwarded-Host, because most proxies forward a forged value unchanged.
	if forwarded := trust.Forwarded(r); forwarded != nil {
		v.path = strings.Join(append(forwarded, peer), ", ")
		if scheme := r.Header.Values("X-Forwarded-Proto"); len(scheme) == 1 && (scheme[0] == "http" || scheme[0] == "https") {
			v.scheme = scheme[0]
		}
	}
	// If the ingress forwards requests to itself, as Kourier does for a DomainMapping, X-Forwarded-Proto has the scheme
	// of the connection inside the cluster. A browser sends the scheme of the page in the Origin header of a POST
	// request. A client that forges this header changes only the response to its own request.
	if r.Header.Get("Origin") == "https://"+v.host {
		v.scheme = "https"
	}
	return v
}

// strip removes the headers that a client must not set, because functions trust them: the forwarding headers, the
// headers that the gateway signs, and the X-Auth headers, with which only the validate function may identify the user.
func strip(h http.Header) {
	for name := range h {
		// Treat underscores in header names as hyphens, because some programs treat both characters alike.
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.HasPrefix(plain, "x-auth-") || strings.HasPrefix(plain, "x-forwarded-") || plain == "forwarded" ||
			plain == strings.ToLower(client.HeaderAddress) || plain == strings.ToLower(client.HeaderRequest) {
			delete(h, name)
		}
	}
}

// introduce removes from h all headers that a client must not set. It then sets the headers that describe the client
// and the request.
func introduce(ctx context.Context, h http.Header, trust client.Trust) {
	v := visitorOf(ctx)
	strip(h)
	h.Set("X-Forwarded-For", v.path)
	h.Set("X-Forwarded-Proto", v.scheme)
	h.Set("X-Forwarded-Host", v.host)
	trust.Introduce(h, request.OriginOf(ctx))
	telemetry.Inject(ctx, h)
}
