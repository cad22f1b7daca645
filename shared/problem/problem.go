// Package problem turns errors into problem documents (RFC 9457). An error that wraps no Kind is internal: it is
// logged, and the client gets only a 500 response.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/strongroom-dev/strongroom/shared/respond"
)

// The kinds of problems. A kind's name never changes, because clients compare the type of a problem document with
// urn:strongroom:problem:NAME.
var (
	BadRequest         = kind("bad-request", http.StatusBadRequest, "The request is not well-formed")
	DigestMismatch     = kind("digest-mismatch", http.StatusBadRequest, "The content does not match its digest")
	Unauthenticated    = kind("unauthenticated", http.StatusUnauthorized, "A valid access token is required")
	BadCredentials     = kind("bad-credentials", http.StatusUnauthorized, "The user name or password is wrong")
	BadPasskey         = kind("bad-passkey", http.StatusUnauthorized, "The passkey is not accepted")
	SessionEnded       = kind("session-ended", http.StatusUnauthorized, "The session has ended")
	SignInTooOld       = kind("sign-in-too-old", http.StatusUnauthorized, "A recent sign-in is required")
	InsufficientScope  = kind("insufficient-scope", http.StatusForbidden, "The access token does not permit this request")
	WrongPassword      = kind("wrong-password", http.StatusForbidden, "The current password is wrong")
	PasswordChange     = kind("password-change-required", http.StatusForbidden, "The password must be changed")
	NeedsSecondFactor  = kind("second-factor-required", http.StatusForbidden, "A second factor is required")
	BadLink            = kind("bad-link", http.StatusForbidden, "The link is invalid or has expired")
	CrossSite          = kind("cross-site", http.StatusForbidden, "The request comes from a page on another site")
	NotFound           = kind("not-found", http.StatusNotFound, "There is no such resource")
	BodyTimeout        = kind("body-timeout", http.StatusRequestTimeout, "The request body did not arrive in time")
	MethodNotAllowed   = kind("method-not-allowed", http.StatusMethodNotAllowed, "The resource does not allow this method")
	Conflict           = kind("conflict", http.StatusConflict, "The request conflicts with the current state of the resource")
	PreconditionFailed = kind("precondition-failed", http.StatusPreconditionFailed, "The resource does not match the condition in the request")
	WrongTusVersion    = kind("unsupported-tus-version", http.StatusPreconditionFailed, "This version of the tus protocol is not supported")
	TooLarge           = kind("too-large", http.StatusRequestEntityTooLarge, "The request body is too large")
	UnsupportedType    = kind("unsupported-media-type", http.StatusUnsupportedMediaType, "The content type is not supported")
	RangeUnsatisfiable = kind("range-not-satisfiable", http.StatusRequestedRangeNotSatisfiable, "The requested range lies outside the file")
	Unprocessable      = kind("unprocessable", http.StatusUnprocessableEntity, "The content cannot be processed")
	KeyReused          = kind("idempotency-key-reused", http.StatusUnprocessableEntity, "The idempotency key belongs to another request")
	Locked             = kind("locked", http.StatusLocked, "The resource is temporarily unavailable")
	TooManyAttempts    = kind("too-many-attempts", http.StatusTooManyRequests, "Too many failed attempts")
	TooManyRefreshes   = kind("too-many-refreshes", http.StatusTooManyRequests, "The session was refreshed too often")
	TooManyUploads     = kind("too-many-uploads", http.StatusTooManyRequests, "Too many unfinished uploads")
	TooManySweeps      = kind("too-many-sweeps", http.StatusTooManyRequests, "The last sweep began too recently")
	ChecksumMismatch   = kind("checksum-mismatch", 460, "The bytes do not match their checksum") // defined by the tus protocol
	Internal           = kind("internal", http.StatusInternalServerError, "Something went wrong on our side")
	Unavailable        = kind("unavailable", http.StatusServiceUnavailable, "The service is temporarily unavailable")
	QuotaExceeded      = kind("quota-exceeded", http.StatusInsufficientStorage, "The upload exceeds the user's storage quota")
)

// Kind is a category of problems. It implements error, so that errors.Is(err, problem.NotFound) reports whether err
// is a problem of the NotFound kind.
type Kind struct {
	name   string
	status int
	title  string
}

func kind(name string, status int, title string) *Kind { return &Kind{name, status, title} }

// Error returns the kind's name.
func (k *Kind) Error() string { return k.name }

// With returns a problem of kind k. It formats the problem's detail as fmt.Errorf does. The client sees the whole
// detail, including wrapped errors. To hide an error, use Because.
func (k *Kind) With(format string, args ...any) *Problem {
	err := fmt.Errorf(format, args...)
	return &Problem{kind: k, detail: err.Error(), shown: errors.Unwrap(err)}
}

// Because returns a problem of kind k with the given detail. err is the cause, which appears in the log but is
// hidden from the client.
func (k *Kind) Because(err error, detail string) *Problem {
	return &Problem{kind: k, detail: detail, cause: err}
}

// Problem is an error of a specific Kind. It contains the detail and additional headers for the HTTP response.
type Problem struct {
	kind   *Kind
	detail string
	cause  error // its text is not in the detail
	shown  error // its text is in the detail
	header http.Header
}

// Error returns the name of the kind, the detail and the cause. This text is for logs.
func (p *Problem) Error() string {
	s := p.kind.name + ": " + p.detail
	if p.cause != nil {
		s += ": " + p.cause.Error()
	}
	return s
}

// Unwrap returns the kind and the wrapped errors, so that errors.Is and errors.As find them.
func (p *Problem) Unwrap() []error {
	all := []error{p.kind}
	for _, err := range []error{p.cause, p.shown} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

// Header returns a copy of p with an HTTP response header, such as WWW-Authenticate, set to value.
func (p *Problem) Header(name, value string) *Problem {
	q := *p
	q.header = p.header.Clone()
	if q.header == nil {
		q.header = http.Header{}
	}
	q.header.Set(name, value)
	return &q
}

// RetryAfter returns a copy of p with the Retry-After header (RFC 9110, section 10.2.3) set to d, rounded up to
// whole seconds. The minimum is 1 second.
func (p *Problem) RetryAfter(d time.Duration) *Problem {
	return p.Header("Retry-After", strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))))
}

// Document is the JSON body of a problem document (RFC 9457, section 3.1).
type Document struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// unavailableRetry is the default value of the Retry-After header for problems of kind Unavailable.
const unavailableRetry = 2 * time.Second

// of converts err to a Problem. An http.MaxBytesError becomes a problem of kind TooLarge. Any other error becomes a
// problem of the kind that err wraps. If err wraps no kind, the problem is of kind Unavailable for
// context.DeadlineExceeded, and otherwise of kind Internal.
func of(err error) *Problem {
	var p *Problem
	var k *Kind
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		// Test for MaxBytesError before Problem, because err might be a Problem that wraps a MaxBytesError.
		p = TooLarge.Because(err, fmt.Sprintf("the limit is %d bytes", tooLarge.Limit))
	case errors.As(err, &p):
	case errors.As(err, &k):
		p = k.Because(err, "")
	case errors.Is(err, context.DeadlineExceeded):
		p = Unavailable.Because(err, "the request took too long")
	default:
		p = Internal.Because(err, "")
	}
	if p.kind == Unavailable && p.header.Get("Retry-After") == "" {
		p = p.RetryAfter(unavailableRetry)
	}
	return p
}

// Status returns the HTTP status that Write sends for err.
func Status(err error) int { return of(err).kind.status }

// Write sends a problem document for err and logs the details that the document omits. The caller must not have
// written to w, because Write sends the status.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	p := of(err)
	switch {
	case r.Context().Err() == context.Canceled && p.kind != BodyTimeout:
		// A canceled context means that the client disconnected, so err is not a failure of the service. The
		// exception is a BodyTimeout: net/http cancels the context, but the client is still connected.
		slog.InfoContext(r.Context(), "client disconnected", "error", err)
	case p.kind.status >= 500:
		slog.ErrorContext(r.Context(), "request failed", "status", p.kind.status, "error", err)
	case p.cause != nil:
		slog.InfoContext(r.Context(), "request rejected", "status", p.kind.status, "error", err)
	}
	h := w.Header()
	maps.Copy(h, p.header)
	// Delete the headers that the handler has set for the body of a successful response, because they do not describe
	// the problem document.
	for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Disposition", "Content-Range", "Content-Digest",
		"Repr-Digest", "ETag", "Last-Modified", "Location"} {
		if p.header.Get(name) == "" {
			h.Del(name)
		}
	}
	h.Set("X-Content-Type-Options", "nosniff")
	body, _ := json.Marshal(Document{ // encoding strings and an int cannot fail
		Type:     "urn:strongroom:problem:" + p.kind.name,
		Title:    p.kind.title,
		Status:   p.kind.status,
		Detail:   p.detail,
		Instance: h.Get("X-Request-Id"),
	})
	respond.Body(w, p.kind.status, "application/problem+json", body)
}

// HandlerFunc is an HTTP handler that can return an error. If it returns an error, it must not have written to w,
// because ServeHTTP then sends a problem document.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// ServeHTTP calls f. If f returns an error, ServeHTTP sends a problem document for the error.
func (f HandlerFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f(w, r); err != nil {
		Write(w, r, err)
	}
}
