package accounts

import (
	"context"
	"sync"
)

// gate lets a bounded number of callers with the same key in at a time; the others queue up here, where it costs
// nothing, and not at the database.
type gate struct {
	width int
	mu    sync.Mutex
	doors map[string]*door
}

type door struct {
	slots chan struct{}
	users int // how many hold or wait for a slot
}

func newGate(width int) *gate { return &gate{width: width, doors: map[string]*door{}} }

// enter waits for a slot of key until ctx ends. leave gives it back; it may be called more than once.
func (g *gate) enter(ctx context.Context, key string) (leave func(), err error) {
	g.mu.Lock()
	d := g.doors[key]
	if d == nil {
		d = &door{slots: make(chan struct{}, g.width)}
		g.doors[key] = d
	}
	d.users++
	g.mu.Unlock()
	forget := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if d.users--; d.users == 0 {
			delete(g.doors, key)
		}
	}
	select {
	case d.slots <- struct{}{}:
		return sync.OnceFunc(func() {
			<-d.slots
			forget()
		}), nil
	case <-ctx.Done():
		forget()
		return nil, ctx.Err()
	}
}
