package main

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxMetadata is the maximum length of the Upload-Metadata header, in bytes. The limit leaves space for two copies
// of a long file name, because Uppy sends the name twice.
const maxMetadata = 8 << 10

// uploadMetadata holds the file properties that a client declares in the Upload-Metadata header.
type uploadMetadata struct {
	// name is the declared file name, converted by safeName. contentType is empty if the client declares no content
	// type.
	name, contentType string
	// raw is the whole header value. The response to a HEAD request contains the same value.
	raw string
}

// parseMetadata parses the Upload-Metadata header. If the header is malformed or longer than maxMetadata, the error
// is a problem.BadRequest.
func parseMetadata(h http.Header) (uploadMetadata, error) {
	m := uploadMetadata{raw: strings.Join(h.Values("Upload-Metadata"), ",")}
	if len(m.raw) > maxMetadata {
		return uploadMetadata{}, problem.BadRequest.With("the Upload-Metadata header may have at most %d bytes", maxMetadata)
	}
	pairs, ok := metadataPairs(m.raw)
	if !ok {
		return uploadMetadata{}, problem.BadRequest.With("the Upload-Metadata header is malformed: " +
			"send comma-separated pairs of a unique key, a space and a base64 value")
	}
	first := func(keys ...string) string {
		for _, key := range keys {
			if value := pairs[key]; value != "" {
				return value
			}
		}
		return ""
	}
	// Accept two keys for each property: the tusd documentation uses filename and filetype, and Uppy uses name and
	// type.
	m.name = safeName(first("filename", "name"))
	m.contentType = first("filetype", "type")
	if _, _, err := contentType(m.contentType); err != nil {
		return uploadMetadata{}, err
	}
	return m, nil
}

// metadataPairs parses raw, the value of an Upload-Metadata header. It returns the decoded values, indexed by key.
// It also reports whether raw is well-formed.
func metadataPairs(raw string) (map[string]string, bool) {
	pairs := map[string]string{}
	if strings.Trim(raw, " ") == "" {
		return pairs, true
	}
	for pair := range strings.SplitSeq(raw, ",") {
		key, encoded, _ := strings.Cut(strings.Trim(pair, " "), " ")
		value, err := base64.StdEncoding.Strict().DecodeString(encoded)
		_, twice := pairs[key]
		if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) || err != nil || twice ||
			strings.ContainsAny(encoded, "\r\n") {
			return nil, false
		}
		pairs[key] = string(value)
	}
	return pairs, true
}
