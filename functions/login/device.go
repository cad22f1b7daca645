package main

import "strings"

// maxDevice is the maximum length of the description of a client, in bytes (see accounts.SignIn).
const maxDevice = 64

// pattern maps a part of the User-Agent header to a name.
type pattern struct{ part, name string }

// browsers and systems list the parts of the User-Agent header that name a browser and an operating system. The first
// match counts, because the headers of most browsers also contain the names of other browsers.
var (
	browsers = []pattern{{"Edg", "Edge"}, {"OPR/", "Opera"}, {"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"},
		{"Chrome/", "Chrome"}, {"CriOS/", "Chrome"}, {"Safari/", "Safari"}}
	systems = []pattern{{"Android", "Android"}, {"iPhone", "iOS"}, {"iPad", "iOS"}, {"Windows", "Windows"},
		{"Mac OS X", "macOS"}, {"CrOS", "ChromeOS"}, {"Linux", "Linux"}}
)

// device returns the description of a client in the list of sessions, such as "Firefox on Windows". For a program that
// is not a browser, the description is the beginning of its User-Agent header.
func device(userAgent string) string {
	browser, system := match(browsers, userAgent), match(systems, userAgent)
	if browser != "" && system != "" {
		return browser + " on " + system
	}
	printable := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, userAgent)
	return printable[:min(len(printable), maxDevice)]
}

// match returns the name of the first pattern whose part is in userAgent, or an empty string.
func match(patterns []pattern, userAgent string) string {
	for _, p := range patterns {
		if strings.Contains(userAgent, p.part) {
			return p.name
		}
	}
	return ""
}
