package main

import (
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

func TestIntegrityDigests(t *testing.T) {
	sum256, sum512 := sha256.Sum256([]byte("hello")), sha512.Sum512([]byte("hello"))
	zero := "sha-256=:" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + ":"
	long := "sha-512=:" + base64.StdEncoding.EncodeToString(sum512[:]) + ":"
	good := "sha-256=:" + helloBase64 + ":"
	first := digest{"Repr-Digest", crypto.SHA256, sum256[:]}
	second := digest{"Repr-Digest", crypto.SHA512, sum512[:]}
	one := digests{first}
	for name, c := range map[string]struct {
		lines []string
		want  digests
		bad   bool
	}{
		"none":                      {},
		"SHA-256":                   {lines: []string{good}, want: one},
		"SHA-512":                   {lines: []string{long}, want: digests{second}},
		"both":                      {lines: []string{good + " , " + long}, want: digests{first, second}},
		"parameters":                {lines: []string{good + `;x=1; y;z="a,\"b;c"`}, want: one},
		"with other algorithms":     {lines: []string{"sha=:AAAA:,\t" + good, "unixsum=:AAAA:, *.x_-=::"}, want: one},
		"only other algorithms":     {lines: []string{"md5=:AAAA:"}},
		"last value counts":         {lines: []string{zero, good}, want: one},
		"last value is too short":   {lines: []string{good, "sha-256=:AAAA:"}, bad: true},
		"string with a colon":       {lines: []string{good + `;x="=:AA:"`}, want: one},
		"inner list":                {lines: []string{"sha-256=(:" + helloBase64 + ":)"}, bad: true},
		"without padding":           {lines: []string{strings.TrimSuffix(good, "=:") + ":"}, want: one},
		"spaces around":             {lines: []string{" " + good + " "}, want: one},
		"hex":                       {lines: []string{"sha-256=" + helloHex}, bad: true},
		"SHA-256 too short":         {lines: []string{"sha-256=:AAAA:"}, bad: true},
		"SHA-512 too short":         {lines: []string{good + ", sha-512=:AAAA:"}, bad: true},
		"not base64":                {lines: []string{"sha-256=:???:"}, bad: true},
		"too much padding":          {lines: []string{"sha-256=:" + helloBase64 + "=:"}, bad: true},
		"other algorithm malformed": {lines: []string{good + ", md5=:A:"}, bad: true},
		"other algorithm not bytes": {lines: []string{good + ", md5=1"}, bad: true},
		"upper case":                {lines: []string{"SHA-256=:" + helloBase64 + ":"}, bad: true},
		"one colon":                 {lines: []string{"sha-256=:"}, bad: true},
		"no value":                  {lines: []string{"sha-256"}, bad: true},
		"empty":                     {lines: []string{""}, bad: true},
		"trailing comma":            {lines: []string{good + ","}, bad: true},
		"two without a comma":       {lines: []string{good + " " + good}, bad: true},
		"space before the value":    {lines: []string{"sha-256= :" + helloBase64 + ":"}, bad: true},
		"parameter without a name":  {lines: []string{good + ";"}, bad: true},
		"parameter without value":   {lines: []string{good + ";x="}, bad: true},
		"unterminated string":       {lines: []string{good + `;x="a`}, bad: true},
		"invalid escape":            {lines: []string{good + `;x="\a"`}, bad: true},
		"format of RFC 3230":        {lines: []string{"SHA-256=" + helloBase64}, bad: true},
	} {
		got, err := integrityDigests(http.Header{"Repr-Digest": c.lines}, "Repr-Digest")
		if !reflect.DeepEqual(got, c.want) || (err != nil) != c.bad {
			t.Errorf("%s: got %v and %v, want %v and an error: %t", name, got, err, c.want, c.bad)
		}
	}
}

// FuzzContentDigest checks that an accepted header still has the same digests after it is rewritten in canonical form.
func FuzzContentDigest(f *testing.F) {
	f.Add("sha-256=:" + helloBase64 + ":")
	f.Add(" sha-512=:" + base64.StdEncoding.EncodeToString(make([]byte, 64)) + ":;a=?1;b=\"\\\"\" ,\tsha-256=:" + helloBase64 + ":")
	f.Add("md5=:AA:, *k=::")
	f.Add("sha-256=:" + helloBase64 + ":,")
	f.Fuzz(func(t *testing.T, header string) {
		const name = "Content-Digest"
		got, err := integrityDigests(http.Header{name: {header}}, name)
		if err != nil || got == nil { // got is nil if the header contains only algorithms that are ignored
			return
		}
		var again []string
		for _, one := range got {
			algorithm := map[crypto.Hash]string{crypto.SHA256: "sha-256", crypto.SHA512: "sha-512"}[one.algorithm]
			again = append(again, algorithm+"=:"+base64.StdEncoding.EncodeToString(one.sum)+":")
		}
		same, err := integrityDigests(http.Header{name: again}, name)
		if err != nil || !reflect.DeepEqual(same, got) {
			t.Errorf("%q: got %v, but the canonical form %q has %v (error %v)", header, got, again, same, err)
		}
	})
}

// digestOf returns a digest header with the SHA-256 digest of b.
func digestOf(b string) string {
	sum := sha256.Sum256([]byte(b))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// TestWrongDigests checks that no file remains of an upload in one request whose digest does not match. A Repr-Digest
// covers the same bytes as a Content-Digest, also for a form.
func TestWrongDigests(t *testing.T) {
	form, kind := newForm(t, hello)
	sum512 := sha512.Sum512([]byte("hello"))
	long := "sha-512=:" + base64.StdEncoding.EncodeToString(sum512[:]) + ":"
	for name, c := range map[string]struct {
		body, kind    string
		content, repr string
		status        int
	}{
		"Content-Digest":                             {"hello", "", digestOf("hello"), "", 202},
		"wrong Content-Digest":                       {"hello", "", digestOf("hullo"), "", 400},
		"Repr-Digest":                                {"hello", "", "", digestOf("hello"), 202},
		"wrong Repr-Digest":                          {"hello", "", "", digestOf("hullo"), 400},
		"both headers":                               {"hello", "", digestOf("hello"), long, 202},
		"both headers, wrong Content-Digest":         {"hello", "", digestOf("hullo"), digestOf("hello"), 400},
		"both headers, wrong Repr-Digest":            {"hello", "", digestOf("hello"), digestOf("hullo"), 400},
		"both algorithms":                            {"hello", "", digestOf("hello") + ", " + long, "", 202},
		"both algorithms, wrong SHA-256":             {"hello", "", digestOf("hullo") + ", " + long, "", 400},
		"wrong SHA-512":                              {"hullo", "", "", long, 400},
		"empty file":                                 {"", "", digestOf(""), digestOf(""), 202},
		"form":                                       {string(form), kind, digestOf(string(form)), digestOf(string(form)), 202},
		"form, Repr-Digest of the file":              {string(form), kind, "", digestOf("hello"), 400},
		"form, Content-Digest of the file":           {string(form), kind, digestOf("hello"), "", 400},
		"malformed Repr-Digest":                      {"hello", "", "", "sha-256", 400},
		"Repr-Digest with an ignored algorithm only": {"hello", "", "", "md5=:AAAA:", 202},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			answer := f.send("POST", "/upload", strings.NewReader(c.body),
				map[string]string{"Content-Type": c.kind, "Content-Digest": c.content, "Repr-Digest": c.repr})
			if c.status == 202 {
				if f.only(t); answer.Code != 202 {
					t.Errorf("got %d %s, want 202", answer.Code, answer.Body)
				}
				return
			}
			want := "digest-mismatch"
			if name == "malformed Repr-Digest" {
				want = "bad-request"
			}
			wantProblem(t, answer, 400, want)
			f.wantCounts(t, 0, 0, 0)
		})
	}
}

// TestTusPieceDigests checks that the Content-Digest of a tus request covers the body of this request, and that nothing
// of a body that does not match is kept.
func TestTusPieceDigests(t *testing.T) {
	for name, c := range map[string]struct {
		digest, checksum string
		status           int
		problem          string
	}{
		"Content-Digest":             {digestOf("lo"), "", 204, ""},
		"wrong Content-Digest":       {digestOf("la"), "", 400, "digest-mismatch"},
		"digest of the whole file":   {digestOf("hello"), "", 400, "digest-mismatch"},
		"malformed Content-Digest":   {"sha-256", "", 400, "bad-request"},
		"with a checksum":            {digestOf("lo"), "sha1 Y46PAXFXWGQybwbSpfjnIodCexU=", 204, ""},
		"with a wrong checksum":      {digestOf("lo"), "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", 460, "checksum-mismatch"},
		"wrong, with right checksum": {digestOf("la"), "sha1 Y46PAXFXWGQybwbSpfjnIodCexU=", 400, "digest-mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			location := f.createTus(t, 5)
			f.tus("PATCH", location, strings.NewReader("hel"), piece(0))
			answer := f.tus("PATCH", location, strings.NewReader("lo"), piece(3),
				map[string]string{"Content-Digest": c.digest, "Upload-Checksum": c.checksum})
			if c.status == 204 {
				wantTus(t, answer, 204, map[string]string{"Upload-Offset": "5"})
				f.wantCounts(t, 1, 1, 1)
				// A request without bytes can have a digest, too.
				wantProblem(t, f.tus("PATCH", location, nil, piece(5), map[string]string{"Content-Digest": digestOf("x")}), 400, "digest-mismatch")
				wantTus(t, f.tus("PATCH", location, nil, piece(5), map[string]string{"Content-Digest": digestOf("")}), 204, nil)
				return
			}
			wantProblem(t, answer, c.status, c.problem)
			wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "3"})
			f.wantCounts(t, 0, 1, 0)
		})
	}
	for digest, want := range map[string]int{digestOf("hello"): 201, digestOf("hullo"): 400, "sha-256": 400} {
		f := newFixture(t)
		answer := f.tus("POST", "/upload/tus", strings.NewReader("hello"), piece(0), map[string]string{"Upload-Length": "5", "Content-Digest": digest})
		if files := map[int]int{201: 1}[want]; answer.Code != want {
			t.Errorf("creation with the body hello and Content-Digest %s: got %d %s, want %d", digest, answer.Code, answer.Body, want)
		} else {
			f.wantCounts(t, files, files, files)
		}
	}
}

// TestTusFileDigest checks that an upload becomes a file only if it matches the Repr-Digest of its creation, with each
// request that can complete the upload.
func TestTusFileDigest(t *testing.T) {
	long := "sha-512=:" + strings.Repeat("A", 86) + "==:"
	for name, digest := range map[string]string{"right": digestOf("hello"), "wrong": digestOf("hullo"), "ignored algorithm": long} {
		declared := map[string]string{"Repr-Digest": digest, "Upload-Length": "5"}
		for how, complete := range map[string]func(t *testing.T, f *fixture) (answer *httptest.ResponseRecorder, location string){
			"creation": func(_ *testing.T, f *fixture) (*httptest.ResponseRecorder, string) {
				answer := f.tus("POST", "/upload/tus", strings.NewReader("hello"), piece(0), declared)
				return answer, answer.Header().Get("Location")
			},
			"last bytes": func(t *testing.T, f *fixture) (*httptest.ResponseRecorder, string) {
				t.Helper()
				location := f.createTus(t, 5, declared)
				f.tus("PATCH", location, strings.NewReader("hel"), piece(0), map[string]string{"Repr-Digest": digest})
				return f.tus("PATCH", location, strings.NewReader("lo"), piece(3), map[string]string{"Repr-Digest": digest}), location
			},
			"HEAD after all bytes": func(t *testing.T, f *fixture) (*httptest.ResponseRecorder, string) {
				t.Helper()
				location := f.createTus(t, 5, declared)
				if _, err := f.files.Append(t.Context(), location[len("/upload/tus/"):], 0, strings.NewReader("hello")); err != nil {
					t.Fatal(err)
				}
				return f.tus("HEAD", location, nil), location
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				f := newFixture(t)
				answer, location := complete(t, f)
				if name != "wrong" {
					wantTus(t, answer, answer.Code, map[string]string{"Upload-Offset": "5"})
					f.wantCounts(t, 1, 1, 1)
					return
				}
				wantProblem(t, answer, 400, "digest-mismatch")
				if location != "" { // sweep deletes the note of the upload
					wantProblem(t, f.tus("HEAD", location, nil), 404, "not-found")
					f.wantCounts(t, 0, 1, 0)
				} else {
					f.wantCounts(t, 0, 0, 0)
				}
			})
		}
	}
	for digest, want := range map[string]int{digestOf(""): 201, digestOf("x"): 400, "sha-256": 400} {
		f := newFixture(t)
		answer := f.tus("POST", "/upload/tus", nil, map[string]string{"Upload-Length": "0", "Repr-Digest": digest})
		if files := map[int]int{201: 1}[want]; answer.Code != want {
			t.Errorf("empty file with Repr-Digest %s: got %d %s, want %d", digest, answer.Code, answer.Body, want)
		} else {
			f.wantCounts(t, files, files, files)
		}
	}
}

// TestTusFileDigestOfAPiece checks that a PATCH request can only repeat the Repr-Digest of the creation.
func TestTusFileDigestOfAPiece(t *testing.T) {
	for name, c := range map[string]struct {
		creation, piece string
		status          int
	}{
		"repeated":          {digestOf("hello"), digestOf("hello"), 204},
		"different":         {digestOf("hello"), digestOf("hullo"), 400},
		"not declared":      {"", digestOf("hello"), 400},
		"malformed":         {digestOf("hello"), "sha-256", 400},
		"ignored algorithm": {"", "sha-512=:" + strings.Repeat("A", 86) + "==:", 204},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			location := f.createTus(t, 5, map[string]string{"Repr-Digest": c.creation})
			answer := f.tus("PATCH", location, strings.NewReader("hello"), piece(0), map[string]string{"Repr-Digest": c.piece})
			if c.status == 204 {
				wantTus(t, answer, 204, nil)
				wantTus(t, f.tus("PATCH", location, nil, piece(5), map[string]string{"Repr-Digest": digestOf("hello")}), 204, nil)
				return
			}
			wantProblem(t, answer, 400, "bad-request")
			wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "0"})
		})
	}
}
