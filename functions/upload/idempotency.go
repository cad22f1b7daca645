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

// idempotencyKey returns the key from the Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header-07), or
// an empty string if there is no such header. If the header is malformed, the error is a problem.BadRequest.
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
	// Also accept a key without the double quotes that the draft requires, because many clients omit the quotes.
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

// claimKey returns the database key for an idempotency key. The database key depends on the owner, so that different
// users can use the same idempotency key independently.
func claimKey(owner, key string) string {
	sum := sha256.Sum256([]byte(owner + "\n" + key))
	return hex.EncodeToString(sum[:])
}

// errReused reports that the request's idempotency key was already used for a different file.
var errReused = problem.KeyReused.With("the idempotency key was used for another file: use a new key for each file, and reuse a key only to retry the upload of the same file")

// repeats returns errReused if the headers alone prove that the request does not upload the given file again. length
// is the length of the body in bytes, or -1 if the length is unknown. A nil result does not prove that the request
// uploads the same file, because repeats does not compare the content of the body.
func (d declared) repeats(file content.File, length int64) error {
	if d.boundary != "" {
		// For a form, compare only the lengths, because a declared digest covers the whole form, not only the
		// file. A form may have at most formOverhead bytes more than its file.
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

// replay handles a request whose idempotency key was already used by an earlier request. It returns the file that
// the earlier request stored, and sets replayed to true.
func (h *handler) replay(ctx context.Context, first content.File) (_ content.File, replayed bool, err error) {
	confirmed, err := h.files.Confirmed(ctx, first.ID)
	// Publish an unconfirmed event again, because a success response promises that the broker has received the
	// event.
	if err == nil && !confirmed {
		err = h.announceAgain(ctx, first.ID, true)
	}
	if err != nil {
		return content.File{}, false, err
	}
	return first, true, nil
}

// announceAgain loads the event for the file with the given ID, and calls announce to publish it. If the file no
// longer exists, announceAgain does nothing.
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

// claim assigns the idempotency key to the given file and returns this file. If another file already has the key,
// claim deletes the given file. It then returns the other file, or errReused if the two files differ in content, name
// or content type.
func (h *handler) claim(ctx context.Context, key string, file content.File) (content.File, error) {
	// Continue even if the client disconnects, because a committed file must either be assigned the idempotency key
	// or be deleted.
	ctx = context.WithoutCancel(ctx)
	first, err := h.files.Claim(ctx, key, file)
	switch {
	case err != nil:
		// Keep the file, because the store might have assigned the key to it despite the error. The sweep function
		// later publishes the event or deletes the file.
		return content.File{}, fmt.Errorf("claim the idempotency key for file %s (the sweep function will retry): %w", file.ID, err)
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
