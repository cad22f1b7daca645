package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// minLinkLife and maxLinkLife are the shortest and the longest lifetimes that a client can request for a download
// link. If the client requests no lifetime, defaultLinkLife applies.
const (
	minLinkLife     = time.Minute
	defaultLinkLife = time.Hour
	maxLinkLife     = 7 * 24 * time.Hour
)

// maxLinkBody is the maximum size, in bytes, of the body of a request that creates a download link.
const maxLinkBody = 1 << 10

// links signs and verifies download links. A download link is a URL from which any client can download a file without
// an access token until the link expires.
type links struct {
	key []byte
	now func() time.Time
}

// loadLinks loads the signing key for download links from the given file.
func loadLinks(file string) (*links, error) {
	key, err := function.LoadKey("LINK_KEY_FILE", file)
	return &links{key, time.Now}, err
}

// signature returns the HMAC-SHA-256 (RFC 2104) that signs a download link. The HMAC covers a fixed prefix, the file
// ID, and the link's expiration time in Unix seconds.
func (l *links) signature(id string, expires int64) []byte {
	mac := hmac.New(sha256.New, l.key)
	fmt.Fprintf(mac, "strongroom link v1\n%q\n%d", id, expires) // writing to a hash never fails
	return mac.Sum(nil)
}

// address returns a download link, without scheme and host, to the file with the given ID. The link is valid until the
// given time, in Unix seconds.
func (l *links) address(id string, expires int64) string {
	return fmt.Sprintf("/files/%s/content?expires=%d&signature=%s", url.PathEscape(id), expires,
		base64.RawURLEncoding.EncodeToString(l.signature(id, expires)))
}

// verify checks the query parameters of a download link to the file with the given ID. If the link is invalid or has
// expired, verify returns a problem.BadLink.
func (l *links) verify(id string, query url.Values) error {
	wrong := problem.BadLink.With("the link is incomplete or was changed: request a new link")
	if len(query["expires"]) != 1 || len(query["signature"]) != 1 || len(query) != 2 {
		return wrong
	}
	expires, err := strconv.ParseInt(query.Get("expires"), 10, 64)
	if err != nil {
		return wrong
	}
	// Strict rejects base64 text with nonzero unused trailing bits. Otherwise, several texts would decode to the same
	// signature, so a changed link could still be valid.
	signature, err := base64.RawURLEncoding.Strict().DecodeString(query.Get("signature"))
	if err != nil || !hmac.Equal(signature, l.signature(id, expires)) {
		return wrong
	}
	if !l.now().Before(time.Unix(expires, 0)) {
		return problem.BadLink.With("the link expired at %s: request a new link", time.Unix(expires, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

// linkAnswer is the JSON body of the response to a request that creates a download link.
type linkAnswer struct {
	// URL is the download link, relative to the URL of the request.
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// link responds with a new download link to a file, if the caller is allowed to read the file. A link that outlives the
// access token by more than minLinkLife requires a recent sign-in and a current account, so that a stolen access token
// is not enough. A link with the shortest lifetime never requires them, because the console uses such a link for
// each download.
func (h *handler) link(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		ExpiresIn *int64 `json:"expires_in,omitempty"`
	}
	if r.ContentLength != 0 {
		if err := request.ReadJSON(w, r, maxLinkBody, &body); err != nil {
			return err
		}
	}
	life := defaultLinkLife
	if body.ExpiresIn != nil {
		shortest, longest := int64(minLinkLife/time.Second), int64(maxLinkLife/time.Second)
		if *body.ExpiresIn < shortest || *body.ExpiresIn > longest {
			return problem.BadRequest.With("expires_in must be a number of seconds from %d to %d", shortest, longest)
		}
		life = time.Duration(*body.ExpiresIn) * time.Second
	}
	f, err := h.readable(r)
	if err != nil {
		return err
	}
	now := h.links.now()
	expires := now.Add(life).Truncate(time.Second).UTC()
	if caller := token.Caller(r.Context()); expires.After(caller.ExpiresAt.Add(minLinkLife)) {
		if err := caller.DemandRecent(now); err != nil {
			return err
		}
		if err := h.accounts.Check(r); err != nil {
			return err
		}
	}
	record(r.Context(), eventLinked, f.ID, f.Owner)
	return respond.JSON(w, http.StatusCreated, linkAnswer{h.links.address(f.ID, expires.Unix()), expires})
}

// linked responds with a file's content if the request URL is a valid download link. It requires no access token.
func (h *handler) linked(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := h.links.verify(id, r.URL.Query()); err != nil {
		return err
	}
	f, err := h.files.Get(r.Context(), id)
	if errors.Is(err, problem.NotFound) {
		return problem.NotFound.With("the file no longer exists")
	}
	if err != nil {
		return err
	}
	w.Header().Set("Referrer-Policy", "no-referrer") // the URL is a secret, because it contains the signature
	return h.send(w, r, f)
}
