package main

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"

	"github.com/dunglas/httpsfv"
)

// setDigests sets the Repr-Digest header, and the Content-Digest header for a GET request (RFC 9530). sum is the
// SHA-256 digest of the whole file in hexadecimal. Both headers always have the algorithm sha-256, even if the client
// prefers another algorithm, because the store has only this digest. A client can refuse each header.
func setDigests(header http.Header, r *http.Request, sum string) {
	b, err := hex.DecodeString(sum)
	if err != nil {
		return
	}
	value := "sha-256=:" + base64.StdEncoding.EncodeToString(b) + ":"
	if !refuses(r, "Repr-Digest") {
		header.Set("Repr-Digest", value)
	}
	// The response to a HEAD request has no content, so the digest of the file is not the digest of its content.
	if r.Method == http.MethodGet && !refuses(r, "Content-Digest") {
		header.Set("Content-Digest", value)
	}
}

// omitDigests deletes the digests that do not apply to a response with the given status. A partial response does not
// contain the whole file. A 304 response has no metadata except the metadata that a cache needs (RFC 9110, Section
// 15.4.5).
func omitDigests(header http.Header, status int) {
	if status != http.StatusOK {
		header.Del("Content-Digest")
	}
	if status == http.StatusNotModified {
		header.Del("Repr-Digest")
	}
}

// refuses reports whether the Want-Repr-Digest or the Want-Content-Digest header refuses the algorithm sha-256 for the
// given response header. A malformed header refuses nothing, because a server may ignore the client's preferences.
func refuses(r *http.Request, header string) bool {
	wanted, err := httpsfv.UnmarshalDictionary(r.Header.Values("Want-" + header))
	if err != nil {
		return false
	}
	member, _ := wanted.Get("sha-256")
	item, _ := member.(httpsfv.Item)
	return item.Value == int64(0)
}
