package main

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
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
		"digest": {"Idempotency-Key": "k", "Content-Digest": "sha-256=:" + helloBase64 + ":"},
		"same name and type": {"Idempotency-Key": "k", "Content-Type": "text/plain",
			"Content-Disposition": "attachment; filename*=UTF-8''%2Ftmp%2Fnotes.txt"},
	} {
		for length, body := range map[string]io.Reader{"known": strings.NewReader("hello"), "unknown": io.MultiReader(strings.NewReader("hello"))} {
			f.publisher.notReady = problem.Unavailable.With("unavailable") // a replay must not need the broker or the quota
			f.files.Before = contenttest.Fail(f.publisher.notReady, "Usage")
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
		f.publisher.notReady, f.files.Before = nil, nil
		other := f.send("POST", "/upload", strings.NewReader("hallo"), map[string]string{"Idempotency-Key": "k", "Authorization": "Bearer " + f.stranger})
		if other.Code != 202 || other.Header().Get("Location") == first.Header().Get("Location") {
			t.Errorf("got %d %s, want a new file of the other user", other.Code, other.Body)
		}
	})
	t.Run("deleted meanwhile", func(t *testing.T) {
		for _, k := range f.files.Files() {
			if err := f.files.Delete(t.Context(), k.ID); err != nil {
				t.Fatal(err)
			}
		}
		if again := f.repeated(); again.Code != 202 || again.Body.String() != first.Body.String() {
			t.Errorf("got %d %s, want 202 %s", again.Code, again.Body, first.Body)
		}
	})
}

func TestKeyOfAnotherFile(t *testing.T) {
	form, kind := newForm(t, hello)
	large, largeKind := newForm(t, part{hello.disposition, "", strings.Repeat("x", 5+formOverhead)})
	for name, c := range map[string]struct {
		target, body string
		headers      map[string]string
		status       int
	}{
		"length":           {"/upload", "hello!", nil, 422},
		"digest":           {"/upload", "hallo", map[string]string{"Content-Digest": "sha-256=:" + strings.Repeat("A", 43) + "=:"}, 422},
		"name":             {"/upload?name=other.txt", "hello", nil, 422},
		"type":             {"/upload", "hello", map[string]string{"Content-Type": "text/html"}, 422},
		"form":             {"/upload", string(form), map[string]string{"Content-Type": kind}, 202},
		"form too large":   {"/upload", string(large), map[string]string{"Content-Type": largeKind}, 422},
		"form too small":   {"/upload", "x", map[string]string{"Content-Type": kind}, 422},
		"malformed key":    {"/upload", "hello", map[string]string{"Idempotency-Key": "k k"}, 400},
		"nothing declared": {"/upload", "hello", nil, 202},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.repeated()
			headers := map[string]string{"Idempotency-Key": "k"}
			maps.Copy(headers, c.headers)
			answer := f.send("POST", c.target, strings.NewReader(c.body), headers)
			switch c.status {
			case 422:
				wantProblem(t, answer, 422, "idempotency-key-reused")
			case 400:
				wantProblem(t, answer, 400, "bad-request")
			default:
				if answer.Code != c.status {
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

// TestRetryPublishes checks that a file with an idempotency key stays if its event cannot be published. It also
// checks that a retry publishes the event before it succeeds.
func TestRetryPublishes(t *testing.T) {
	refused := problem.Unavailable.With("refused")
	unknown := problem.Unavailable.Because(events.ErrUnknown, "unknown")
	for name, err := range map[string]error{"refused": refused, "unknown": unknown} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.publisher.errs = []error{err, err, err, err, err, err}
			for range 2 {
				wantProblem(t, f.repeated(), 503, "unavailable")
				if f.only(t).Confirmed {
					t.Error("got a file whose event is published, want a pending event")
				}
			}
			answer := f.repeated()
			k := f.only(t)
			if answer.Code != 202 || answer.Header().Get("Location") != "/files/"+k.ID || !k.Confirmed || f.files.BytesRead() != len("hello") {
				t.Errorf("got %d %s for file %+v after %d bytes, want 202 after %d bytes", answer.Code, answer.Body, k, f.files.BytesRead(), len("hello"))
			}
			for _, e := range f.publisher.attempts {
				if e.ID() != k.ID || string(e.Data()) != string(f.publisher.attempts[0].Data()) {
					t.Errorf("got event %s, want the same event of file %s in each attempt", e, k.ID)
				}
			}
			if len(f.publisher.published) != 1 {
				t.Errorf("got %d events, want 1", len(f.publisher.published))
			}
		})
	}
}

func TestManyAtOnceWithOneKey(t *testing.T) {
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
	if !k.Confirmed {
		t.Error("got a file whose event is pending, want a published event")
	}
	for _, answer := range answers {
		if answer.Code != 202 || answer.Header().Get("Location") != "/files/"+k.ID || answer.Body.String() != answers[0].Body.String() {
			t.Errorf("got %d %s, want 202 %s", answer.Code, answer.Body, answers[0].Body)
		}
	}
	for _, e := range f.publisher.published {
		if e.ID() != k.ID {
			t.Errorf("got an event of file %s, want only events of file %s", e.ID(), k.ID)
		}
	}
}

// TestKeyIsTakenMeanwhile checks an upload during which another request with the same key stores its file first.
func TestKeyIsTakenMeanwhile(t *testing.T) {
	const firstID = "0195a3f0-0000-7000-8000-000000000001"
	for name, c := range map[string]struct {
		sum       string
		deleteErr error
		status    int
		kept      int
	}{
		"the same file":                 {helloHex, nil, 202, 1},
		"another file":                  {strings.Repeat("0", 64), nil, 422, 1},
		"the same file, deletion fails": {helloHex, problem.Unavailable.With("unavailable"), 202, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			first := content.File{Info: file.Info{ID: firstID, Owner: owner, Name: "notes.txt", ContentType: "text/plain", Size: 5, SHA256: c.sum, StoredAt: time.Now()}}
			f.files.Before = func(method, _ string) error {
				switch method {
				case "Put":
					f.files.Add(first, "")
					_, err := f.files.Claim(t.Context(), claimKey(owner, "k"), first)
					return err
				case "Delete":
					return c.deleteErr
				}
				return nil
			}
			answer := f.repeated()
			if c.status == 422 {
				wantProblem(t, answer, 422, "idempotency-key-reused")
			} else if answer.Code != 202 || answer.Header().Get("Location") != "/files/"+firstID {
				t.Errorf("got %d %s, want the first file", answer.Code, answer.Body)
			}
			if len(f.files.Files()) != c.kept || len(f.publisher.attempts) != 0 {
				t.Errorf("got %d files and %d events, want %d and none", len(f.files.Files()), len(f.publisher.attempts), c.kept)
			}
		})
	}
}

func TestKeysAway(t *testing.T) {
	away := problem.Unavailable.Because(errors.New("secret address"), "the store is unavailable")
	t.Run("before the upload", func(t *testing.T) {
		f := newFixture(t)
		f.files.Before = contenttest.Fail(away, "Claimed")
		wantProblem(t, f.repeated(), 503, "unavailable")
		if f.files.BytesRead() != 0 {
			t.Errorf("got %d bytes read, want none", f.files.BytesRead())
		}
	})
	t.Run("after the file is stored", func(t *testing.T) {
		f := newFixture(t)
		f.files.Before = contenttest.Fail(away, "Claim")
		wantProblem(t, f.repeated(), 503, "unavailable")
		// It is not known whether the claim was stored. The file must stay for sweep, and no event must be published.
		if f.only(t).Confirmed || len(f.publisher.attempts) != 0 {
			t.Errorf("got %d events, want none", len(f.publisher.attempts))
		}
	})
	t.Run("at a retry", func(t *testing.T) {
		f := newFixture(t)
		f.repeated()
		f.files.Before = contenttest.Fail(away, "Confirmed")
		wantProblem(t, f.repeated(), 503, "unavailable")
	})
}
