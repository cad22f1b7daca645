package main

import (
	"encoding/base64"
	"errors"
	"strings"
)

// errField is any violation of RFC 9651.
var errField = errors.New("not a well-formed structured field")

// fieldParser reads a structured field (RFC 9651 §4.2) from its start, as far as upload's headers need it: dictionaries
// of byte sequences, and strings. What is left to read is its value.
type fieldParser string

// next takes c if that is what comes next.
func (p *fieldParser) next(c byte) bool {
	if len(*p) == 0 || (*p)[0] != c {
		return false
	}
	*p = (*p)[1:]
	return true
}

// while takes the longest run of the characters that ok accepts.
func (p *fieldParser) while(ok func(c byte) bool) string {
	n := 0
	for n < len(*p) && ok((*p)[n]) {
		n++
	}
	run := (*p)[:n]
	*p = (*p)[n:]
	return string(run)
}

// spaces takes optional white space: spaces, and tabs where they are allowed.
func (p *fieldParser) spaces(tabs bool) {
	p.while(func(c byte) bool { return c == ' ' || tabs && c == '\t' })
}

// dictionary takes a whole dictionary of byte sequences and calls member for each in turn. Where a key occurs twice the
// later one counts, which is for member to see to. Parameters are allowed and ignored: none are defined.
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

// key takes the key of a member or parameter.
func (p *fieldParser) key() (string, error) {
	if *p == "" || !isLower((*p)[0]) && (*p)[0] != '*' {
		return "", errField
	}
	return p.while(func(c byte) bool { return isLower(c) || isDigit(c) || strings.IndexByte("_-.*", c) >= 0 }), nil
}

// bytes takes a byte sequence, :BASE64:, with or without its padding.
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

// text takes a string, in double quotes.
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

// parameters takes the parameters of an item, whatever they are.
func (p *fieldParser) parameters() error {
	for p.next(';') {
		p.spaces(false)
		if _, err := p.key(); err != nil {
			return err
		}
		if !p.next('=') {
			continue // true
		}
		if strings.HasPrefix(string(*p), `"`) {
			if _, err := p.text(); err != nil {
				return err
			}
			continue
		}
		// A number, date, token, boolean or byte sequence: none has these characters.
		if value := p.while(func(c byte) bool { return c > ' ' && c <= '~' && strings.IndexByte(`,;"\`, c) < 0 }); value == "" {
			return errField
		}
	}
	return nil
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isAlphanumeric(c byte) bool { return isLower(c) || c >= 'A' && c <= 'Z' || isDigit(c) }
