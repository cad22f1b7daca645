package main

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// maxName is the maximum length of a stored file name, in bytes. Common file systems have the same limit.
	maxName = 255
	// maxExtension is the maximum length, in bytes, of a file name extension that safeName keeps, with the dot.
	maxExtension = 32
)

// safeName converts an untrusted file name or path into a file name that can be stored, displayed and used to save
// the file. The result contains a visible character and has at most maxName bytes.
func safeName(name string) string {
	name = strings.ToValidUTF8(name, "\uFFFD")
	name = norm.NFC.String(name[strings.LastIndexAny(name, `/\`)+1:])
	previous := rune(0)
	name = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) || invisible(r) && !(joins(r) && previous > unicode.MaxASCII) {
			return -1
		}
		previous = r
		return r
	}, name)
	name = norm.NFC.String(name) // characters that were apart can now form a single character
	if len(name) > maxName {
		extension := ""
		if dot := strings.LastIndexByte(name, '.'); dot > 0 && len(name)-dot <= maxExtension {
			extension = name[dot:]
		}
		end := maxName - len(extension)
		for !utf8.RuneStart(name[end]) {
			end--
		}
		name = name[:end] + extension
	}
	const blankBraille = '\u2800'
	name = strings.TrimFunc(name, func(r rune) bool { return unicode.IsSpace(r) || r == blankBraille || invisible(r) })
	if name == "" || name == "." || name == ".." {
		return "unnamed"
	}
	return name
}

// invisible reports whether r has no glyph of its own, such as a soft hyphen, a zero-width space, or a character that
// changes the direction of text.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) &&
		!unicode.Is(unicode.Prepended_Concatenation_Mark, r)
}

// joins reports whether r changes the form of the character before it. Emoji and the spelling of some languages, such
// as Persian, need these characters.
func joins(r rune) bool {
	const nonJoiner, joiner = '\u200c', '\u200d'
	return r == nonJoiner || r == joiner || unicode.Is(unicode.Variation_Selector, r)
}
