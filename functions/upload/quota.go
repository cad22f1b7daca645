package main

import (
	"context"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// room is the size limit for a new file. It depends on the maximum file size and on the unused part of the owner's
// quota.
type room struct {
	// bytes is the maximum size of the file, in bytes.
	bytes int64
	// full is the error for a file that is larger than the limit.
	full error
}

// room returns the size limit for a new file. length is the minimum size of the file in bytes, or negative if
// unknown. If length exceeds the limit, the error is a problem.TooLarge or a problem.QuotaExceeded.
func (h *handler) room(ctx context.Context, owner string, length int64) (room, error) {
	if err := h.fits(length); err != nil {
		return room{}, err
	}
	left, full, err := h.files.Room(ctx, owner, length)
	if err != nil {
		return room{}, err
	}
	if left < h.maxSize {
		return room{left, full}, nil
	}
	return room{h.maxSize, h.tooLarge()}, nil
}

// fits returns an error if a file of the given length is larger than the maximum file size.
func (h *handler) fits(length int64) error {
	if length > h.maxSize {
		return h.tooLarge()
	}
	return nil
}

func (h *handler) tooLarge() error {
	return problem.TooLarge.With("a file may have at most %d bytes", h.maxSize)
}
