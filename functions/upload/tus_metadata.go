package main

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxMetadata is the maximum length of the Upload-Metadata header, in bytes. The limit leaves space for two copies of
// the longest file name that any file system permits, because Uppy sends the file name twice.
const maxMetadata = 8 << 10

// uploadMetadata holds the file properties that a client declares in the Upload-Metadata header when it creates an
// upload.
type uploadMetadata struct {
	// name is the result of safeName for the declared file name. contentType is empty if the client declares no content
	// type.
	name, contentType string
	// raw is the whole header value. The response to a HEAD request contains the same value.
	raw string
}

// parseMetadata parses the Upload-Metadata header, which consists of pairs of a key and a value in base64. The file
// name is the value of "filename" or, if this value is missing or empty, of "name". The content type is the value of
// "filetype" or, if this value is missing or empty, of "type". Both spellings are supported, because the documentation
// of tusd uses "filename" and "filetype", and Uppy uses "name" and "type". parseMetadata ignores all other keys. If the
// header is malformed or longer than maxMetadata, the error is a problem.BadRequest.
func parseMetadata(h http.Header) (uploadMetadata, error) {
	m := uploadMetadata{raw: strings.Join(h.Values("Upload-Metadata"), ",")}
	if len(m.raw) > maxMetadata {
		return uploadMetadata{}, problem.BadRequest.With("the Upload-Metadata header may have at most %d bytes", maxMetadata)
	}
	pairs, ok := metadataPairs(m.raw)
	if !ok {
		return uploadMetadata{}, problem.BadRequest.With("the Upload-Metadata header is malformed: send comma-separated pairs of a unique key, a space and a base64 value")
	}
	first := func(keys ...string) string {
		for _, key := range keys {
			if value := pairs[key]; value != "" {
				return value
			}
		}
		return ""
	}
	m.name = safeName(first("filename", "name"))
	m.contentType = first("filetype", "type")
	if _, _, err := contentType(m.contentType); err != nil {
		return uploadMetadata{}, err
	}
	return m, nil
}

// metadataPairs returns the keys and the decoded values in raw, the value of an Upload-Metadata header. It also
// reports whether raw is well-formed.
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
