// Package respond sends complete HTTP responses.
package respond

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// JSON encodes v as JSON and sends it with the given status and "Cache-Control: no-store".
func JSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	Body(w, status, "application/json", body)
	return nil
}

// NoContent responds with status 204 (No Content) and sets "Cache-Control: no-store". It always returns nil.
func NoContent(w http.ResponseWriter) error {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Body sends body, followed by a line feed, with "Cache-Control: no-store".
func Body(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	// With Content-Length, a client that is still sending the request body can detect the end of the response.
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body[:len(body):len(body)], '\n')) // an error means that the client has disconnected
}
