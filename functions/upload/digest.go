package main

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // registers the algorithm
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// digest is a digest that a request header declares.
type digest struct {
	header    string // the name of the header
	algorithm crypto.Hash
	sum       []byte
}

// digests contains the digests that a request declares for the same bytes.
type digests []digest

// digestAlgorithms contains the supported algorithms of Content-Digest and Repr-Digest. All other registered
// algorithms are insecure.
var digestAlgorithms = map[string]crypto.Hash{"sha-256": crypto.SHA256, "sha-512": crypto.SHA512}

// byteSequence matches "=:BASE64:" in a member such as "sha-256=:BASE64:". It matches only a base64 value without
// padding, so that integrityDigests can add the padding, which the parser requires.
var byteSequence = regexp.MustCompile(`=:[A-Za-z0-9+/]+:`)

// integrityDigests returns the digests from the Content-Digest or the Repr-Digest header (RFC 9530). It ignores
// unsupported algorithms, as RFC 9530 permits. If the header is malformed, the error is a problem.BadRequest.
func integrityDigests(h http.Header, header string) (digests, error) {
	lines := h.Values(header)
	if len(lines) == 0 {
		return nil, nil
	}
	malformed := problem.BadRequest.With("the %s header is malformed: send sha-256=:BASE64:, sha-512=:BASE64: or both", header)
	// Add missing base64 padding. Package httpsfv requires the padding, but RFC 9651, Section 4.2.7, recommends
	// accepting byte sequences without it.
	padded := byteSequence.ReplaceAllStringFunc(strings.Join(lines, ","), func(s string) string {
		return s[:len(s)-1] + strings.Repeat("=", -(len(s)-len("=::"))&3) + ":"
	})
	members, err := httpsfv.UnmarshalDictionary([]string{padded})
	if err != nil || len(members.Names()) == 0 {
		return nil, malformed
	}
	var all digests
	for _, name := range members.Names() {
		member, _ := members.Get(name)
		item, _ := member.(httpsfv.Item)
		sum, ok := item.Value.([]byte)
		algorithm, supported := digestAlgorithms[name]
		switch {
		case !ok, supported && len(sum) != algorithm.Size():
			return nil, malformed
		case supported:
			all = append(all, digest{header, algorithm, sum})
		}
	}
	return all, nil
}

// checksumHeader is the name of the header that the tus protocol defines for the digest of a request body.
const checksumHeader = "Upload-Checksum"

// tusChecksums lists the supported algorithms of Upload-Checksum. The tus protocol requires SHA-1, which is sufficient
// to detect transmission errors.
const tusChecksums = "sha1,sha256,sha512"

// uploadChecksum returns the digest from the Upload-Checksum header, if there is one. If the header is malformed or the
// algorithm is not supported, the error is a problem.BadRequest.
func uploadChecksum(h http.Header) (digests, error) {
	lines := h.Values(checksumHeader)
	if len(lines) == 0 {
		return nil, nil
	}
	name, encoded, _ := strings.Cut(lines[0], " ")
	algorithm, supported := map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha512": crypto.SHA512}[name]
	if !supported {
		return nil, problem.BadRequest.With("the algorithm in the Upload-Checksum header is not supported: "+
			"use one of %s", tusChecksums).Header("Tus-Checksum-Algorithm", tusChecksums)
	}
	sum, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(sum) != algorithm.Size() || len(lines) > 1 {
		return nil, problem.BadRequest.With("the Upload-Checksum header is malformed: " +
			"send the algorithm, a space and the checksum in base64")
	}
	return digests{{checksumHeader, algorithm, sum}}, nil
}

// pieceDigests returns the digests that a request of the tus protocol declares for its body.
func pieceDigests(h http.Header) (digests, error) {
	checksum, err := uploadChecksum(h)
	if err != nil {
		return nil, err
	}
	content, err := integrityDigests(h, "Content-Digest")
	return append(checksum, content...), err
}

// sha256 returns the declared SHA-256 digest in hexadecimal, or an empty string if none is declared.
func (d digests) sha256() string {
	for _, one := range d {
		if one.algorithm == crypto.SHA256 {
			return hex.EncodeToString(one.sum)
		}
	}
	return ""
}

// over returns a reader, which the caller must use instead of body, and a function that compares the digests of the
// bytes that the caller has read with the declared digests. If a digest differs, the error of this function is a
// problem.ChecksumMismatch for the Upload-Checksum header, and otherwise a problem.DigestMismatch.
func (d digests) over(body io.Reader) (_ io.Reader, verify func() error) {
	sums := map[crypto.Hash]hash.Hash{}
	for _, one := range d {
		if sums[one.algorithm] == nil {
			sums[one.algorithm] = one.algorithm.New()
			body = io.TeeReader(body, sums[one.algorithm])
		}
	}
	return body, func() error {
		for _, one := range d {
			got := sums[one.algorithm].Sum(nil)
			if bytes.Equal(got, one.sum) {
				continue
			}
			kind := problem.DigestMismatch
			if one.header == checksumHeader {
				kind = problem.ChecksumMismatch // the tus protocol requires another status for this header
			}
			return kind.With("the received content has the %v digest %x, which differs from the %s header: "+
				"the content was discarded, so send it again", one.algorithm, got, one.header)
		}
		return nil
	}
}
