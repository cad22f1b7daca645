package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// limits are those of every upload, in bytes.
type limits struct {
	// file bounds one file.
	file int64
	// quota bounds the files of one user together; 0 does not.
	quota int64
}

// room is how many bytes a file may have.
type room struct {
	bytes int64
	// full is the problem of a file with more.
	full *problem.Problem
}

// room returns the room that the owner has for one more file of at least length bytes, or the problem that there is
// less. Files of the same owner that are on their way and whose length is not known are not in the reckoning, so the
// quota has to be checked again when the file is there.
func (h *handler) room(ctx context.Context, owner string, length int64) (room, error) {
	r := room{h.limits.file, problem.TooLarge.With("the limit is %d bytes", h.limits.file)}
	if length > r.bytes {
		return room{}, r.full // without a question to the store
	}
	if h.limits.quota == 0 {
		return r, nil
	}
	used, err := h.files.Usage(ctx, owner)
	if err != nil {
		return room{}, err
	}
	if left := max(0, h.limits.quota-used); left < r.bytes {
		r = room{left, problem.QuotaExceeded.With("of the %d bytes that your files may have, %d are left", h.limits.quota, left)}
	}
	if length > r.bytes {
		return room{}, r.full
	}
	return r, nil
}

// withinQuota takes the file back, which is committed but not announced, or on its way with a length that is declared,
// if it leaves its owner with more than the quota permits. Of files that came at the same time, and together are too much, none may stay; but never too many.
func (h *handler) withinQuota(ctx context.Context, owner, id string) error {
	if h.limits.quota == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	used, err := h.files.Usage(ctx, owner)
	if err == nil && used <= h.limits.quota {
		return nil
	}
	if err == nil {
		err = problem.QuotaExceeded.With("your files may have %d bytes together: others came at the same time", h.limits.quota)
	}
	if failed := h.files.Delete(ctx, id); failed != nil {
		return errors.Join(err, fmt.Errorf("take back file %s: %w", id, failed))
	}
	return err
}
