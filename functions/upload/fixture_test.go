package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
)

const maxSize = 10_000

// owner is the subject of the fixture's token.
const owner = "0190-ada"

// fixture is the handler with fakes around it, and a token that it takes.
type fixture struct {
	handler   http.Handler
	files     *fakeStore
	publisher *fakePublisher
	bearer    string
	reader    string // a token that permits reading only
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	signer, verifier, _ := tokentest.New(t)
	f := &fixture{files: &fakeStore{kept: map[string]*kept{}}, publisher: &fakePublisher{}}
	f.handler = newHandler(verifier, f.files, f.publisher, maxSize)
	for bearer, roles := range map[*string][]string{&f.bearer: {token.RoleUser}, &f.reader: {}} {
		raw, _, err := signer.Sign(token.Subject{ID: owner, Username: "ada", Roles: roles, Version: 1})
		if err != nil {
			t.Fatal(err)
		}
		*bearer = raw
	}
	return f
}

// only returns the one file that is kept.
func (f *fixture) only(t *testing.T) *kept {
	t.Helper()
	if len(f.files.kept) != 1 {
		t.Fatalf("got %d files, want 1", len(f.files.kept))
	}
	for _, k := range f.files.kept {
		return k
	}
	return nil
}

// kept is a file in a fakeStore.
type kept struct {
	content.File
	bytes     []byte
	event     []byte
	published bool
}

// fakeStore keeps files in memory by the rules of content.Store.
type fakeStore struct {
	kept                       map[string]*kept
	reads                      int // bytes read, kept or not
	putErr, markErr, deleteErr error
}

func (s *fakeStore) Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) ([]byte, error)) (content.File, error) {
	b, err := io.ReadAll(r)
	s.reads += len(b)
	if err != nil {
		return content.File{}, err
	}
	if s.putErr != nil {
		return content.File{}, s.putErr
	}
	sum := sha256.Sum256(b)
	f.ID = uuid.Must(uuid.NewV7()).String()
	f.Size, f.SHA256, f.StoredAt = int64(len(b)), hex.EncodeToString(sum[:]), time.Now()
	e, err := finish(&f)
	if err != nil {
		return content.File{}, err
	}
	s.kept[f.ID] = &kept{f, b, e, false}
	return f, nil
}

func (s *fakeStore) Confirm(_ context.Context, id string) error {
	if s.markErr != nil {
		return s.markErr
	}
	s.kept[id].published = true
	return nil
}

func (s *fakeStore) Delete(ctx context.Context, id string) error {
	if s.deleteErr != nil {
		return s.deleteErr
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	delete(s.kept, id)
	return nil
}

// fakePublisher answers with its errors in turn, then with success.
type fakePublisher struct {
	notReady  error
	errs      []error
	attempts  []event.Event
	published []event.Event
}

func (p *fakePublisher) Ready(context.Context) error { return p.notReady }

func (p *fakePublisher) Publish(ctx context.Context, e event.Event) error {
	p.attempts = append(p.attempts, e)
	if len(p.errs) > 0 {
		err := p.errs[0]
		p.errs = p.errs[1:]
		if err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p.published = append(p.published, e)
	return nil
}
