package accounts

import (
	"context"
	"sync"
)

// gate admits at most width concurrent callers per key. Other callers wait in this process instead of on the
// database server, so that they do not occupy database connections.
type gate struct {
	width int
	mu    sync.Mutex
	doors map[string]*door
}

// door tracks the admitted and waiting callers for one key.
type door struct {
	slots chan struct{}
	users int // the number of callers that hold a slot or wait for one
}

func newGate(width int) *gate { return &gate{width: width, doors: map[string]*door{}} }

// enter waits until the gate admits the caller for this key, or until ctx is done. The admitted caller must call
// leave when it is finished.
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
