package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxKey is the maximum length of an idempotency key, in bytes.
const maxKey = 255

// idempotencyKey returns the key from the Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header-07), or an
// empty string if the request does not have this header. The draft requires a string in double quotes (RFC 9651).
// idempotencyKey also accepts a key without quotes, because many clients omit the quotes. If the header is malformed,
// the error is a problem.BadRequest.
func idempotencyKey(h http.Header) (string, error) {
	lines := h.Values("Idempotency-Key")
	if len(lines) == 0 {
		return "", nil
	}
	malformed := problem.BadRequest.With("the Idempotency-Key header is malformed: send one key of 1 to %d printable ASCII characters", maxKey)
	if len(lines) > 1 {
		return "", malformed
	}
	key := strings.Trim(lines[0], " ")
	if strings.HasPrefix(key, `"`) {
		item, err := httpsfv.UnmarshalItem(lines)
		text, ok := item.Value.(string)
		if err != nil || !ok {
			return "", malformed
		}
		key = text
	} else if strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`",;\`, c) }) {
		return "", malformed
	}
	if key == "" || len(key) > maxKey {
		return "", malformed
	}
	return key, nil
}

// claimKey returns the database key of a claim, which assigns the given idempotency key to a file. Different users get
// different database keys, so that they can use the same idempotency key independently. The database key is a hash and
// therefore has a fixed length.
func claimKey(owner, key string) string {
	sum := sha256.Sum256([]byte(owner + "\n" + key))
	return hex.EncodeToString(sum[:])
}

// errReused reports that the request's idempotency key was already used for a different file.
var errReused = problem.KeyReused.With("the idempotency key was used for another file: use a new key for each file, and reuse a key only to retry the upload of the same file")

// repeats checks whether a request can be a retry of the request that stored the given file. It returns errReused if
// the headers prove that the request contains a different file. length is the length of the body in bytes, or -1 if
// the length is unknown. A nil result does not prove that the request is a retry, because repeats does not compare the
// content of the body.
func (d declared) repeats(file content.File, length int64) error {
	if d.boundary != "" {
		// The headers declare the digests and the length of the whole form, not of the file. Compare only the length,
		// because the form has at most formOverhead bytes more than the file.
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

// replay returns the given file, which an earlier request with the same idempotency key stored, and sets replayed to
// true. If the broker has not confirmed the file's event yet, replay publishes the event again, because a success
// response promises that the broker has received the event.
func (h *handler) replay(ctx context.Context, first content.File) (_ content.File, replayed bool, err error) {
	confirmed, err := h.files.Confirmed(ctx, first.ID)
	if err == nil && !confirmed {
		err = h.announceAgain(ctx, first.ID, true)
	}
	if err != nil {
		return content.File{}, false, err
	}
	return first, true, nil
}

// announceAgain reads the event from the document of the file with the given ID, and passes the event to announce. If
// the file no longer exists, announceAgain does nothing.
func (h *handler) announceAgain(ctx context.Context, id string, keepFile bool) error {
	e, err := events.Load(ctx, h.files, id)
	if errors.Is(err, problem.NotFound) {
		return nil // the file was deleted in the meantime
	}
	if err != nil {
		return err
	}
	return h.announce(ctx, e, keepFile)
}

// claim assigns the given key to the given file and returns the file, so that all later requests with the same key get
// the same response. If another request has already assigned the key to its own file, claim deletes the given file and
// returns the other file. If the two files differ in content, name or content type, claim returns errReused.
func (h *handler) claim(ctx context.Context, key string, file content.File) (content.File, error) {
	// Continue even if the client disconnects, because a committed file must either get the key or be deleted.
	ctx = context.WithoutCancel(ctx)
	first, err := h.files.Claim(ctx, key, file)
	switch {
	case err != nil:
		// Keep the file, because the store might have assigned the key to the file despite the error. The sweep
		// function later deletes this file if another file has the key. Otherwise, it publishes the event for this file.
		return content.File{}, fmt.Errorf("claim the idempotency key for file %s (the file stays pending): %w", file.ID, err)
	case first.ID == file.ID:
		return file, nil
	}
	// If the deletion fails, continue, because the sweep function deletes the file later.
	if err := h.undo(ctx, file.ID, nil); err != nil {
		slog.WarnContext(ctx, "could not delete file whose idempotency key was already assigned to another file", "id", file.ID, "error", err)
	}
	if first.SHA256 != file.SHA256 || first.Name != file.Name || first.ContentType != file.ContentType {
		return content.File{}, errReused
	}
	return first, nil
}
