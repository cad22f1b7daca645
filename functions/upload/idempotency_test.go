package main

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
)

func TestIdempotencyKey(t *testing.T) {
	long := strings.Repeat("x", maxKey)
	for name, c := range map[string]struct {
		lines []string
		want  string
		bad   bool
	}{
		"none":                  {nil, "", false},
		"string":                {[]string{`"8e03978e-40d5-43dd-bc93-6894a57f9324"`}, "8e03978e-40d5-43dd-bc93-6894a57f9324", false},
		"bare":                  {[]string{"8e03978e-40d5-43dd-bc93-6894a57f9324"}, "8e03978e-40d5-43dd-bc93-6894a57f9324", false},
		"bare base64":           {[]string{"a/b+c=="}, "a/b+c==", false},
		"escapes":               {[]string{`"a \"b\" \\ c, d; e"`}, `a "b" \ c, d; e`, false},
		"parameter":             {[]string{`"a";b=1`}, "a", false},
		"maximum length":        {[]string{long}, long, false},
		"too long":              {[]string{long + "x"}, "", true},
		"string too long":       {[]string{`"` + long + `x"`}, "", true},
		"empty":                 {[]string{""}, "", true},
		"empty string":          {[]string{`""`}, "", true},
		"twice":                 {[]string{"a", "a"}, "", true},
		"two keys":              {[]string{"a, b"}, "", true},
		"two strings":           {[]string{`"a", "b"`}, "", true},
		"space":                 {[]string{"a b"}, "", true},
		"unterminated string":   {[]string{`"a`}, "", true},
		"quote inside":          {[]string{`a"b`}, "", true},
		"text after the string": {[]string{`"a"b`}, "", true},
		"not ASCII":             {[]string{"ä"}, "", true},
		"string not ASCII":      {[]string{`"ä"`}, "", true},
		"control character":     {[]string{"\"a\x00\""}, "", true},
	} {
		got, err := idempotencyKey(http.Header{"Idempotency-Key": c.lines})
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: got %q and %v, want %q and an error: %t", name, got, err, c.want, c.bad)
		}
	}
}

// FuzzIdempotencyKey checks that an accepted key is short and printable, and that it stays the same if it is sent as
// a string.
func FuzzIdempotencyKey(f *testing.F) {
	for _, seed := range []string{`"a"`, "a", `"a \"b\" \\"`, `"a";b=":x:";c`, `" "`, `"`, "a,b", strings.Repeat("x", maxKey+1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		key, err := idempotencyKey(http.Header{"Idempotency-Key": {header}})
		if err != nil {
			return
		}
		if key == "" || len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q: got key %q", header, key)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, err := idempotencyKey(http.Header{"Idempotency-Key": {quoted}}); again != key || err != nil {
			t.Errorf("%q: got key %q, but %q has the key %q (error %v)", header, key, quoted, again, err)
		}
	})
}

// repeated uploads "hello" as the file notes.txt with the idempotency key k.
func (f *fixture) repeated() *httptest.ResponseRecorder {
	return f.send("POST", "/upload?name=notes.txt", strings.NewReader("hello"), map[string]string{"Content-Type": "text/plain", "Idempotency-Key": "k"})
}

func TestRetryGetsTheFirstAnswer(t *testing.T) {
	f := newFixture(t)
	first := f.repeated()
	if first.Code != 202 {
		t.Fatalf("got %d %s, want 202", first.Code, first.Body)
	}
	for name, headers := range map[string]map[string]string{
		"bare":   {"Idempotency-Key": "k"},
		"string": {"Idempotency-Key": `"k"`},
		"digest": {"Idempotency-Key": "k", "Content-Digest": digestOf("hello")},
		"same name and type": {"Idempotency-Key": "k", "Content-Type": "text/plain",
			"Content-Disposition": "attachment; filename*=UTF-8''%2Ftmp%2Fnotes.txt"},
	} {
		for length, body := range map[string]io.Reader{"known": strings.NewReader("hello"), "unknown": io.MultiReader(strings.NewReader("hello"))} {
			// A replay must not need the quota, and it must not store or publish anything.
			f.files.Before = contenttest.Fail(errAway, "Room", "Put", "Claim")
			before := f.files.BytesRead()
			again := f.send("POST", "/upload", body, headers)
			if again.Code != 202 || again.Body.String() != first.Body.String() || again.Header().Get("Location") != first.Header().Get("Location") {
				t.Errorf("%s, length %s: got %d %s, want 202 %s", name, length, again.Code, again.Body, first.Body)
			}
			if f.files.BytesRead() != before || len(f.publisher.attempts) != 1 {
				t.Errorf("%s, length %s: got %d bytes read and %d events, want none and 1", name, length, f.files.BytesRead()-before, len(f.publisher.attempts))
			}
		}
	}
	f.only(t)
	t.Run("another user's key", func(t *testing.T) {
		f.files.Before = nil
		other := f.send("POST", "/upload", strings.NewReader("hallo"), map[string]string{"Idempotency-Key": "k", "Authorization": "Bearer " + f.stranger})
		if other.Code != 202 || other.Header().Get("Location") == first.Header().Get("Location") {
			t.Errorf("got %d %s, want a new file of the other user", other.Code, other.Body)
		}
	})
}

func TestKeyOfAnotherFile(t *testing.T) {
	const disposition = `form-data; name="file"; filename="notes.txt"`
	form := func(disposition, kind, body string) (string, map[string]string) {
		b, formKind := newForm(t, field, part{disposition, kind, body})
		return string(b), map[string]string{"Content-Type": formKind}
	}
	same, sameKind := form(disposition, "text/plain", "hello")
	named, namedKind := form(hello.disposition, "text/plain", "hello")
	typed, typedKind := form(disposition, "text/html", "hello")
	other, otherKind := form(disposition, "text/plain", "hallo")
	longer, longerKind := form(disposition, "text/plain", "hello!")
	large, largeKind := form(disposition, "text/plain", strings.Repeat("x", 5+formOverhead))
	for name, c := range map[string]struct {
		target, body string
		headers      map[string]string
		status       int
	}{
		"length":                        {"/upload", "hello!", nil, 422},
		"content":                       {"/upload", "hallo", nil, 422},
		"digest":                        {"/upload", "hallo", map[string]string{"Content-Digest": digestOf("hallo")}, 422},
		"one of two digests":            {"/upload", "hallo", map[string]string{"Content-Digest": digestOf("hello"), "Repr-Digest": digestOf("hallo")}, 422},
		"wrong digest":                  {"/upload", "hallo", map[string]string{"Repr-Digest": digestOf("hello")}, 400},
		"wrong digest of the same file": {"/upload", "hello", map[string]string{"Repr-Digest": "sha-512=:" + strings.Repeat("A", 86) + "==:"}, 400},
		"name":                          {"/upload?name=other.txt", "hello", nil, 422},
		"type":                          {"/upload", "hello", map[string]string{"Content-Type": "text/html"}, 422},
		"form":                          {"/upload", same, sameKind, 202},
		"form, name":                    {"/upload", named, namedKind, 422},
		"form, type":                    {"/upload", typed, typedKind, 422},
		"form, content":                 {"/upload", other, otherKind, 422},
		"form, length":                  {"/upload", longer, longerKind, 422},
		"form too large":                {"/upload", large, largeKind, 422},
		"form that is malformed":        {"/upload", "x", sameKind, 400},
		"form that is truncated":        {"/upload", same[:len(same)-6], sameKind, 400},
		"malformed key":                 {"/upload", "hello", map[string]string{"Idempotency-Key": "k k"}, 400},
		"nothing declared":              {"/upload", "hello", nil, 202},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.repeated()
			headers := map[string]string{"Idempotency-Key": "k"}
			maps.Copy(headers, c.headers)
			// If the length is not known, the function has to read the body.
			for _, body := range []io.Reader{strings.NewReader(c.body), io.MultiReader(strings.NewReader(c.body))} {
				answer := f.send("POST", c.target, body, headers)
				switch {
				case c.status == 422:
					wantProblem(t, answer, 422, "idempotency-key-reused")
				case c.status == 400 && strings.HasPrefix(name, "wrong digest"):
					wantProblem(t, answer, 400, "digest-mismatch")
				case c.status == 400:
					wantProblem(t, answer, 400, "bad-request")
				case answer.Code != c.status:
					t.Errorf("got %d %s, want %d", answer.Code, answer.Body, c.status)
				}
			}
			if f.files.BytesRead() != len("hello") || len(f.publisher.attempts) != 1 {
				t.Errorf("got %d bytes read and %d events, want only those of the first request", f.files.BytesRead(), len(f.publisher.attempts))
			}
			f.only(t)
		})
	}
}

// TestKeyWithoutFile checks a key whose upload has ended without a file, or whose file was deleted. The next request
// with the key must store a new file, and the request after that must get the same response.
func TestKeyWithoutFile(t *testing.T) {
	failed := func(err error) func(t *testing.T, f *fixture) {
		return func(t *testing.T, f *fixture) {
			t.Helper()
			f.files.Before = contenttest.Fail(err, "Commit")
			wantProblem(t, f.repeated(), 503, "unavailable")
		}
	}
	deleted := func(steps ...func(f *fixture, id string) error) func(t *testing.T, f *fixture) {
		return func(t *testing.T, f *fixture) {
			t.Helper()
			f.repeated()
			id := f.only(t).ID
			for _, step := range steps {
				if err := step(f, id); err != nil {
					t.Fatal(err)
				}
			}
			f.publisher.attempts = nil
		}
	}
	mark := func(f *fixture, id string) error { return f.files.MarkDeleted(context.Background(), id) }
	remove := func(f *fixture, id string) error { return f.files.Delete(context.Background(), id) }
	for name, c := range map[string]struct {
		prepare func(t *testing.T, f *fixture)
		notes   int // of the first upload
	}{
		"failed commit":                {failed(errAway), 0},
		"commit of an unknown outcome": {failed(errUnknown), 1},
		"killed process": {func(t *testing.T, f *fixture) {
			t.Helper()
			first := content.File{Info: file.Info{ID: firstID, Owner: owner}}
			if _, err := f.files.Claim(t.Context(), claimKey(owner, "k"), first); err != nil {
				t.Fatal(err)
			}
		}, 0},
		"deleted file":         {deleted(mark, remove), 0},
		"interrupted deletion": {deleted(mark), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the handler waits for the first upload
				f := newFixture(t)
				c.prepare(t, f)
				f.files.Before = nil
				second := f.repeated()
				k := f.only(t)
				if second.Code != 202 || second.Header().Get("Location") != "/files/"+k.ID || string(k.Bytes) != "hello" {
					t.Errorf("got %d %s and file %+v, want 202 and a new file", second.Code, second.Body, k)
				}
				if third := f.repeated(); third.Code != 202 || third.Body.String() != second.Body.String() {
					t.Errorf("got %d %s, want 202 %s", third.Code, third.Body, second.Body)
				}
				f.wantCounts(t, 1, c.notes+1, 1)
			})
		})
	}
}

// TestKeyOfUnknownCommit checks that a retry gets the file of the first request if the commit succeeded although its
// outcome was unknown.
func TestKeyOfUnknownCommit(t *testing.T) {
	f := newFixture(t)
	f.files.Before = func(method, id string) error {
		if method != "Commit" {
			return nil
		}
		info := file.Info{ID: id, Owner: owner, Name: "notes.txt", ContentType: "text/plain", Size: 5, SHA256: helloHex}
		f.files.Add(content.File{Info: info}, "hello")
		return errUnknown
	}
	wantProblem(t, f.repeated(), 503, "unavailable")
	k := f.only(t)
	if again := f.repeated(); again.Code != 202 || again.Header().Get("Location") != "/files/"+k.ID || !k.HasNote {
		t.Errorf("got %d %s and file %+v, want 202 and file %s with its note", again.Code, again.Body, k, k.ID)
	}
	f.wantCounts(t, 1, 1, 0)
}

func TestManyAtOnceWithOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the uploads wait for each other
		const n = 8
		f := newFixture(t)
		var all sync.WaitGroup
		all.Add(n)
		// No request claims the key before all requests have sent their bytes.
		f.files.Before = during("Put", func() { all.Done(); all.Wait() })
		answers := make([]*httptest.ResponseRecorder, n)
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() { answers[i] = f.repeated() })
		}
		group.Wait()
		k := f.only(t)
		for _, answer := range answers {
			if answer.Code != 202 || answer.Header().Get("Location") != "/files/"+k.ID ||
				answer.Body.String() != answers[0].Body.String() {
				t.Errorf("got %d %s, want 202 %s", answer.Code, answer.Body, answers[0].Body)
			}
		}
		f.wantCounts(t, 1, 1, 1)
		if got := f.publisher.attempts[0].ID(); got != k.ID {
			t.Errorf("got an event of file %s, want file %s", got, k.ID)
		}
	})
}

// firstID is the ID of a file that is already stored, or of an upload that has already claimed a key.
const firstID = "0195a3f0-0000-7000-8000-000000000001"

// TestKeyIsTakenMeanwhile checks an upload during which another request with the same key stores its file first.
// Nothing of the second upload must remain.
func TestKeyIsTakenMeanwhile(t *testing.T) {
	same := file.Info{ID: firstID, Owner: owner, Name: "notes.txt", ContentType: "text/plain", Size: 5, SHA256: helloHex}
	for name, c := range map[string]struct {
		change func(first *file.Info)
		status int
	}{
		"the same file":        {func(*file.Info) {}, 202},
		"another content":      {func(first *file.Info) { first.SHA256 = strings.Repeat("0", 64) }, 422},
		"another name":         {func(first *file.Info) { first.Name = "other.txt" }, 422},
		"another content type": {func(first *file.Info) { first.ContentType = "text/html" }, 422},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			first := content.File{Info: same}
			c.change(&first.Info)
			f.files.Before = func(method, _ string) error {
				if method != "Put" {
					return nil
				}
				f.files.Add(first, "")
				_, err := f.files.Claim(t.Context(), claimKey(owner, "k"), first)
				return err
			}
			answer := f.repeated()
			if c.status == 422 {
				wantProblem(t, answer, 422, "idempotency-key-reused")
			} else if answer.Code != 202 || answer.Header().Get("Location") != "/files/"+firstID {
				t.Errorf("got %d %s, want 202 and file %s", answer.Code, answer.Body, firstID)
			}
			if got := f.only(t).ID; got != firstID {
				t.Errorf("got file %s, want file %s", got, firstID)
			}
			f.wantCounts(t, 1, 0, 0)
		})
	}
}

// TestKeyIsTakenOver checks an upload that is suspended between its claim and its commit for so long that another
// request takes over the key. The first upload must not become a file.
func TestKeyIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		var second *httptest.ResponseRecorder
		f.files.Before = during("Commit", func() {
			f.files.Before = nil
			second = f.repeated()
		})
		wantProblem(t, f.repeated(), 503, "unavailable")
		k := f.only(t)
		for name, answer := range map[string]*httptest.ResponseRecorder{"second request": second, "retry": f.repeated()} {
			if answer.Code != 202 || answer.Header().Get("Location") != "/files/"+k.ID {
				t.Errorf("%s: got %d %s, want 202 and file %s", name, answer.Code, answer.Body, k.ID)
			}
		}
		f.wantCounts(t, 1, 1, 1)
	})
}

// TestKeysAway checks an upload during which the store cannot read or write the claims of keys.
func TestKeysAway(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		err    error
		read   int // bytes
		notes  int
	}{
		"lookup fails":                      {"Claimed", errAway, 0, 0},
		"claim fails":                       {"Claim", errAway, 5, 0},
		"claim that is possibly done later": {"Claim", errUnknown, 5, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.files.Before = contenttest.Fail(c.err, c.method)
			wantProblem(t, f.repeated(), 503, "unavailable")
			if got := f.files.BytesRead(); got != c.read {
				t.Errorf("got %d bytes read, want %d", got, c.read)
			}
			f.wantCounts(t, 0, c.notes, 0)
		})
	}
}
