package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// How long a link is good for.
const (
	minLinkLife     = time.Minute
	defaultLinkLife = time.Hour
	maxLinkLife     = 7 * 24 * time.Hour
)

// maxLinkBody bounds the body of a request for a link, in bytes.
const maxLinkBody = 1 << 10

// links signs and verifies links: addresses of a file's bytes that are good without a token, for a time.
type links struct {
	key []byte
	now func() time.Time
}

// loadLinks reads the key from a file.
func loadLinks(file string) (*links, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("LINK_KEY_FILE: %w", err)
	}
	key := []byte(strings.TrimSpace(string(text)))
	if len(key) < sha256.Size { // RFC 2104, section 3
		return nil, fmt.Errorf("LINK_KEY_FILE: the key has %d bytes, want at least %d", len(key), sha256.Size)
	}
	return &links{key, time.Now}, nil
}

// signature returns what makes a link to a file good until expires, in Unix seconds: HMAC-SHA-256 (RFC 2104) over both.
func (l *links) signature(id string, expires int64) []byte {
	mac := hmac.New(sha256.New, l.key)
	fmt.Fprintf(mac, "strongroom link v1\n%q\n%d", id, expires) // never fails
	return mac.Sum(nil)
}

// address returns a link to a file, without scheme and host.
func (l *links) address(id string, expires int64) string {
	return fmt.Sprintf("/files/%s/content?expires=%d&signature=%s", url.PathEscape(id), expires,
		base64.RawURLEncoding.EncodeToString(l.signature(id, expires)))
}

// verify returns nil if a query is that of a link to the file with the given id, which is still good.
func (l *links) verify(id string, query url.Values) error {
	wrong := problem.BadLink.With("the link is not as it was given out")
	if len(query["expires"]) != 1 || len(query["signature"]) != 1 || len(query) != 2 {
		return wrong
	}
	expires, err := strconv.ParseInt(query.Get("expires"), 10, 64)
	if err != nil {
		return wrong
	}
	// Strict: else one signature could be written in several ways.
	signature, err := base64.RawURLEncoding.Strict().DecodeString(query.Get("signature"))
	if err != nil || !hmac.Equal(signature, l.signature(id, expires)) {
		return wrong
	}
	if !l.now().Before(time.Unix(expires, 0)) {
		return problem.BadLink.With("the link was good until %s", time.Unix(expires, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

// linkAnswer is the answer to a request for a link.
type linkAnswer struct {
	// URL is relative to the address that was called.
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// link answers with a link to a file that the caller may read.
func (h *handler) link(w http.ResponseWriter, r *http.Request, id string) error {
	var body struct {
		ExpiresIn *int64 `json:"expires_in"`
	}
	if r.ContentLength != 0 {
		if err := function.ReadJSON(w, r, maxLinkBody, &body); err != nil {
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
	f, err := h.stored(r.Context(), id)
	if err != nil {
		return err
	}
	if err := mayRead(r.Context(), f.Owner); err != nil {
		return err
	}
	expires := h.links.now().Add(life).Truncate(time.Second).UTC()
	return problem.JSON(w, http.StatusCreated, linkAnswer{h.links.address(id, expires.Unix()), expires})
}

// linked answers with the bytes of a file to whoever has a link to it.
func (h *handler) linked(w http.ResponseWriter, r *http.Request, id string) error {
	if err := h.links.verify(id, r.URL.Query()); err != nil {
		return err
	}
	f, err := h.stored(r.Context(), id)
	if errors.Is(err, problem.NotFound) {
		return problem.NotFound.With("the file is not there any more")
	}
	if err != nil {
		return err
	}
	w.Header().Set("Referrer-Policy", "no-referrer") // the address is a secret
	return h.send(w, r, f)
}
