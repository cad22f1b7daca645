package main

import (
	"context"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// limits holds the size limits for uploads, in bytes.
type limits struct {
	// file is the maximum size of one file.
	file int64
	// quota is the maximum total size of each user's files. 0 means that there is no quota.
	quota int64
}

// room is the size limit for a new file. It depends on the maximum file size and on the unused part of the owner's
// quota.
type room struct {
	// bytes is the maximum size of the file, in bytes.
	bytes int64
	// full is the error for a file that is larger than the limit.
	full *problem.Problem
}

// room returns the size limit for a new file. length is the minimum size of the file in bytes, or negative if
// unknown. If length exceeds the limit, the error is a problem.TooLarge or a problem.QuotaExceeded.
func (h *handler) room(ctx context.Context, owner string, length int64) (room, error) {
	r := room{h.limits.file, problem.TooLarge.With("a file may have at most %d bytes", h.limits.file)}
	if length > r.bytes {
		return room{}, r.full // length exceeds the file size limit, so the store need not be queried
	}
	if h.limits.quota == 0 {
		return r, nil
	}
	used, err := h.files.Usage(ctx, owner)
	if err != nil {
		return room{}, err
	}
	if left := max(0, h.limits.quota-used); left < r.bytes {
		r = room{left, problem.QuotaExceeded.With("the file exceeds your quota of %d bytes, of which %d bytes are left", h.limits.quota, left)}
	}
	if length > r.bytes {
		return room{}, r.full
	}
	return r, nil
}

// reserve returns an error if the owner would exceed the quota with f. f must have a note, but must not be committed
// yet. resize must be true if the size of f was not declared, so that Usage also counts f for concurrent uploads.
func (h *handler) reserve(ctx context.Context, f file.Info, resize bool) error {
	if h.limits.quota == 0 {
		return nil
	}
	if resize {
		if err := h.notes.Resize(ctx, f.ID, f.Size); err != nil {
			return err
		}
	}
	used, err := h.files.Usage(ctx, f.Owner)
	if err == nil && used > h.limits.quota {
		// If concurrent uploads together exceed the quota, all of them might be refused, but the remaining files never
		// exceed the quota.
		err = problem.QuotaExceeded.With("this file and the files that you uploaded at the same time exceed your quota of %d bytes", h.limits.quota)
	}
	return err
}
