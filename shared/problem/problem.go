// Package problem turns errors into problem documents (RFC 9457): the one place where an error gets its HTTP status.
//
// Every package that can fail towards a client wraps one of the kinds below, so that errors.Is tells the kind and
// the client sees a document with the kind's stable URN, title and status. Whatever wraps no kind is an internal
// error: it is logged in full and shown as a bare 500.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"
)

// The kinds of problem that Strongroom reports. Names are stable: clients may match on urn:strongroom:problem:NAME.
var (
	BadRequest         = kind("bad-request", http.StatusBadRequest, "The request is not well-formed")
	DigestMismatch     = kind("digest-mismatch", http.StatusBadRequest, "The content does not match its digest")
	Unauthenticated    = kind("unauthenticated", http.StatusUnauthorized, "A valid access token is required")
	BadCredentials     = kind("bad-credentials", http.StatusUnauthorized, "The user name or password is wrong")
	SessionEnded       = kind("session-ended", http.StatusUnauthorized, "The session has ended")
	InsufficientScope  = kind("insufficient-scope", http.StatusForbidden, "The access token does not permit this")
	WrongPassword      = kind("wrong-password", http.StatusForbidden, "The current password is wrong")
	BadLink            = kind("bad-link", http.StatusForbidden, "The link is not good, or not any more")
	CrossSite          = kind("cross-site", http.StatusForbidden, "The request comes from a page of another site")
	NotFound           = kind("not-found", http.StatusNotFound, "There is no such resource")
	BodyTimeout        = kind("body-timeout", http.StatusRequestTimeout, "The request body did not arrive in time")
	MethodNotAllowed   = kind("method-not-allowed", http.StatusMethodNotAllowed, "The method is not allowed here")
	Conflict           = kind("conflict", http.StatusConflict, "The request conflicts with what is there")
	WrongTusVersion    = kind("unsupported-tus-version", http.StatusPreconditionFailed, "This version of the tus protocol is not spoken here")
	TooLarge           = kind("too-large", http.StatusRequestEntityTooLarge, "The request body is too large")
	UnsupportedType    = kind("unsupported-media-type", http.StatusUnsupportedMediaType, "The content type is not supported here")
	RangeUnsatisfiable = kind("range-not-satisfiable", http.StatusRequestedRangeNotSatisfiable, "The range lies outside the content")
	Unprocessable      = kind("unprocessable", http.StatusUnprocessableEntity, "The content can not be processed")
	KeyReused          = kind("idempotency-key-reused", http.StatusUnprocessableEntity, "The idempotency key belongs to another request")
	Locked             = kind("locked", http.StatusLocked, "The resource can not be used right now")
	TooManyAttempts    = kind("too-many-attempts", http.StatusTooManyRequests, "Too many failed attempts")
	ChecksumMismatch   = kind("checksum-mismatch", 460, "The bytes do not match their checksum") // the tus protocol's own status
	Internal           = kind("internal", http.StatusInternalServerError, "Something went wrong on our side")
	Unavailable        = kind("unavailable", http.StatusServiceUnavailable, "The service can not answer right now")
	QuotaExceeded      = kind("quota-exceeded", http.StatusInsufficientStorage, "There is no room left for the user's files")
)

// Kind is a class of problem. It is itself an error, so that errors.Is(err, problem.NotFound) tells the class.
type Kind struct {
	name   string
	status int
	title  string
}

func kind(name string, status int, title string) *Kind { return &Kind{name, status, title} }

// Error returns the kind's name.
func (k *Kind) Error() string { return k.name }

// With returns a problem of kind k whose detail, formatted as by fmt.Errorf, is shown to the client. A %w operand is
// wrapped, and its text shown: use Because for a cause that must stay inside.
func (k *Kind) With(format string, args ...any) *Problem {
	err := fmt.Errorf(format, args...)
	return &Problem{kind: k, detail: err.Error(), shown: errors.Unwrap(err)}
}

// Because returns a problem of kind k with cause err, which is logged but never shown, and a detail that is shown.
func (k *Kind) Because(err error, detail string) *Problem {
	return &Problem{kind: k, detail: detail, cause: err}
}

// Problem is an error with what a client is told of it.
type Problem struct {
	kind   *Kind
	detail string
	cause  error // not in the detail
	shown  error // in the detail
	header http.Header
}

// Error returns the kind, the detail and the cause, for logs.
func (p *Problem) Error() string {
	s := p.kind.name + ": " + p.detail
	if p.cause != nil {
		s += ": " + p.cause.Error()
	}
	return s
}

// Unwrap makes the kind and what is wrapped visible to errors.Is and errors.As.
func (p *Problem) Unwrap() []error {
	all := []error{p.kind}
	for _, err := range []error{p.cause, p.shown} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

// Header returns a copy of p that also sets an HTTP header on the answer, such as WWW-Authenticate.
func (p *Problem) Header(name, value string) *Problem {
	q := *p
	q.header = p.header.Clone()
	if q.header == nil {
		q.header = http.Header{}
	}
	q.header.Set(name, value)
	return &q
}

// RetryAfter returns a copy of p that also sets Retry-After (RFC 9110 §10.2.3) to d, rounded up to whole seconds.
func (p *Problem) RetryAfter(d time.Duration) *Problem {
	return p.Header("Retry-After", strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))))
}

// Document is the body of a problem document (RFC 9457 §3.1).
type Document struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// unavailableRetry is what clients of an unavailable dependency are told to wait when the error says nothing better.
const unavailableRetry = 2 * time.Second

// of finds the problem in err. Kinds that come bare and errors of net/http and context are recognised too; anything
// else is internal.
func of(err error) *Problem {
	var p *Problem
	var k *Kind
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge): // before the rest: a reader that was cut off reports a broken body, or worse
		p = TooLarge.Because(err, fmt.Sprintf("the limit is %d bytes", tooLarge.Limit))
	case errors.As(err, &p):
	case errors.As(err, &k):
		p = k.Because(err, "")
	case errors.Is(err, context.DeadlineExceeded):
		p = Unavailable.Because(err, "the request took longer than it may")
	default:
		p = Internal.Because(err, "")
	}
	if p.kind == Unavailable && p.header.Get("Retry-After") == "" {
		p = p.RetryAfter(unavailableRetry)
	}
	return p
}

// Status returns the HTTP status that Write would answer err with.
func Status(err error) int { return of(err).kind.status }

// Write answers with the problem document of err and logs what the client is not shown. The instance is the request
// id that the answer already carries in X-Request-Id. Write must come before anything else is written.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	p := of(err)
	switch {
	case r.Context().Err() == context.Canceled && p.kind != BodyTimeout:
		// The client is gone: whatever failed, failed because of that, and nobody reads the answer. A late body is an
		// exception: net/http cancels the request although the client is still connected.
		slog.InfoContext(r.Context(), "client went away", "error", err)
	case p.kind.status >= 500:
		slog.ErrorContext(r.Context(), "request failed", "status", p.kind.status, "error", err)
	case p.cause != nil:
		slog.InfoContext(r.Context(), "request refused", "status", p.kind.status, "error", err)
	}
	h := w.Header()
	for name, values := range p.header {
		h[name] = values
	}
	// Headers that described the answer that is not coming.
	for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Disposition", "Content-Range", "ETag", "Last-Modified", "Location"} {
		if p.header.Get(name) == "" {
			h.Del(name)
		}
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body, _ := json.Marshal(Document{ // strings and a number always can be
		Type:     "urn:strongroom:problem:" + p.kind.name,
		Title:    p.kind.title,
		Status:   p.kind.status,
		Detail:   p.detail,
		Instance: h.Get("X-Request-Id"),
	})
	send(w, p.kind.status, body)
}

// send answers with a line of JSON. Its length goes before it, so that a client knows it to be complete even while the
// connection stays open, as when the client is still sending.
func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body[:len(body):len(body)], '\n')) // the client may be gone; there is nobody left to tell
}

// HandlerFunc is an HTTP handler that may fail. It must not have written anything when it returns an error.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// ServeHTTP calls f and answers its error with a problem document.
func (f HandlerFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f(w, r); err != nil {
		Write(w, r, err)
	}
}

// JSON answers with v as JSON and the given status, not to be cached.
func JSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	Encoded(w, status, body)
	return nil
}

// Encoded answers with what is JSON already, as JSON does.
func Encoded(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	send(w, status, body)
}
