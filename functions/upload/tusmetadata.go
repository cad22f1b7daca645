package main

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxMetadata bounds Upload-Metadata, in bytes: the longest names of any file system fit twice, as Uppy sends them.
const maxMetadata = 8 << 10

// uploadMetadata is what the creation of an upload declares of the file.
type uploadMetadata struct {
	// name is safe; contentType is empty where it is not declared.
	name, contentType string
	// raw is the whole, for the client to read again.
	raw string
}

// parseMetadata reads Upload-Metadata, pairs of a key and a value in base64. Names and types are filename and filetype, as
// tusd's documentation has them, or else name and type, as Uppy's has; other keys are the client's own.
func parseMetadata(h http.Header) (uploadMetadata, error) {
	m := uploadMetadata{raw: strings.Join(h.Values("Upload-Metadata"), ",")}
	if len(m.raw) > maxMetadata {
		return uploadMetadata{}, problem.BadRequest.With("Upload-Metadata is too long: it may have %d bytes", maxMetadata)
	}
	pairs, ok := metadataPairs(m.raw)
	if !ok {
		return uploadMetadata{}, problem.BadRequest.With("the Upload-Metadata header is not well-formed: want KEY BASE64, KEY BASE64 with each key once")
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

// metadataPairs returns the keys and values in the value of Upload-Metadata, and whether it is well-formed.
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
