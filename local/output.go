package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// nameWidth is the minimum number of characters for the name in front of each line. Shorter names are padded, so that
// the lines are aligned.
const nameWidth = 9

// maxLine is the maximum length of an output line, in bytes. Longer lines are split, so that the buffer for a line
// stays small.
const maxLine = 64 << 10

// output prints the runner's messages and the child processes' output on one terminal. It prints whole lines, each
// preceded by the name of its source.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

// say formats a message and prints it with name in front.
func (o *output) say(name, format string, args ...any) {
	o.line(name, fmt.Sprintf(format, args...))
}

func (o *output) line(name, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fmt.Fprintf(o.w, "%-*s| %s\n", nameWidth, name, text)
}

// print writes text without a name in front.
func (o *output) print(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _ = io.WriteString(o.w, text) // ignore the error, because it could only be reported on this terminal
}

// lines returns a writer that prints each line with the given name in front. The writer converts slog's JSON lines to a
// readable form.
func (o *output) lines(name string) *lineWriter { return &lineWriter{to: o, name: name} }

// lineWriter is an io.Writer that splits its input into lines and prints them.
type lineWriter struct {
	to   *output
	name string

	mu      sync.Mutex
	partial []byte
	last    string
}

// Write implements io.Writer. It never returns an error.
func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		end := bytes.IndexByte(l.partial, '\n')
		if end < 0 && len(l.partial) < maxLine {
			return len(p), nil
		}
		next := end + 1
		if end < 0 {
			end, next = maxLine, maxLine
		}
		l.emit(l.partial[:end])
		l.partial = l.partial[next:]
	}
}

// flush prints an incomplete last line. It is called after the process that writes to l has ended.
func (l *lineWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(l.partial)
	l.partial = nil
}

// lastLine returns the last line that is not blank, in the form in which it was printed.
func (l *lineWriter) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *lineWriter) emit(line []byte) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	l.last = readable(line)
	l.to.line(l.name, l.last)
}

// readable converts a JSON line from slog to `15:04:05 INFO message key=value …`. From any other line, it only
// removes control characters.
func readable(line []byte) string {
	keys, values, ok := fields(line)
	if !ok {
		// Control characters could move the cursor in the terminal.
		return strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\t' {
				return -1
			}
			return r
		}, string(line))
	}
	var head, tail strings.Builder
	for i, key := range keys {
		text := string(values[i])
		var unquoted string
		if text[0] == '"' && json.Unmarshal(values[i], &unquoted) == nil {
			text = unquoted
		}
		switch key {
		case "time":
			if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
				head.WriteString(at.Local().Format(time.TimeOnly) + " ")
			}
		case "level":
			fmt.Fprintf(&head, "%-5s ", shown(text))
		case "msg":
			head.WriteString(printable(text))
		case "service", "revision": // the name in front of the line already identifies the process
		default:
			tail.WriteString(" " + shown(key) + "=" + shown(text))
		}
	}
	return head.String() + tail.String()
}

// fields parses line as a JSON object and returns the keys and values in order. It returns false if line is not a
// JSON object or if the object has no msg key.
func fields(line []byte) (keys []string, values []json.RawMessage, ok bool) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, nil, false
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, nil, false
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, nil, false
		}
		name, _ := key.(string) // a key in a JSON object is always a string
		ok = ok || name == "msg"
		keys, values = append(keys, name), append(values, value)
	}
	return keys, values, ok
}

// shown puts s in quotes if s is empty or contains white space, quotes or nonprintable characters. Without the
// quotes, s could look like several values or move the terminal's cursor.
func shown(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || r == '"' || !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
