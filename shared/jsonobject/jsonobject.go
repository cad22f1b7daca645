// Package jsonobject parses JSON objects strictly, so that every JSON parser reads the same members from an object
// that this package accepts. encoding/json alone is not strict enough, because it replaces invalid UTF-8, and because
// it uses only the last member if a member name occurs more than once.
package jsonobject

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// The errors that Members returns. They do not show the input, because the input might be secret.
var (
	ErrMalformed = errors.New("not exactly one JSON object in UTF-8")
	ErrTwice     = errors.New("a member name occurs more than once")
)

// Members parses data, which must be exactly one JSON object (RFC 8259 §4). It returns the value of each member, with
// the exact member name as the key. The error is ErrMalformed if data is anything else, and ErrTwice if a member name
// occurs more than once.
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
	if _, err := decoder.Token(); err != nil { // reads the closing brace
		return nil, ErrMalformed
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, ErrMalformed
	}
	return members, nil
}
