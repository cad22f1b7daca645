package main

import (
	"encoding/base64"
	"errors"
	"strings"
)

// errField reports that a header value is not a valid structured field (RFC 9651).
var errField = errors.New("malformed structured field")

// fieldParser parses a structured field (RFC 9651, Section 4.2). Its value is the part of the field that has not been
// parsed yet. fieldParser supports only the types in the headers that the upload function reads: strings, and
// dictionaries whose values are byte sequences.
type fieldParser string

// next reports whether the remaining field begins with c. If so, next removes c.
func (p *fieldParser) next(c byte) bool {
	if len(*p) == 0 || (*p)[0] != c {
		return false
	}
	*p = (*p)[1:]
	return true
}

// while removes and returns the longest prefix of the remaining field in which ok accepts every character. The prefix
// can be empty.
func (p *fieldParser) while(ok func(c byte) bool) string {
	n := 0
	for n < len(*p) && ok((*p)[n]) {
		n++
	}
	run := (*p)[:n]
	*p = (*p)[n:]
	return string(run)
}

// spaces skips space characters and, if tabs is true, tab characters.
func (p *fieldParser) spaces(tabs bool) {
	p.while(func(c byte) bool { return c == ' ' || tabs && c == '\t' })
}

// dictionary parses the field as a dictionary whose values are byte sequences. It calls member for each member in
// order. If a key occurs twice, the RFC requires that the last value counts, so member must replace an earlier value.
// dictionary ignores parameters, because the supported headers define none.
func (p *fieldParser) dictionary(member func(key string, value []byte)) error {
	p.spaces(false)
	for {
		key, err := p.key()
		if err != nil {
			return err
		}
		if !p.next('=') {
			return errField
		}
		value, err := p.bytes()
		if err != nil {
			return err
		}
		if err := p.parameters(); err != nil {
			return err
		}
		member(key, value)
		p.spaces(true)
		if *p == "" {
			return nil
		}
		if !p.next(',') {
			return errField
		}
		p.spaces(true)
	}
}

// key parses the key of a dictionary member or of a parameter.
func (p *fieldParser) key() (string, error) {
	if *p == "" || !isLower((*p)[0]) && (*p)[0] != '*' {
		return "", errField
	}
	return p.while(func(c byte) bool { return isLower(c) || isDigit(c) || strings.IndexByte("_-.*", c) >= 0 }), nil
}

// bytes parses a byte sequence, which has the form :BASE64:. The base64 padding is optional.
func (p *fieldParser) bytes() ([]byte, error) {
	if !p.next(':') {
		return nil, errField
	}
	encoded := p.while(func(c byte) bool { return isAlphanumeric(c) || c == '+' || c == '/' || c == '=' })
	if !p.next(':') {
		return nil, errField
	}
	if strings.HasSuffix(encoded, "=") && len(encoded)%4 != 0 {
		return nil, errField
	}
	value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return nil, errField
	}
	return value, nil
}

// text parses a string in double quotes. It returns the string without the quotes and with all escape sequences
// decoded.
func (p *fieldParser) text() (string, error) {
	if !p.next('"') {
		return "", errField
	}
	var s strings.Builder
	for {
		s.WriteString(p.while(func(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' }))
		switch {
		case p.next('"'):
			return s.String(), nil
		case p.next('\\') && *p != "" && ((*p)[0] == '"' || (*p)[0] == '\\'):
			s.WriteByte((*p)[0])
			*p = (*p)[1:]
		default:
			return "", errField
		}
	}
}

// parameters skips the parameters after an item. If the parameters are malformed, the error is errField.
func (p *fieldParser) parameters() error {
	for p.next(';') {
		p.spaces(false)
		if _, err := p.key(); err != nil {
			return err
		}
		if !p.next('=') {
			continue // a parameter without a value means true
		}
		if strings.HasPrefix(string(*p), `"`) {
			if _, err := p.text(); err != nil {
				return err
			}
			continue
		}
		// A value that is not a string is a number, date, token, boolean or byte sequence. Values of these types cannot
		// contain spaces, commas, semicolons, quotes or backslashes.
		if value := p.while(func(c byte) bool { return c > ' ' && c <= '~' && strings.IndexByte(`,;"\`, c) < 0 }); value == "" {
			return errField
		}
	}
	return nil
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isAlphanumeric(c byte) bool { return isLower(c) || c >= 'A' && c <= 'Z' || isDigit(c) }
