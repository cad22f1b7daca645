package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of the upload function against docs/openapi.yaml.
var api = contract.Of("upload")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

const maxSize = 10_000

// The errors of a store that is unavailable. After errUnknown, it is unknown whether the store has done the write.
var (
	errAway    = problem.Unavailable.Because(errors.New("secret address"), "the store is unavailable")
	errUnknown = fmt.Errorf("%w: %w", mongodb.ErrUnknown, errAway)
)

// owner is the subject of the access token in the fixture.
const owner = "0190-ada"

// fixture is the handler with a store in memory and a fake publisher, and with access tokens that the handler accepts.
type fixture struct {
	handler   http.Handler // wrapped as in function.Main, and checked against the API contract
	bare      http.Handler
	verifier  *token.Verifier
	files     *contenttest.Memory
	publisher *fakePublisher
	bearer    string
	reader    string // a token without scopes
	stranger  string // a token of another user
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	signer, verifier, _ := tokentest.New(t)
	f := &fixture{files: contenttest.New(), publisher: &fakePublisher{}}
	f.verifier = verifier
	f.limit(t, 0)
	for bearer, subject := range map[*string]token.Subject{
		&f.bearer:   {ID: owner, Username: "ada", Roles: []string{token.RoleUser}, Version: 1},
		&f.reader:   {ID: owner, Username: "ada", Roles: []string{}, Version: 1},
		&f.stranger: {ID: "0190-grace", Username: "grace", Roles: []string{token.RoleUser}, Version: 1},
	} {
		raw, _, err := signer.Sign(subject)
		if err != nil {
			t.Fatal(err)
		}
		*bearer = raw
	}
	return f
}

// limit replaces the handler by a handler with the given quota for all users, in bytes.
func (f *fixture) limit(t testing.TB, quota int64) {
	t.Helper()
	f.files.Limits = content.Limits{Bytes: quota}
	f.bare = newHandler(f.verifier, f.files, f.publisher, maxSize)
	f.handler = f.served(t, time.Minute)
}

// served returns the handler with the given request timeout.
func (f *fixture) served(t testing.TB, timeout time.Duration) http.Handler {
	t.Helper()
	return api.Handler(t, function.Wrap(f.bare, timeout))
}

// only returns the only file in the store. It stops the test unless the store has exactly one file.
func (f *fixture) only(t testing.TB) contenttest.Stored {
	t.Helper()
	files := f.files.Files()
	if len(files) != 1 {
		t.Fatalf("got %d files, want 1", len(files))
	}
	return files[0]
}

// wantCounts fails the test unless the store has the given numbers of files and notes, and the handler has tried to
// publish the given number of events.
func (f *fixture) wantCounts(t testing.TB, files, notes, attempts int) {
	t.Helper()
	gotFiles, gotNotes, gotAttempts := len(f.files.Files()), len(f.files.NoteIDs()), len(f.publisher.attempts)
	if gotFiles != files || gotNotes != notes || gotAttempts != attempts {
		t.Errorf("got %d files, %d notes and %d attempts to publish an event, want %d, %d and %d", gotFiles, gotNotes, gotAttempts,
			files, notes, attempts)
	}
}

// uploads returns the resumable uploads in progress.
func (f *fixture) uploads(t testing.TB) (open []content.Upload) {
	t.Helper()
	for _, id := range f.files.NoteIDs() {
		if found, err := f.files.Find(t.Context(), id); err == nil && !found.Stored {
			open = append(open, found)
		}
	}
	return open
}

// during returns a function for contenttest.Memory.Before that calls do before the given method takes effect.
func during(method string, do func()) func(method, id string) error {
	return func(called, _ string) error {
		if called == method {
			do()
		}
		return nil
	}
}

// fakePublisher publishes an event unless do is set and returns an error.
type fakePublisher struct {
	do        func(ctx context.Context) error
	mu        sync.Mutex
	attempts  []event.Event
	published []event.Event
}

func (p *fakePublisher) Publish(ctx context.Context, e event.Event) error {
	p.mu.Lock()
	p.attempts = append(p.attempts, e)
	p.mu.Unlock()
	if p.do != nil {
		if err := p.do(ctx); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = append(p.published, e)
	return nil
}

// notPublished implements the do function of a fakePublisher that cannot publish any event.
func notPublished(context.Context) error { return problem.Unavailable.With("RabbitMQ is unavailable") }
