package main

import (
	"fmt"
	"strconv"
	"strings"
)

// size is a number of bytes. Its text form is a decimal number, optionally followed by the suffix KiB, MiB or GiB.
type size int64

// maxMaxSize is the largest valid value of UPLOAD_MAX_SIZE and UPLOAD_QUOTA, in bytes. The limit is 1<<44 bytes,
// because package content can store at most 1<<24 chunks of 1 MiB per file.
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

// quota is a number of bytes with the same text form as size. Unlike a size, a quota can be 0, which means that
// there is no quota.
type quota int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (q *quota) UnmarshalText(text []byte) error {
	if string(text) == "0" {
		*q = 0
		return nil
	}
	var s size
	if err := s.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w; use 0 for no quota", err)
	}
	*q = quota(s)
	return nil
}
