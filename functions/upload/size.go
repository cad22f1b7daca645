package main

import (
	"fmt"
	"strconv"
	"strings"
)

// size is a number of bytes. Its text form is a decimal number, optionally followed by the suffix KiB, MiB or GiB.
type size int64

// maxMaxSize is the largest value that UPLOAD_MAX_SIZE and UPLOAD_QUOTA can have, in bytes. It is the size of the
// largest file that package content can store: 1<<24 chunks of 1 MiB.
const maxMaxSize = 1 << 44

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(text []byte) error {
	digits, unit := string(text), int64(1)
	for suffix, factor := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number, found := strings.CutSuffix(digits, suffix); found {
			digits, unit = number, factor
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || n > maxMaxSize/unit {
		return fmt.Errorf("%q is not a valid size: use a number of bytes from 1 to %d, or a number with the suffix KiB, MiB or GiB", text, int64(maxMaxSize))
	}
	*s = size(n * unit)
	return nil
}

// quota is a number of bytes with the same text form as size. Unlike a size, a quota can be 0, which means that there
// is no quota.
type quota int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (q *quota) UnmarshalText(text []byte) error {
	if string(text) == "0" {
		*q = 0
		return nil
	}
	var s size
	if err := s.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or 0 for no quota", err)
	}
	*q = quota(s)
	return nil
}
