package main

import (
	"io"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
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

// TestQuotaAtTheSameTime checks two concurrent uploads that each fit into the quota, but not both together.
func TestQuotaAtTheSameTime(t *testing.T) {
	f := newFixture(t)
	f.limit(t, 100)
	f.files.Before = during("Put", func() {
		f.files.Add(content.File{Info: file.Info{ID: "meanwhile", Owner: owner, Size: 60}}, "")
	})
	wantProblem(t, f.send("POST", "/upload", strings.NewReader(strings.Repeat("x", 60)), nil), 507, "quota-exceeded")
	if f.only(t).ID != "meanwhile" || len(f.publisher.attempts) != 0 {
		t.Errorf("got %d events, want none", len(f.publisher.attempts))
	}
}

func TestQuotaUnknown(t *testing.T) {
	away := problem.Unavailable.With("the store is unavailable")
	f := newFixture(t)
	f.limit(t, 100)
	f.files.Before = contenttest.Fail(away, "Usage")
	wantProblem(t, f.send("POST", "/upload", strings.NewReader("x"), nil), 503, "unavailable")
	if f.files.BytesRead() != 0 {
		t.Errorf("got %d bytes read, want none", f.files.BytesRead())
	}
	f.files.Before = during("Put", func() { f.files.Before = contenttest.Fail(away, "Usage") })
	wantProblem(t, f.send("POST", "/upload", strings.NewReader("x"), nil), 503, "unavailable")
	if len(f.files.Files()) != 0 || len(f.publisher.attempts) != 0 {
		t.Errorf("got %d files and %d events, want none", len(f.files.Files()), len(f.publisher.attempts))
	}
}
