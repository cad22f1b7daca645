package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/strongroom-dev/strongroom/shared/content"
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

// repeats returns an error unless the request r uploads the file first again. It reads the body of r and compares the
// bytes, so that a client that uses the key for another file does not lose this file. It skips the body only if the
// client waits for the response before it sends the body, and has declared the SHA-256 digest of the same file.
func repeats(r *http.Request, d declared, first content.File) error {
	isForm := d.boundary != ""
	if !isForm { // the headers of a form do not describe the file
		if err := d.mayRepeat(first, r.ContentLength); err != nil {
			return err
		}
		if d.digests.sha256() == first.SHA256 && r.Header.Get("Expect") != "" {
			return nil
		}
	}
	in, err := receive(r, d, room{first.Size, errReused})
	if err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, in.bytes); err != nil {
		return err
	}
	if err := in.finish(); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != first.SHA256 || isForm && (in.name != first.Name || in.contentType != first.ContentType) {
		return errReused
	}
	return nil
}

// mayRepeat returns errReused if the headers alone prove that the request does not upload the given file again. length
// is the length of the body in bytes, or -1 if the length is unknown.
func (d declared) mayRepeat(file content.File, length int64) error {
	otherDigest := func(one digest) bool {
		return one.algorithm == crypto.SHA256 && hex.EncodeToString(one.sum) != file.SHA256
	}
	switch {
	case length >= 0 && length != file.Size,
		slices.ContainsFunc(d.digests, otherDigest),
		d.name != "" && safeName(d.name) != file.Name,
		d.contentType != "" && d.contentType != file.ContentType:
		return errReused
	}
	return nil
}

// takenError reports that another file already has the idempotency key of an upload.
type takenError struct{ first, refused content.File }

func (e *takenError) Error() string {
	return fmt.Sprintf("file %s has the idempotency key of upload %s", e.first.ID, e.refused.ID)
}

// replay returns the file that has the key, or errReused if the refused upload is different from this file.
func (e *takenError) replay() (content.File, bool, error) {
	if e.first.SHA256 != e.refused.SHA256 || e.first.Name != e.refused.Name || e.first.ContentType != e.refused.ContentType {
		return content.File{}, false, errReused
	}
	return e.first, true, nil
}

// claim assigns the idempotency key to the given file, which must not be committed yet. If another file already has the
// key, the error is a *takenError. If the key is empty, claim does nothing.
func (h *handler) claim(ctx context.Context, key string, f content.File) error {
	if key == "" {
		return nil
	}
	first, err := h.files.Claim(ctx, key, f)
	if err == nil && first.ID != f.ID {
		err = &takenError{first, f}
	}
	return err
}
