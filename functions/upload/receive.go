package main

import (
	"bufio"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

const (
	// formOverhead is the maximum number of bytes that a multipart form may contain in addition to its file.
	formOverhead = 1 << 20
	// maxFields is the maximum number of fields in a multipart form, not counting the file.
	maxFields = 32
	// maxContentType is the maximum length of a content type, in bytes. The event schema has the same limit.
	maxContentType = 255
	// sniffed is the maximum number of bytes that http.DetectContentType examines.
	sniffed = 512
)

// incoming describes a file while its bytes are being received.
type incoming struct {
	name        string
	contentType string
	bytes       io.Reader
	// finish checks the rest of the request body and the declared digests. Callers must first read from the bytes
	// field until EOF.
	finish func() error
}

// receive returns the file in the body of r. Reading the file's bytes fails if the file is larger than room.bytes.
func receive(r *http.Request, headers declared, room room) (incoming, error) {
	take := raw
	if headers.boundary != "" {
		take = form
	}
	in, err := take(r, headers, room)
	if err != nil {
		return incoming{}, err
	}
	in.name = safeName(in.name)
	if in.contentType == "" {
		buffered := bufio.NewReaderSize(in.bytes, sniffed)
		start, err := buffered.Peek(sniffed)
		if err != nil && err != io.EOF {
			return incoming{}, err
		}
		in.bytes, in.contentType = buffered, http.DetectContentType(start)
	}
	return in, nil
}

// declared holds the properties of an upload that the request declares in its headers and its query.
type declared struct {
	// name and contentType describe the file. Each of them is empty if the request does not declare it.
	name        string
	contentType string
	// boundary separates the parts of a multipart form. It is empty if the body is not a form.
	boundary string
	// size is the size of the file in bytes, or -1 if unknown. It is unknown for a form, because the Content-Length
	// header covers the whole form.
	size int64
	// least is the minimum size of the file in bytes, or negative if unknown. For a form, it is the length of the
	// body minus formOverhead.
	least int64
	// digests contains the digests that the Content-Digest and Repr-Digest headers declare for the body. Both headers
	// cover the same bytes, because the body is a whole representation without a content coding.
	digests digests
	// key is the value of the Idempotency-Key header. It is empty if the request does not have this header.
	key string
}

// declare parses the headers and the query of r. It does not read the body, so that an invalid request is rejected
// before the client sends a large file.
func declare(r *http.Request) (d declared, err error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		// Reject a body with a content coding such as gzip, because the store would keep the encoded bytes, and no
		// function decodes them when a client downloads the file.
		return declared{}, problem.UnsupportedType.With("Content-Encoding is not supported: send the file without this header").Header("Accept-Encoding", "identity")
	}
	for _, header := range []string{"Content-Digest", "Repr-Digest"} {
		more, err := integrityDigests(r.Header, header)
		if err != nil {
			return declared{}, err
		}
		d.digests = append(d.digests, more...)
	}
	if d.key, err = idempotencyKey(r.Header); err != nil {
		return declared{}, err
	}
	kind, params, err := contentType(r.Header.Get("Content-Type"))
	if err != nil {
		return declared{}, err
	}
	d.size, d.least = r.ContentLength, r.ContentLength
	if kind == "multipart/form-data" {
		if d.boundary = params["boundary"]; d.boundary == "" {
			return declared{}, problem.BadRequest.With("the Content-Type header of a form must have a boundary parameter")
		}
		d.size, d.least = -1, r.ContentLength-formOverhead
	} else {
		d.contentType = r.Header.Get("Content-Type")
		if kind == "" || kind == "application/x-www-form-urlencoded" {
			// Ignore application/x-www-form-urlencoded, because clients such as curl send this type with any body.
			d.contentType = ""
		}
		if d.name, err = declaredName(r); err != nil {
			return declared{}, err
		}
	}
	return d, nil
}

// contentType parses the media type in value. An empty value is valid. If value is malformed or longer than
// maxContentType, the error is a problem.BadRequest.
func contentType(value string) (kind string, params map[string]string, err error) {
	if value == "" {
		return "", nil, nil
	}
	kind, params, err = mime.ParseMediaType(value)
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	if err != nil || len(value) > maxContentType || strings.ContainsFunc(value, unprintable) {
		return "", nil, problem.BadRequest.Because(err, "the content type is malformed or too long")
	}
	return kind, params, nil
}

// declaredName returns the file name from the Content-Disposition header (RFC 6266) or else from the query parameter
// "name". The result is empty if the request declares no file name.
func declaredName(r *http.Request) (string, error) {
	if value := r.Header.Get("Content-Disposition"); value != "" {
		_, params, err := mime.ParseMediaType(value)
		if err != nil {
			return "", problem.BadRequest.Because(err, "the Content-Disposition header is malformed")
		}
		// ParseMediaType prefers the filename* parameter (RFC 8187) to the filename parameter.
		if name := params["filename"]; name != "" {
			return name, nil
		}
	}
	query, err := request.Query(r, "name")
	return query.Get("name"), err
}

// raw returns a file that consists of the whole request body.
func raw(r *http.Request, d declared, room room) (incoming, error) {
	body, verify := d.digests.over(room.limit(r.Body, 0))
	return incoming{d.name, d.contentType, body, verify}, nil
}

// form returns the file in a multipart/form-data body (RFC 7578), which must contain exactly one file. It skips all
// other fields.
func form(r *http.Request, d declared, room room) (incoming, error) {
	// The digests cover the whole form, because the form is the body of the request.
	body, verify := d.digests.over(room.limit(r.Body, formOverhead))
	parts := multipart.NewReader(body, d.boundary)
	fields := 0
	// next skips fields that are not files. It returns the next file, or nil at the end of the form.
	next := func() (*multipart.Part, error) {
		for {
			part, err := parts.NextRawPart() // NextPart would decode quoted-printable parts
			if err == io.EOF {
				return nil, nil
			}
			if err != nil {
				return nil, broken(err)
			}
			if part.FileName() != "" {
				return part, nil
			}
			if fields++; fields > maxFields {
				return nil, problem.BadRequest.With("the form may have at most %d fields in addition to the file", maxFields)
			}
			if n, err := io.Copy(io.Discard, io.LimitReader(part, formOverhead)); err != nil {
				return nil, broken(err)
			} else if n == formOverhead {
				return nil, problem.TooLarge.With("each form field other than the file must have fewer than %d bytes", formOverhead)
			}
		}
	}
	part, err := next()
	if err != nil {
		return incoming{}, err
	}
	if part == nil {
		return incoming{}, problem.BadRequest.With("the form has no file: send one part with a file name")
	}
	for _, coding := range part.Header.Values("Content-Transfer-Encoding") {
		// Reject encodings such as base64, because the store would keep the encoded bytes. RFC 7578 §4.7 deprecates
		// this header for forms.
		if !slices.Contains([]string{"7bit", "8bit", "binary"}, strings.ToLower(coding)) {
			return incoming{}, problem.UnsupportedType.With("Content-Transfer-Encoding is not supported: send the bytes of the file without this header")
		}
	}
	kind := part.Header.Get("Content-Type")
	if _, _, err := contentType(kind); err != nil {
		return incoming{}, err
	}
	return incoming{part.FileName(), kind, room.limit(part, 0), func() error {
		// Reject a form with a second file, because only the first file is stored, and a successful response would
		// suggest that both are stored.
		if another, err := next(); err != nil {
			return err
		} else if another != nil {
			return problem.BadRequest.With("the form has more than one file: send one file per request")
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return broken(err)
		}
		return verify()
	}}, nil
}

// limit returns a reader that reads at most r.bytes+extra bytes from body. If body has more bytes, the reader returns
// the error r.full.
func (r room) limit(body io.ReadCloser, extra int64) io.Reader {
	return bodyReader{http.MaxBytesReader(nil, body, r.bytes+extra), r.full}
}

// bodyReader converts errors from reading a request body into problems. Without this conversion, the function would
// report an internal error whenever a client disconnects during an upload.
type bodyReader struct {
	r    io.Reader
	full error
}

func (b bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case errors.As(err, &tooLarge):
		return n, b.full
	}
	return n, broken(err)
}

// broken converts err, an error from reading a request body, to a problem.BadRequest. If err already wraps a
// problem, broken returns that problem.
func broken(err error) error {
	var already *problem.Problem
	if errors.As(err, &already) {
		return already
	}
	return problem.BadRequest.Because(err, "the request body is incomplete or malformed")
}
