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

// nameWidth is how wide the names before the lines are.
const nameWidth = 9

// maxLine bounds a line of a process's output, in bytes; a longer one is broken.
const maxLine = 64 << 10

// output is the terminal that all processes share: whole lines, each with the name of who wrote it.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

// say writes one line of progress.
func (o *output) say(name, format string, args ...any) {
	o.line(name, fmt.Sprintf(format, args...))
}

func (o *output) line(name, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fmt.Fprintf(o.w, "%-*s| %s\n", nameWidth, name, text)
}

// print writes text as it is.
func (o *output) print(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _ = io.WriteString(o.w, text) // a terminal that is gone has nobody who would read of it
}

// lines returns a writer whose lines appear under name, readable where they are slog's JSON.
func (o *output) lines(name string) *lineWriter { return &lineWriter{to: o, name: name} }

// lineWriter cuts what is written to it into lines.
type lineWriter struct {
	to   *output
	name string

	mu      sync.Mutex
	partial []byte
	last    string
}

// Write never fails.
func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		end := bytes.IndexByte(l.partial, '\n')
		if end < 0 && len(l.partial) < maxLine {
			return len(p), nil
		}
		if end < 0 {
			end = maxLine - 1
		}
		l.emit(l.partial[:end])
		l.partial = l.partial[end+1:]
	}
}

// flush writes what came without a line's end, once its writer is gone.
func (l *lineWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(l.partial)
	l.partial = nil
}

// lastLine is the last line that was not empty, as it was shown.
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

// readable turns a line of slog's JSON into `15:04:05 INFO message key=value …`, without the names that stand before
// the line anyway. Any other line stays, but for characters that would move the cursor.
func readable(line []byte) string {
	keys, values, ok := fields(line)
	if !ok {
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
		case "service", "revision":
		default:
			tail.WriteString(" " + shown(key) + "=" + shown(text))
		}
	}
	return head.String() + tail.String()
}

// fields returns the members of a JSON object in their order; false if line is none, or has no msg.
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
		name, _ := key.(string) // the key of an object is one
		ok = ok || name == "msg"
		keys, values = append(keys, name), append(values, value)
	}
	return keys, values, ok
}

// shown quotes a value that could be taken for several, or could move the cursor.
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
