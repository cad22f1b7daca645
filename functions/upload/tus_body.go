package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// tusSilence is how long the function waits for the next bytes of a request body. The limit is needed because the
// function can serve only a limited number of requests concurrently, so idle clients could block others. The limit is
// shorter than the gateway's timeouts, so that the client gets this function's response and not an error from the
// gateway.
const tusSilence = 30 * time.Second

// errTooLong reports that a request body has more bytes than the upload still needs.
var errTooLong = problem.TooLarge.With("the body has more bytes than the upload still needs: " +
	"send only the remaining bytes")

// pieceBody reads the body of a request that contains bytes of a file.
type pieceBody struct {
	from io.Reader
	// left is the number of bytes that the upload still needs.
	left int64
	// connection sets the read deadline of the client's connection.
	connection *http.ResponseController
	// deadline is the deadline of the request.
	deadline time.Time
}

// Read implements io.Reader. Before it returns the last byte that the upload needs, it checks that no byte follows,
// because an upload with more bytes than declared must not count as complete.
func (b *pieceBody) Read(p []byte) (int, error) {
	n, err := b.read(p)
	b.left -= int64(n)
	for b.left == 0 && err == nil {
		var more [1]byte
		var follows int
		follows, err = b.read(more[:])
		b.left -= int64(follows)
	}
	if b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// read reads once from the body. It waits no longer than tusSilence and not beyond the request's deadline. If the body
// arrives too slowly, the error is a problem.Unavailable, so that the client retries.
func (b *pieceBody) read(p []byte) (int, error) {
	until := time.Now().Add(tusSilence)
	if b.deadline.Before(until) {
		until = b.deadline
	}
	_ = b.connection.SetReadDeadline(until) // if the connection is closed, the read fails, too
	n, err := b.from.Read(p)
	if err == nil {
		return n, nil
	}
	// Clear the deadline after the end of the body, because net/http would otherwise cancel the request when the
	// deadline passes, as if the client had disconnected. net/http sets a new deadline for the next request.
	_ = b.connection.SetReadDeadline(time.Time{})
	switch {
	case err == io.EOF:
		return n, io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, problem.Unavailable.Because(err, "the body arrived too slowly: "+
			"get the offset with a HEAD request, and send the remaining bytes")
	}
	return n, broken(err)
}
