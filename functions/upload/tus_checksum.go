package main

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"hash"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// tusChecksums lists the supported checksum algorithms. The tus protocol requires SHA-1, which is sufficient to
// detect transmission errors.
const tusChecksums = "sha1,sha256,sha512"

// errChecksum reports that a request body does not match the checksum in the Upload-Checksum header. The store keeps no
// bytes of that body.
var errChecksum = problem.ChecksumMismatch.With("the body does not match the Upload-Checksum header " +
	"and was discarded: send the body again")

// checksummed is the checksum that the Upload-Checksum header declares for a request body.
type checksummed struct {
	hash func() hash.Hash
	sum  []byte
}

// uploadChecksum parses the Upload-Checksum header. It returns nil if there is no such header, and a
// problem.BadRequest if the header is malformed or the algorithm is not supported.
func uploadChecksum(h http.Header) (*checksummed, error) {
	lines := h.Values("Upload-Checksum")
	if len(lines) == 0 {
		return nil, nil
	}
	algorithm, encoded, _ := strings.Cut(lines[0], " ")
	c := &checksummed{}
	switch algorithm {
	case "sha1":
		c.hash = sha1.New
	case "sha256":
		c.hash = sha256.New
	case "sha512":
		c.hash = sha512.New
	default:
		return nil, problem.BadRequest.With("the algorithm in the Upload-Checksum header is not supported: "+
			"use one of %s", tusChecksums).Header("Tus-Checksum-Algorithm", tusChecksums)
	}
	var err error
	c.sum, err = base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(c.sum) != c.hash().Size() || len(lines) > 1 {
		return nil, problem.BadRequest.With("the Upload-Checksum header is malformed: " +
			"send the algorithm, a space and the checksum in base64")
	}
	return c, nil
}
