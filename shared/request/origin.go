package request

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"regexp"

	"github.com/google/uuid"
)

// Origin describes who sent a request. The log line of the request and the audit trail contain these values.
type Origin struct {
	// ID is the request ID. Strongroom generates it, so that no client can choose the ID of another request.
	ID string
	// ClientID is the client's own ID for the request, or empty if the client sent no valid X-Request-Id header.
	ClientID string
	// Address is the client's IP address.
	Address netip.Addr
	// UserID is the ID of the user on whose behalf the request is handled. It is empty until the user is known.
	UserID string
	// Public reports whether any client can have sent the request. Such a request does not continue the client's
	// trace, because the client would otherwise decide which requests are recorded.
	Public bool
}

type originKey struct{}

// WithOrigin returns a copy of ctx that carries o.
func WithOrigin(ctx context.Context, o *Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// OriginOf returns the origin that ctx carries, or a new empty origin if ctx does not belong to a request. The handlers
// of a request share the origin, so that one of them can set UserID.
func OriginOf(ctx context.Context) *Origin {
	if o, ok := ctx.Value(originKey{}).(*Origin); ok {
		return o
	}
	return &Origin{}
}

// NewOrigin returns the origin of r with a new request ID. The address is the peer address of the connection.
func NewOrigin(r *http.Request) *Origin {
	o := &Origin{ID: uuid.Must(uuid.NewV7()).String()}
	if id := r.Header.Get("X-Request-Id"); clientIDs.MatchString(id) {
		o.ClientID = id
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		o.Address, _ = netip.ParseAddr(host)
	}
	return o
}

// clientIDs matches the values of X-Request-Id that become an Origin.ClientID. It matches no spaces, quotes or control
// characters, so that a client cannot forge log lines or headers.
var clientIDs = regexp.MustCompile(`^[A-Za-z0-9._~+/=:-]{1,128}$`)
