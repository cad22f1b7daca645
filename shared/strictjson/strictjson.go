// Package strictjson decodes JSON objects strictly, so that every JSON parser reads the same members from an
// accepted object.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

var (
	errMalformed = errors.New("want exactly one JSON object in UTF-8")
	errTwice     = errors.New("a member name occurs more than once")
)

// Decode decodes a JSON object (RFC 8259 §4) into the flat struct that v points to. It rejects unknown, duplicate
// and null members. Fields without omitempty are required.
func Decode(data []byte, v any) error { return decode(data, v, false) }

// DecodeKnown is like Decode, but ignores unknown members. It rejects a name that differs from a field's name only
// in case, because some JSON parsers ignore case.
func DecodeKnown(data []byte, v any) error { return decode(data, v, true) }

// decode implements Decode and DecodeKnown. Its errors contain neither values nor unknown member names, because any
// part of data might be secret.
func decode(data []byte, v any, ignoreUnknown bool) error {
	// Use split, because encoding/json alone replaces invalid UTF-8, ignores the case of names, and accepts
	// duplicate names.
	members, err := split(data)
	if err != nil {
		return err
	}
	fields := reflect.TypeOf(v).Elem()
	names := make([]string, fields.NumField())
	var missing []string
	for i := range names {
		name, option, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		names[i] = name
		if value, ok := members[name]; !ok && option != "omitempty" {
			missing = append(missing, name)
		} else if string(value) == "null" {
			return fmt.Errorf("%s must not be null", name)
		}
	}
	if err := checkNames(members, names, ignoreUnknown); err != nil {
		return err
	}
	if missing != nil {
		return fmt.Errorf("missing members: %s", strings.Join(missing, ", "))
	}
	var wrong *json.UnmarshalTypeError
	if err = json.Unmarshal(data, v); errors.As(err, &wrong) {
		name, _, _ := strings.Cut(wrong.Field, ".")
		return fmt.Errorf("%s must be %s", name, typeName(fields.Field(slices.Index(names, name)).Type))
	}
	return err
}

// checkNames returns an error if a member's name is unknown. If ignoreUnknown is true, it accepts unknown names, except
// those that differ from a known name only in case.
func checkNames(members map[string]json.RawMessage, known []string, ignoreUnknown bool) error {
	for name := range members {
		if slices.Contains(known, name) {
			continue
		}
		if !ignoreUnknown {
			return fmt.Errorf("the only allowed members are %s", strings.Join(known, ", "))
		}
		for _, k := range known {
			if strings.EqualFold(name, k) {
				return fmt.Errorf("the member name %s must be spelled %s", name, k)
			}
		}
	}
	return nil
}

// split returns the value of each member of the JSON object in data. The keys are the exact member names.
func split(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errMalformed
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, errMalformed
	}
	members := map[string]json.RawMessage{}
	for decoder.More() {
		token, err := decoder.Token()
		name, is := token.(string)
		if err != nil || !is {
			return nil, errMalformed
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, errMalformed
		}
		if _, twice := members[name]; twice {
			return nil, errTwice
		}
		members[name] = value
	}
	if _, err := decoder.Token(); err != nil { // reads the closing brace
		return nil, errMalformed
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errMalformed
	}
	return members, nil
}

// typeName returns the name of the JSON type that can be decoded into a value of type t.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "an integer"
	case reflect.Slice:
		return "an array"
	}
	return "of another type"
}
