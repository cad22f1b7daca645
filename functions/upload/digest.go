package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// digests holds the digests that a Content-Digest header declares. A field is nil if the header does not declare that
// digest.
type digests struct{ sha256, sha512 []byte }

// byteSequence matches "=:BASE64:" in a Content-Digest member such as "sha-256=:BASE64:". It matches only a base64
// value without padding, so that contentDigest can add the padding, which the parser requires.
var byteSequence = regexp.MustCompile(`=:[A-Za-z0-9+/]+:`)

// contentDigest returns the SHA-256 and SHA-512 digests from the Content-Digest header (RFC 9530, Section 2). If the
// header is malformed, the error is a problem.BadRequest.
func contentDigest(h http.Header) (digests, error) {
	lines := h.Values("Content-Digest")
	if len(lines) == 0 {
		return digests{}, nil
	}
	malformed := problem.BadRequest.With("the Content-Digest header is malformed: send sha-256=:BASE64:, sha-512=:BASE64: or both")
	// Add missing base64 padding. Package httpsfv requires the padding, but RFC 9651, Section 4.2.7, recommends
	// accepting byte sequences without it.
	padded := byteSequence.ReplaceAllStringFunc(strings.Join(lines, ","), func(s string) string {
		return s[:len(s)-1] + strings.Repeat("=", -(len(s)-len("=::"))&3) + ":"
	})
	members, err := httpsfv.UnmarshalDictionary([]string{padded})
	if err != nil || len(members.Names()) == 0 {
		return digests{}, malformed
	}
	sums := map[string][]byte{}
	for _, algorithm := range members.Names() {
		member, _ := members.Get(algorithm)
		item, _ := member.(httpsfv.Item)
		sum, ok := item.Value.([]byte)
		if !ok || algorithm == "sha-256" && len(sum) != sha256.Size || algorithm == "sha-512" && len(sum) != sha512.Size {
			return digests{}, malformed
		}
		sums[algorithm] = sum
	}
	// Ignore all other algorithms, as RFC 9530 permits. All other registered algorithms are insecure.
	return digests{sums["sha-256"], sums["sha-512"]}, nil
}

// checksum computes the digests of a body while the body is being read, and compares them with the declared digests.
type checksum struct {
	promised digests
	sha256   hash.Hash // nil if the store computes this digest, or if the request declares none
	sha512   hash.Hash
}

// over returns a checksum for body. It also returns a reader, which the caller must use instead of body, so that the
// checksum covers every byte that the caller reads.
func (d digests) over(body io.Reader, isForm bool) (*checksum, io.Reader) {
	c := &checksum{promised: d}
	// If body is the file itself, not a form, the store computes the SHA-256 digest, and the caller passes this
	// digest to the matches method.
	if d.sha256 != nil && isForm {
		c.sha256 = sha256.New()
		body = io.TeeReader(body, c.sha256)
	}
	if d.sha512 != nil {
		c.sha512 = sha512.New()
		body = io.TeeReader(body, c.sha512)
	}
	return c, body
}

// matches returns a problem.DigestMismatch if a declared digest differs from the digest of the received bytes. sum
// is the file's SHA-256 digest in hexadecimal. For a form, sum is ignored.
func (c *checksum) matches(sum string) error {
	if c.sha256 != nil {
		sum = hex.EncodeToString(c.sha256.Sum(nil))
	}
	if c.promised.sha256 != nil && hex.EncodeToString(c.promised.sha256) != sum {
		return problem.DigestMismatch.With("the received content has the SHA-256 digest %s, which differs from the Content-Digest header", sum)
	}
	if c.sha512 != nil {
		if got := c.sha512.Sum(nil); !bytes.Equal(got, c.promised.sha512) {
			return problem.DigestMismatch.With("the received content has the SHA-512 digest %x, which differs from the Content-Digest header", got)
		}
	}
	return nil
}
