package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of the upload function against docs/openapi.yaml.
var api = contract.Of("upload")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

const maxSize = 10_000

// owner is the subject of the access token in the fixture.
const owner = "0190-ada"

// fixture is the handler with a fake store and a fake publisher, and with access tokens that the handler accepts.
type fixture struct {
	handler   http.Handler // wrapped as in function.Main, and checked against the API contract
	bare      http.Handler
	verifier  *token.Verifier
	files     *fakeStore
	publisher *fakePublisher
	bearer    string
	reader    string // a token without scopes
	stranger  string // a token of another user
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	signer, verifier, _ := tokentest.New(t)
	f := &fixture{files: &fakeStore{kept: map[string]*kept{}, claims: map[string]content.File{}, open: map[string]*open{}}, publisher: &fakePublisher{}}
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
	var err error
	if f.bare, err = newHandler(f.verifier, f.files, f.publisher, limits{maxSize, quota}); err != nil {
		t.Fatal(err)
	}
	f.handler = f.served(t, time.Minute)
}

// served returns the handler with the given request timeout.
func (f *fixture) served(t testing.TB, timeout time.Duration) http.Handler {
	t.Helper()
	return api.Handler(t, function.Wrap(f.bare, timeout))
}

// only returns the only file in the store. It stops the test unless the store has exactly one file.
func (f *fixture) only(t testing.TB) *kept {
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

// fakeStore stores files in memory and follows the rules of content.Store.
type fakeStore struct {
	mu                                      sync.Mutex
	kept                                    map[string]*kept
	claims                                  map[string]content.File
	open                                    map[string]*open
	reads                                   int // number of bytes read, stored or not
	putErr, confirmErr, deleteErr, claimErr error
	usageErr, claimedErr, confirmedErr      error
	away                                    error  // returned by Create and Find if it is set
	whilePut                                func() // called after all bytes have been read, if it is set
}

func (s *fakeStore) Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) ([]byte, error)) (content.File, error) {
	b, err := io.ReadAll(r)
	s.mu.Lock()
	s.reads += len(b)
	s.mu.Unlock()
	if err != nil {
		return content.File{}, err
	}
	if s.whilePut != nil {
		s.whilePut()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.confirmErr == nil {
		s.kept[id].published = true
	}
	return s.confirmErr
}

func (s *fakeStore) Confirmed(_ context.Context, id string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.kept[id]
	return !ok || k.published, s.confirmedErr
}

func (s *fakeStore) Event(_ context.Context, id string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.kept[id]; ok {
		return k.event, nil
	}
	return nil, problem.NotFound.With("there is no such file")
}

func (s *fakeStore) Delete(ctx context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleteErr != nil {
		return s.deleteErr
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	delete(s.kept, id)
	delete(s.open, id)
	return nil
}

func (s *fakeStore) Usage(_ context.Context, owner string) (used int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		if k.Owner == owner {
			used += k.Size
		}
	}
	for _, o := range s.open {
		if o.Owner == owner {
			used += o.Length
		}
	}
	return used, s.usageErr
}

func (s *fakeStore) Claimed(_ context.Context, key string) (content.File, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.claims[key]
	return f, ok, s.claimedErr
}

func (s *fakeStore) Claim(_ context.Context, key string, f content.File) (content.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claimErr != nil {
		return content.File{}, s.claimErr
	}
	if first, ok := s.claims[key]; ok {
		return first, nil
	}
	s.claims[key] = f
	return f, nil
}

// fakePublisher returns the errors in errs one after another, and then succeeds.
type fakePublisher struct {
	mu        sync.Mutex
	notReady  error
	ready     func() // called once by Ready, if it is set
	errs      []error
	attempts  []event.Event
	published []event.Event
}

func (p *fakePublisher) Ready(context.Context) error {
	if do := p.ready; do != nil {
		p.ready = nil
		do()
	}
	return p.notReady
}

func (p *fakePublisher) Publish(ctx context.Context, e event.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
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
