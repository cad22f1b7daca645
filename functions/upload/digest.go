package main

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// contentDigest returns the SHA-256 that the Content-Digest header (RFC 9530 §2) promises, nil where there is none.
// The header is a dictionary of byte sequences (RFC 9651): sha-256=:BASE64:, sha-512=:BASE64:. Algorithms other than
// sha-256 are ignored, as the RFC lets a recipient do.
func contentDigest(h http.Header) ([]byte, error) {
	malformed := problem.BadRequest.With("the Content-Digest header is not well-formed: want sha-256=:BASE64:")
	var want []byte
	for _, line := range h.Values("Content-Digest") {
		for member := range strings.SplitSeq(line, ",") {
			algorithm, value, found := strings.Cut(strings.Trim(member, " \t"), "=")
			if !found {
				return nil, malformed
			}
			value, _, _ = strings.Cut(value, ";") // parameters, of which none are defined
			if len(value) < 2 || value[0] != ':' || value[len(value)-1] != ':' {
				return nil, malformed
			}
			sum, err := base64.StdEncoding.DecodeString(value[1 : len(value)-1])
			if err != nil {
				return nil, malformed
			}
			if algorithm != "sha-256" {
				continue
			}
			if len(sum) != sha256.Size {
				return nil, malformed
			}
			want = sum
		}
	}
	return want, nil
}
