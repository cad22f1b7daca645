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

// tusChecksums are the algorithms of checksums. SHA-1 is the one that every server must have; that others can make two
// pieces with the same is no matter: it is for what happens on the way.
const tusChecksums = "sha1,sha256,sha512"

// errChecksum is what a piece gets that does not have its checksum. Nothing of it is kept.
var errChecksum = problem.ChecksumMismatch.With("nothing of the body was kept: send it again")

// checksummed is the checksum of a body that its Upload-Checksum header promises.
type checksummed struct {
	hash func() hash.Hash
	sum  []byte
}

// uploadChecksum reads the Upload-Checksum header, an algorithm and a sum in base64. Without one it returns nil.
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
		return nil, problem.BadRequest.With("the algorithm of Upload-Checksum is not known: use one of %s", tusChecksums).
			Header("Tus-Checksum-Algorithm", tusChecksums)
	}
	var err error
	if c.sum, err = base64.StdEncoding.DecodeString(encoded); err != nil || len(c.sum) != c.hash().Size() || len(lines) > 1 {
		return nil, problem.BadRequest.With("the Upload-Checksum header is not well-formed: want ALGORITHM BASE64")
	}
	return c, nil
}
