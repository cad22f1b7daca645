package main

import (
	"bufio"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// formOverhead bounds what a form has besides its file, in bytes.
	formOverhead = 1 << 20
	// maxFields bounds the fields of a form besides its file.
	maxFields = 32
	// maxContentType bounds a content type, in bytes; the event's schema has the same bound.
	maxContentType = 255
	// sniffed is how many bytes http.DetectContentType looks at.
	sniffed = 512
)

// incoming is a file on its way in.
type incoming struct {
	name        string
	contentType string
	bytes       io.Reader
	// finish refuses the file if what came after its bytes is not as it should be or a promised digest does not match.
	// It must be called after bytes has been read to its end, with the SHA-256 of them in hex.
	finish func(sum string) error
}

// receive finds the file in the request, for which there is room. Until it is called nothing of the body has been read.
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

// declared is what the headers of a request say about its body.
type declared struct {
	// name and contentType of the file are empty where the headers do not say them.
	name        string
	contentType string
	// boundary is not empty if the body is a form.
	boundary string
	// size of the file in bytes, -1 where it is not known, as in a form.
	size int64
	// least is the size that the file has at least, in bytes, or else the body is refused; negative where it is not known.
	least int64
	// digests of the body that were promised.
	digests digests
	// key is the idempotency key, empty if there is none.
	key string
}

// declare reads the headers and refuses what can be refused without reading the body.
func declare(r *http.Request) (d declared, err error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		// The bytes would be kept in a coding that nobody undoes later.
		return declared{}, problem.UnsupportedType.With("send the file without Content-Encoding").Header("Accept-Encoding", "identity")
	}
	if d.digests, err = contentDigest(r.Header); err != nil {
		return declared{}, err
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
			return declared{}, problem.BadRequest.With("the form has no boundary")
		}
		d.size, d.least = -1, r.ContentLength-formOverhead
	} else {
		d.contentType = r.Header.Get("Content-Type")
		if kind == "" || kind == "application/x-www-form-urlencoded" {
			// Clients such as curl say so of anything they post, so it says nothing.
			d.contentType = ""
		}
		if d.name, err = declaredName(r); err != nil {
			return declared{}, err
		}
	}
	return d, nil
}

// contentType parses a media type. None at all is fine.
func contentType(value string) (kind string, params map[string]string, err error) {
	if value == "" {
		return "", nil, nil
	}
	kind, params, err = mime.ParseMediaType(value)
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	if err != nil || len(value) > maxContentType || strings.ContainsFunc(value, unprintable) {
		return "", nil, problem.BadRequest.Because(err, "the content type is not well-formed")
	}
	return kind, params, nil
}

// declaredName returns the file name from Content-Disposition (RFC 6266), where filename* (RFC 8187) has precedence over
// filename. Without one it returns the file name from the query string.
func declaredName(r *http.Request) (string, error) {
	if value := r.Header.Get("Content-Disposition"); value != "" {
		_, params, err := mime.ParseMediaType(value)
		if err != nil {
			return "", problem.BadRequest.Because(err, "the Content-Disposition header is not well-formed")
		}
		if name := params["filename"]; name != "" {
			return name, nil
		}
	}
	query, err := function.Query(r, "name")
	return query.Get("name"), err
}

// raw takes the body as the file.
func raw(r *http.Request, d declared, room room) (incoming, error) {
	check, body := d.digests.over(room.limit(r.Body, 0), false)
	return incoming{d.name, d.contentType, body, check.matches}, nil
}

// form takes the one file in a multipart/form-data body (RFC 7578). It is streamed; fields before and after it are
// skipped. A Content-Digest is of the whole body, since that is the content of the message.
func form(r *http.Request, d declared, room room) (incoming, error) {
	check, body := d.digests.over(room.limit(r.Body, formOverhead), true)
	parts := multipart.NewReader(body, d.boundary)
	fields := 0
	// next returns the next part that is a file, or nil at the end of the form.
	next := func() (*multipart.Part, error) {
		for {
			part, err := parts.NextPart()
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
				return nil, problem.BadRequest.With("the form has more than %d fields", maxFields)
			}
			if n, err := io.Copy(io.Discard, io.LimitReader(part, formOverhead)); err != nil {
				return nil, broken(err)
			} else if n == formOverhead {
				return nil, problem.TooLarge.With("a field of the form is too large")
			}
		}
	}
	part, err := next()
	if err != nil {
		return incoming{}, err
	}
	if part == nil {
		return incoming{}, problem.BadRequest.With("the form has no part with a file name")
	}
	kind := part.Header.Get("Content-Type")
	if _, _, err := contentType(kind); err != nil {
		return incoming{}, err
	}
	return incoming{part.FileName(), kind, room.limit(part, 0), func(string) error {
		// A second file, that nobody would ever see again, must not be answered with success.
		if another, err := next(); err != nil {
			return err
		} else if another != nil {
			return problem.BadRequest.With("the form has more than one file: send one a request")
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return broken(err)
		}
		return check.matches("")
	}}, nil
}

// limit reads no more of r than there is room for, and extra bytes: anything further is room's problem.
func (r room) limit(body io.ReadCloser, extra int64) io.Reader {
	return bodyReader{http.MaxBytesReader(nil, body, r.bytes+extra), r.full}
}

// bodyReader turns errors of a request's body into problems: without that, a client that breaks off would look like
// an error of ours.
type bodyReader struct {
	r    io.Reader
	full *problem.Problem
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

// broken is the problem of a body that ended early, came too slowly, or is not a well-formed form. One that is a
// problem already stays what it is.
func broken(err error) error {
	var already *problem.Problem
	if errors.As(err, &already) {
		return already
	}
	return problem.BadRequest.Because(err, "the body could not be read to its end")
}
