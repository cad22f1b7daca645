package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestReadable(t *testing.T) {
	at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.Local)
	tests := []struct{ line, want string }{
		{fmt.Sprintf(`{"time":%q,"level":"INFO","msg":"request","service":"login","revision":"login-00001","method":"GET","status":200}`, at.Format(time.RFC3339Nano)),
			"15:04:05 INFO  request method=GET status=200"},
		{`{"level":"ERROR","msg":"stopped","error":"dial: \"x\""}`, `ERROR stopped error="dial: \"x\""`},
		{`{"msg":"m","empty":"","list":[1,2],"none":null}`, `m empty="" list=[1,2] none=null`},
		{"{\"msg\":\"m\",\"path\":\"/a\\nb\\u001b[2J\"}", `m path="/a\nb\x1b[2J"`},
		{"{\"msg\":\"a\\u001b[2J\"}", `"a\x1b[2J"`},
		{`{"no":"message"}`, `{"no":"message"}`},
		{"panic: boom", "panic: boom"},
		{"\x1b[31mred\r", "[31mred"},
		{`{"msg":`, `{"msg":`},
	}
	for _, test := range tests {
		if got := readable([]byte(test.line)); got != test.want {
			t.Errorf("%q: got %q, want %q", test.line, got, test.want)
		}
	}
}

func TestLines(t *testing.T) {
	shows := &screen{}
	lines := (&output{w: shows}).lines("login")
	for _, part := range []string{"one\ntw", "o\n\n", "three"} {
		if _, err := lines.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := lines.lastLine(), "two"; got != want {
		t.Errorf("got the last line %q, want %q", got, want)
	}
	lines.flush()
	if got, want := shows.String(), "login    | one\nlogin    | two\nlogin    | three\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLongLineIsBroken(t *testing.T) {
	shows := &screen{}
	lines := (&output{w: shows}).lines("x")
	if _, err := lines.Write([]byte(strings.Repeat("a", 3*maxLine))); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(shows.String(), "\n"); got != 3 {
		t.Errorf("got %d lines, want 3", got)
	}
	if got := strings.Count(shows.String(), "a"); got != 3*maxLine {
		t.Errorf("got %d bytes, want %d", got, 3*maxLine)
	}
}
