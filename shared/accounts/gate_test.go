package accounts

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

func TestGate(t *testing.T) {
	g := newGate(2)
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			leave, err := g.enter(t.Context(), "ada")
			if err != nil {
				t.Error(err)
				return
			}
			n := inside.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			inside.Add(-1)
			leave()
			leave() // the second call has no effect
		})
	}
	wg.Wait()
	if most.Load() > 2 {
		t.Errorf("got %d callers inside at the same time, want at most 2", most.Load())
	}
	if len(g.doors) != 0 {
		t.Errorf("got %d remaining doors, want 0", len(g.doors))
	}
}

func TestGateIsPerKey(t *testing.T) {
	g := newGate(1)
	leave, err := g.enter(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	other, err := g.enter(t.Context(), "grace")
	if err != nil {
		t.Fatal(err)
	}
	other()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.enter(gone, "ada"); !errors.Is(err, context.Canceled) {
		t.Errorf("full gate, canceled context: got %v, want context.Canceled", err)
	}
	leave()
	if len(g.doors) != 0 {
		t.Errorf("got %d remaining doors, want 0", len(g.doors))
	}
}
