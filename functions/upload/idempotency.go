package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxKey bounds an idempotency key, in bytes.
const maxKey = 255

// idempotencyKey returns what the Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header-07) holds, a string
// in double quotes (RFC 9651) or, as many clients send it, the bare characters of one. Without the header it is empty.
func idempotencyKey(h http.Header) (string, error) {
	lines := h.Values("Idempotency-Key")
	if len(lines) == 0 {
		return "", nil
	}
	malformed := problem.BadRequest.With("the Idempotency-Key header is not well-formed: want a string of 1 to %d characters", maxKey)
	if len(lines) > 1 {
		return "", malformed
	}
	p := fieldParser(strings.Trim(lines[0], " "))
	var key string
	if strings.HasPrefix(string(p), `"`) {
		var err error
		if key, err = p.text(); err != nil || p.parameters() != nil {
			return "", malformed
		}
	} else {
		key = p.while(func(c byte) bool { return c > ' ' && c <= '~' && strings.IndexByte(`",;\`, c) < 0 })
	}
	if p != "" || key == "" || len(key) > maxKey {
		return "", malformed
	}
	return key, nil
}

// claimKey is what the store knows a user's idempotency key by: of a bounded length, and no other user's.
func claimKey(owner, key string) string {
	sum := sha256.Sum256([]byte(owner + "\n" + key))
	return hex.EncodeToString(sum[:])
}

// errReused is what a request gets whose key belongs to another one.
var errReused = problem.KeyReused.With("the key was used with another file: make a new key for each file, and keep it for retries of that one")

// repeats returns a problem if d, with a body of length bytes (-1: not known), surely is not the request again that made
// the file. That is all that can be said without reading the body.
func (d declared) repeats(file content.File, length int64) error {
	if d.boundary != "" {
		// Length and digests are those of the form.
		if length >= 0 && (length < file.Size || length > file.Size+formOverhead) {
			return errReused
		}
		return nil
	}
	switch {
	case length >= 0 && length != file.Size,
		d.digests.sha256 != nil && hex.EncodeToString(d.digests.sha256) != file.SHA256,
		d.name != "" && safeName(d.name) != file.Name,
		d.contentType != "" && d.contentType != file.ContentType:
		return errReused
	}
	return nil
}

// replay answers a request with the answer to the first one of its key, which made the file. The promise in it must be
// true by then: as long as the event is not known to have reached the broker it is published again.
func (h *handler) replay(ctx context.Context, first content.File) (_ content.File, before bool, err error) {
	confirmed, err := h.files.Confirmed(ctx, first.ID)
	if err == nil && !confirmed {
		err = h.announceAgain(ctx, first.ID)
	}
	if err != nil {
		return content.File{}, false, err
	}
	return first, true, nil
}

// announceAgain publishes the event of a file as its document carries it.
func (h *handler) announceAgain(ctx context.Context, id string) error {
	raw, err := h.files.Event(ctx, id)
	if errors.Is(err, problem.NotFound) {
		return nil // deleted since, by the user: it was accepted before
	}
	if err != nil {
		return err
	}
	return h.announceRaw(ctx, id, raw, true)
}

// announceRaw is announce for an event as a document carries it.
func (h *handler) announceRaw(ctx context.Context, id string, raw []byte, stays bool) error {
	var e event.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("read the event of file %s: %w", id, err)
	}
	return h.announce(ctx, e, stays)
}

// claim makes the file the one that all requests with the key are answered with, and returns it; or, if another request
// with the key came first, takes it back and returns the other's.
func (h *handler) claim(ctx context.Context, key string, file content.File) (content.File, error) {
	// With the file committed, a client that goes away does not end this: one way or the other it is to be finished.
	ctx = context.WithoutCancel(ctx)
	first, err := h.files.Claim(ctx, key, file)
	switch {
	case err != nil:
		// The claim may have been made or not: sweep finds out, and keeps the file or deletes it.
		return content.File{}, fmt.Errorf("file %s stays, pending: %w", file.ID, err)
	case first.ID == file.ID:
		return file, nil
	}
	h.takeBack(ctx, file.ID)
	if first.SHA256 != file.SHA256 || first.Name != file.Name || first.ContentType != file.ContentType {
		return content.File{}, errReused
	}
	return first, nil
}

// takeBack deletes a file that nobody was told of. If that fails, sweep does it: its key belongs to another file.
func (h *handler) takeBack(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	if err := h.files.Delete(ctx, id); err != nil {
		slog.WarnContext(ctx, "a file that lost its idempotency key is left to sweep", "id", id, "error", err)
	}
}
