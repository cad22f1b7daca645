package main

import (
	"context"

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
	// The usage does not include concurrent uploads of unknown size. After the file is stored, the caller must
	// therefore call withinQuota.
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

// withinQuota returns an error if the owner exceeds the quota, or if the store cannot report the usage. In either case,
// it also deletes the file or the resumable upload with the given ID.
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
		// If concurrent uploads together exceed the quota, all of them might be deleted, but the remaining files
		// never exceed the quota.
		err = problem.QuotaExceeded.With("this file and the files that you uploaded at the same time exceed your quota of %d bytes", h.limits.quota)
	}
	return h.undo(ctx, id, err)
}
