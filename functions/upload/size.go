package main

import (
	"fmt"
	"strconv"
	"strings"
)

// size is a number of bytes, written as such or with the suffix KiB, MiB or GiB.
type size int64

// maxMaxSize is the largest file that shared/content can number the chunks of.
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
		return fmt.Errorf("%q is not a size: want a number of bytes from 1 to %d, or one with the suffix KiB, MiB or GiB", text, int64(maxMaxSize))
	}
	*s = size(n * unit)
	return nil
}

// quota is a size that may be 0, for none.
type quota int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (q *quota) UnmarshalText(text []byte) error {
	if string(text) == "0" {
		*q = 0
		return nil
	}
	var s size
	if err := s.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or 0 for none", err)
	}
	*q = quota(s)
	return nil
}
