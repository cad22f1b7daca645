package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
)

func TestQuota(t *testing.T) {
	unknown := func(n int) io.Reader { return io.MultiReader(strings.NewReader(strings.Repeat("x", n))) }
	known := func(n int) io.Reader { return strings.NewReader(strings.Repeat("x", n)) }
	form := func(n int) (io.Reader, map[string]string) {
		body, kind := newForm(t, field, part{hello.disposition, "text/plain", strings.Repeat("x", n)})
		return strings.NewReader(string(body)), map[string]string{"Content-Type": kind}
	}
	fits, fitsKind := form(70)
	over, overKind := form(71)
	for name, c := range map[string]struct {
		body    io.Reader
		headers map[string]string
		quota   int64
		status  int
		problem string
		unread  bool
	}{
		"no quota":                              {known(maxSize), nil, 0, 202, "", false},
		"fits":                                  {known(70), nil, 100, 202, "", false},
		"fits, unknown length":                  {unknown(70), nil, 100, 202, "", false},
		"fits, form":                            {fits, fitsKind, 100, 202, "", false},
		"over, known length":                    {known(71), nil, 100, 507, "quota-exceeded", true},
		"over, unknown length":                  {unknown(71), nil, 100, 507, "quota-exceeded", false},
		"over, form":                            {over, overKind, 100, 507, "quota-exceeded", false},
		"full":                                  {known(1), nil, 30, 507, "quota-exceeded", true},
		"more than full":                        {unknown(1), nil, 20, 507, "quota-exceeded", false},
		"full, empty file":                      {known(0), nil, 30, 202, "", false},
		"over the file limit":                   {known(maxSize + 1), nil, 100, 413, "too-large", true},
		"over the file limit, within the quota": {unknown(maxSize + 1), nil, 1 << 20, 413, "too-large", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.limit(t, c.quota)
			f.files.Add(content.File{Info: file.Info{ID: "before", Owner: owner, Size: 30}}, "")
			f.files.Add(content.File{Info: file.Info{ID: "another user's", Owner: "0190-grace", Size: 1 << 20}}, "")
			answer := f.send("POST", "/upload", c.body, c.headers)
			want := 2
			if c.status == 202 {
				want = 3
				if answer.Code != 202 {
					t.Errorf("got %d %s, want 202", answer.Code, answer.Body)
				}
			} else {
				wantProblem(t, answer, c.status, c.problem)
			}
			if len(f.files.Files()) != want || c.unread && f.files.BytesRead() != 0 {
				t.Errorf("got %d files, %d bytes read; want %d files, unread %t", len(f.files.Files()), f.files.BytesRead(), want, c.unread)
			}
		})
	}
}

// TestQuotaAtTheSameTime checks concurrent uploads that each fit into the quota, but not together.
func TestQuotaAtTheSameTime(t *testing.T) {
	const size = 60
	body := strings.Repeat("x", size)
	t.Run("another file is stored meanwhile", func(t *testing.T) {
		f := newFixture(t)
		f.limit(t, 100)
		f.files.Before = during("Put", func() {
			f.files.Add(content.File{Info: file.Info{ID: "meanwhile", Owner: owner, Size: size}}, "")
		})
		wantProblem(t, f.send("POST", "/upload", strings.NewReader(body), nil), 507, "quota-exceeded")
		if got := f.only(t).ID; got != "meanwhile" {
			t.Errorf("got file %s, want only the other file", got)
		}
		f.wantCounts(t, 1, 0, 0)
	})
	form, kind := newForm(t, part{hello.disposition, "text/plain", body})
	for name, send := range map[string]func(f *fixture) *httptest.ResponseRecorder{
		"two uploads of unknown length": func(f *fixture) *httptest.ResponseRecorder {
			return f.send("POST", "/upload", io.MultiReader(strings.NewReader(body)), nil)
		},
		"two forms": func(f *fixture) *httptest.ResponseRecorder {
			return f.send("POST", "/upload", bytes.NewReader(form), map[string]string{"Content-Type": kind})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.limit(t, 100)
			// Each upload waits until the other one has sent its bytes.
			var sent sync.WaitGroup
			sent.Add(2)
			f.files.Before = func(method, _ string) error {
				if method == "Put" {
					sent.Done()
					sent.Wait()
				}
				return nil
			}
			var answers [2]*httptest.ResponseRecorder
			var both sync.WaitGroup
			for i := range answers {
				both.Go(func() { answers[i] = send(f) })
			}
			both.Wait()
			accepted := 0
			for _, answer := range answers {
				if answer.Code == 202 && accepted == 0 {
					accepted++
					continue
				}
				wantProblem(t, answer, 507, "quota-exceeded")
			}
			f.wantCounts(t, 1, 1, 1)
		})
	}
}

// TestQuotaUnknown checks that nothing is stored if the store cannot read or change the usage.
func TestQuotaUnknown(t *testing.T) {
	known := func() io.Reader { return strings.NewReader("x") }
	unknown := func() io.Reader { return io.MultiReader(known()) }
	for name, c := range map[string]struct {
		body    func() io.Reader
		prepare func(f *fixture)
		read    int // bytes
	}{
		"before the upload":               {known, func(f *fixture) { f.files.Before = contenttest.Fail(errAway, "Room") }, 0},
		"before the first byte":           {known, func(f *fixture) { f.files.Before = contenttest.Fail(errAway, "Reserve") }, 0},
		"after all bytes":                 {known, failAfterPut("Reserve"), 1},
		"after all bytes, unknown length": {unknown, failAfterPut("Reserve"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.limit(t, 100)
			c.prepare(f)
			wantProblem(t, f.send("POST", "/upload", c.body(), nil), 503, "unavailable")
			if got := f.files.BytesRead(); got != c.read {
				t.Errorf("got %d bytes read, want %d", got, c.read)
			}
			f.wantCounts(t, 0, 0, 0)
		})
	}
}

// failAfterPut returns a function that makes the given method of the store fail after an upload has sent all bytes.
func failAfterPut(method string) func(f *fixture) {
	return func(f *fixture) {
		f.files.Before = during("Put", func() { f.files.Before = contenttest.Fail(errAway, method) })
	}
}

// TestQuotaCountsFiles checks that a small quota does not let a user upload any number of empty files.
func TestQuotaCountsFiles(t *testing.T) {
	const most = 1000
	f := newFixture(t)
	f.limit(t, 1)
	for n := range most - 1 {
		f.files.Add(content.File{Info: file.Info{ID: fmt.Sprint(n), Owner: owner}}, "")
	}
	if answer := f.send("POST", "/upload", strings.NewReader(""), nil); answer.Code != 202 {
		t.Fatalf("got %d %s for file %d, want 202", answer.Code, answer.Body, most)
	}
	for name, body := range map[string]io.Reader{"empty": strings.NewReader(""), "unknown length": io.MultiReader(strings.NewReader(""))} {
		answer := f.send("POST", "/upload", body, nil)
		if wantProblem(t, answer, 507, "quota-exceeded"); len(f.files.Files()) != most {
			t.Errorf("%s: got %d files, want %d", name, len(f.files.Files()), most)
		}
	}
}
