package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// digests are the digests of a body that its Content-Digest header promises; nil where it does not.
type digests struct{ sha256, sha512 []byte }

// contentDigest reads the Content-Digest header (RFC 9530 §2), a dictionary of byte sequences: sha-256=:BASE64:,
// sha-512=:BASE64:. Those two are checked, all that are there; the RFC's other algorithms are insecure, and like unknown
// ones ignored, as it lets a recipient do.
func contentDigest(h http.Header) (digests, error) {
	lines := h.Values("Content-Digest")
	if len(lines) == 0 {
		return digests{}, nil
	}
	var d digests
	fits := true
	p := fieldParser(strings.Join(lines, ","))
	err := p.dictionary(func(algorithm string, sum []byte) {
		switch algorithm {
		case "sha-256":
			d.sha256 = sum
			fits = fits && len(sum) == sha256.Size
		case "sha-512":
			d.sha512 = sum
			fits = fits && len(sum) == sha512.Size
		}
	})
	if err != nil || !fits {
		return digests{}, problem.BadRequest.With("the Content-Digest header is not well-formed: want sha-256=:BASE64:, sha-512=:BASE64: or both")
	}
	return d, nil
}

// checksum computes and compares the digests of a body that is read through it.
type checksum struct {
	promised digests
	sha256   hash.Hash // nil where another computes it
	sha512   hash.Hash
}

// over returns a checksum of body, and the reader to read it with. Unless whole is true it leaves the SHA-256 out.
func (d digests) over(body io.Reader, whole bool) (*checksum, io.Reader) {
	c := &checksum{promised: d}
	if d.sha256 != nil && whole {
		c.sha256 = sha256.New()
		body = io.TeeReader(body, c.sha256)
	}
	if d.sha512 != nil {
		c.sha512 = sha512.New()
		body = io.TeeReader(body, c.sha512)
	}
	return c, body
}

// matches returns a problem unless the promises were kept by what has been read. sum is the SHA-256 of it in hex where
// the checksum did not compute it.
func (c *checksum) matches(sum string) error {
	if c.sha256 != nil {
		sum = hex.EncodeToString(c.sha256.Sum(nil))
	}
	if c.promised.sha256 != nil && hex.EncodeToString(c.promised.sha256) != sum {
		return problem.DigestMismatch.With("the content has the SHA-256 %s", sum)
	}
	if c.sha512 != nil {
		if got := c.sha512.Sum(nil); !bytes.Equal(got, c.promised.sha512) {
			return problem.DigestMismatch.With("the content has the SHA-512 %x", got)
		}
	}
	return nil
}
