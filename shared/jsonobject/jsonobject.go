// Package jsonobject reads JSON objects that mean the same to every reader: encoding/json takes the last of several
// members with one name, and other bytes than UTF-8.
package jsonobject

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// The errors of Members. They repeat nothing of what was read, which may be secret.
var (
	ErrMalformed = errors.New("it is not one JSON object in UTF-8")
	ErrTwice     = errors.New("a member occurs twice")
)

// Members returns the members of the one JSON object that data is, by their exact names (RFC 8259 §4). The error is
// ErrMalformed or ErrTwice.
func Members(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, ErrMalformed
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, ErrMalformed
	}
	members := map[string]json.RawMessage{}
	for decoder.More() {
		token, err := decoder.Token()
		name, is := token.(string)
		if err != nil || !is {
			return nil, ErrMalformed
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, ErrMalformed
		}
		if _, twice := members[name]; twice {
			return nil, ErrTwice
		}
		members[name] = value
	}
	if _, err := decoder.Token(); err != nil { // the closing brace
		return nil, ErrMalformed
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, ErrMalformed
	}
	return members, nil
}
