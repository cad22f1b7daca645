package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"mime/multipart"
	"net/textproto"
	"strings"
	"testing"
	"unicode/utf8"
)

// part is one part of a form.
type part struct{ disposition, kind, body string }

// newForm returns a form with the given parts, and the content type of the form.
func newForm(t *testing.T, parts ...part) (body []byte, kind string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		header := textproto.MIMEHeader{"Content-Disposition": {p.disposition}}
		if p.kind != "" {
			header.Set("Content-Type", p.kind)
		}
		pw, err := w.CreatePart(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(pw, p.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.FormDataContentType()
}

var (
	field = part{`form-data; name="comment"`, "", "a field"}
	hello = part{`form-data; name="file"; filename="C:\\docs\\h€llo.txt"`, "text/plain", "hello"}
)

func TestForm(t *testing.T) {
	many := make([]part, maxFields+1)
	for i := range many {
		many[i] = field
	}
	untyped := part{hello.disposition, "", hello.body}
	for name, c := range map[string]struct {
		parts   []part
		status  int
		problem string
	}{
		"one file":                 {[]part{hello}, 202, ""},
		"fields before and after":  {[]part{field, hello, field}, 202, ""},
		"maximum number of fields": {append(many[1:], hello), 202, ""},
		"no content type":          {[]part{untyped}, 202, ""},
		"empty file":               {[]part{{hello.disposition, "text/plain", ""}}, 202, ""},
		"no file":                  {[]part{field}, 400, "bad-request"},
		"no parts":                 {nil, 400, "bad-request"},
		"two files":                {[]part{hello, field, hello}, 400, "bad-request"},
		"too many fields":          {append(many, hello), 400, "bad-request"},
		"too many fields after":    {append([]part{hello}, many...), 400, "bad-request"},
		"field too large":          {[]part{{field.disposition, "", strings.Repeat("x", formOverhead)}, hello}, 413, "too-large"},
		"file too large":           {[]part{{hello.disposition, "", strings.Repeat("x", maxSize+1)}}, 413, "too-large"},
		"malformed content type":   {[]part{{hello.disposition, "text/plain;;", "x"}}, 400, "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			body, kind := newForm(t, c.parts...)
			sum := sha256.Sum256(body)
			digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
			for _, headers := range []map[string]string{{"Content-Type": kind}, {"Content-Type": kind, "Content-Digest": digest}} {
				f := newFixture(t)
				// The length of the body is not known, so the limits must apply while the body is read.
				answer := f.send("POST", "/upload", io.MultiReader(bytes.NewReader(body)), headers)
				if c.status != 202 {
					wantProblem(t, answer, c.status, c.problem)
					if len(f.files.Files()) != 0 {
						t.Error("got a file, want none")
					}
					continue
				}
				if answer.Code != 202 {
					t.Fatalf("got %d %s, want 202", answer.Code, answer.Body)
				}
				if k := f.only(t); k.Name != "h€llo.txt" || !strings.HasPrefix(k.ContentType, "text/plain") || string(k.Bytes) != hello.body && len(k.Bytes) > 0 {
					t.Errorf("got %q of type %q with %q", k.Name, k.ContentType, k.Bytes)
				}
			}
		})
	}
	body, kind := newForm(t, field, hello)
	for name, c := range map[string]struct {
		body    []byte
		kind    string
		headers map[string]string
		status  int
		problem string
	}{
		"digest of the file, not the body": {body, kind, map[string]string{"Content-Digest": "sha-256=:" + helloBase64 + ":"}, 400, "digest-mismatch"},
		"no boundary":                      {body, "multipart/form-data", nil, 400, "bad-request"},
		"another boundary":                 {body, "multipart/form-data; boundary=x", nil, 400, "bad-request"},
		"truncated in the file":            {body[:bytes.Index(body, []byte("hello"))+2], kind, nil, 400, "bad-request"},
		"truncated before the end":         {body[:len(body)-6], kind, nil, 400, "bad-request"},
		"too large, known length":          {bytes.Repeat([]byte("x"), maxSize+formOverhead+1), kind, nil, 413, "too-large"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			headers := map[string]string{"Content-Type": c.kind}
			for k, v := range c.headers {
				headers[k] = v
			}
			wantProblem(t, f.send("POST", "/upload", bytes.NewReader(c.body), headers), c.status, c.problem)
			if len(f.files.Files()) != 0 {
				t.Error("got a file, want none")
			}
		})
	}
}

// TestFormTransferEncoding proves that upload rejects an encoded file, and never stores other bytes than those in the
// form.
func TestFormTransferEncoding(t *testing.T) {
	for coding, status := range map[string]int{
		"7bit": 202, "8bit": 202, "binary": 202, "BINARY": 202,
		"base64": 415, "Base64": 415, "quoted-printable": 415, "Quoted-Printable": 415, "x-unknown": 415, "": 415,
		"binary\r\nContent-Transfer-Encoding: base64": 415,
	} {
		t.Run(coding, func(t *testing.T) {
			f := newFixture(t)
			body := "--x\r\nContent-Disposition: form-data; name=file; filename=a.txt\r\nContent-Transfer-Encoding: " + coding + "\r\n\r\na=41aGk=\r\n--x--\r\n"
			answer := f.send("POST", "/upload", strings.NewReader(body), map[string]string{"Content-Type": "multipart/form-data; boundary=x"})
			if status != 202 {
				wantProblem(t, answer, status, "unsupported-media-type")
				if len(f.files.Files()) != 0 {
					t.Error("got a file, want none")
				}
				return
			}
			if answer.Code != 202 {
				t.Fatalf("got %d %s, want 202", answer.Code, answer.Body)
			}
			if k := f.only(t); string(k.Bytes) != "a=41aGk=" {
				t.Errorf("got a file with %q, want the bytes in the form", k.Bytes)
			}
		})
	}
	// The encodings of other parts have no effect, because upload skips these parts.
	f := newFixture(t)
	body := "--x\r\nContent-Disposition: form-data; name=comment\r\nContent-Transfer-Encoding: base64\r\n\r\naGk=\r\n" +
		"--x\r\nContent-Disposition: form-data; name=file; filename=a.txt\r\n\r\nx\r\n--x--\r\n"
	if answer := f.send("POST", "/upload", strings.NewReader(body), map[string]string{"Content-Type": "multipart/form-data; boundary=x"}); answer.Code != 202 {
		t.Errorf("encoded field: got %d %s, want 202", answer.Code, answer.Body)
	}
}

func TestSafeName(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "unnamed",
		".":                      "unnamed",
		"..":                     "unnamed",
		"/":                      "unnamed",
		" \t ":                   "unnamed",
		"a/":                     "unnamed",
		"a.txt":                  "a.txt",
		" a b.txt ":              "a b.txt",
		"../../etc/passwd":       "passwd",
		`C:\Users\ada\notes.txt`: "notes.txt",
		"a\r\nSet-Cookie: x\x00": "aSet-Cookie: x",
		"cafe\u0301":             "caf\u00e9",
		"evil\u202egnp.exe":      "evilgnp.exe",
		"line\u2028break":        "linebreak",
		"\xff.txt":               "\uFFFD.txt",
		// An invisible character is removed, unless it changes the form of the character before it.
		"\u200b":                             "unnamed", // zero-width space
		"\u2060\ufeff":                       "unnamed", // word joiner, byte order mark
		"\u00ad":                             "unnamed", // soft hyphen
		"\u034f":                             "unnamed", // combining grapheme joiner
		"\U000e0041":                         "unnamed", // tag
		"\u3164\uffa0\u115f\u1160":           "unnamed", // Hangul fillers
		"\ufff9\ufffa\ufffb":                 "unnamed", // interlinear annotations
		"\u2800":                             "unnamed", // Braille cell without dots
		"\u180e\u180b":                       "unnamed", // Mongolian separators
		"\u200c\u200d\ufe0f":                 "unnamed",
		"\u3000\u200d\u3000":                 "unnamed",
		"re\u00adport\u200d\ufe0f.p\u200bdf": "report.pdf",
		"\u212a\u200d.txt":                   "K.txt", // NFC changes the Kelvin sign to the letter K
		"e\u200b\u0301":                      "\u00e9",
		"\u2800\u2801.txt":                   "\u2801.txt",
		"\u0601\u0661":                       "\u0601\u0661", // the Arabic sign for a year is visible
		"\u0645\u06cc\u200c\u062e\u0648\u0627.txt":               "\u0645\u06cc\u200c\u062e\u0648\u0627.txt",
		"\u2764\ufe0f\u200d\U0001f525.txt":                       "\u2764\ufe0f\u200d\U0001f525.txt",
		"👩‍💻.txt":                                                "👩‍💻.txt",
		strings.Repeat("x", 300):                                 strings.Repeat("x", 255),
		strings.Repeat("€", 100):                                 strings.Repeat("€", 85),
		"a" + strings.Repeat("€", 100):                           "a" + strings.Repeat("€", 84),
		strings.Repeat("a", 260) + ".pdf":                        strings.Repeat("a", 251) + ".pdf",
		strings.Repeat("€", 100) + ".jpeg":                       strings.Repeat("€", 83) + ".jpeg",
		strings.Repeat("a", 260) + "." + strings.Repeat("b", 31): strings.Repeat("a", 223) + "." + strings.Repeat("b", 31),
		strings.Repeat("a", 260) + "." + strings.Repeat("b", 32): strings.Repeat("a", 255),
		"." + strings.Repeat("b", 300):                           "." + strings.Repeat("b", 254),
	} {
		got := safeName(name)
		if got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
		if len(got) > maxName || !utf8.ValidString(got) || safeName(got) != got {
			t.Errorf("%q: got %q, which is not a safe name", name, got)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]size{"1": 1, "1048576": 1 << 20, "5KiB": 5 << 10, "20MiB": 20 << 20, "16384GiB": 1 << 44} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "1.5GiB", "1GB", "1 GiB", "GiB", "16385GiB", "99999999999999999999", "1KiBMiB"} {
		got := size(7)
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) || got != 7 {
			t.Errorf("%q: got %d and error %v, want an error that quotes it", text, got, err)
		}
	}
}

func TestQuotaSetting(t *testing.T) {
	for text, want := range map[string]quota{"0": 0, "1": 1, "5GiB": 5 << 30} {
		got := quota(7)
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "none", "0GiB"} {
		var got quota
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "use 0 for no quota") {
			t.Errorf("%q: got %d and error %v, want an error that explains the value 0", text, got, err)
		}
	}
}
