//go:build audit

package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
)

// tiringStore is a store that ends the context of a sweep after some calls of Finish. The calls of the real store take
// so long that the time of a sweep ends.
type tiringStore struct {
	*contenttest.Memory
	left int
	end  context.CancelFunc
}

func (s *tiringStore) Finish(ctx context.Context, id string, finish func(*content.File) ([]byte, error)) (content.File, error) {
	if s.left--; s.left <= 0 {
		s.end()
		return content.File{}, ctx.Err()
	}
	return s.Memory.Finish(ctx, id, finish)
}

// TestAuditOpenUploadsStopSweep checks data A5: sweep publishes the event of an accepted file although a user has more open uploads than one sweep can visit.
func TestAuditOpenUploadsStopSweep(t *testing.T) {
	f := newFixture()
	s := &tiringStore{Memory: f.store}
	f.sweeper.files = s
	for range 100 {
		f.open(t, time.Hour)
	}
	accepted := f.file(t, "") // Its function was killed before it published the event.
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		s.left, s.end = 60, cancel
		newHandler(f.sweeper).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, "/", nil))
		cancel()
	}
	if !slices.Contains(f.publisher.ids, accepted) {
		t.Errorf("got no event of file %s after 10 sweeps, want one", accepted)
	}
}
