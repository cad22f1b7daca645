package integration

import (
	"math"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// frozenBatch is the number of functions that are suspended at the same time.
const frozenBatch = 16

// meanwhile is what happens, in addition to a sweep, while a function is suspended.
type meanwhile string

const (
	onlySweep  meanwhile = "while sweep runs"
	fileDelete meanwhile = "while sweep runs and the file is deleted"
	repetition meanwhile = "while sweep runs and the client repeats the upload"
)

// TestFrozenWriter proves that suspending a function with SIGSTOP for longer than the grace periods of sweep loses no
// accepted file, and does not bring a deleted file back. It suspends upload, record and files before and after each
// write command of an operation. A laptop that sleeps, or a virtual machine that is paused, has the same effect.
func TestFrozenWriter(t *testing.T) {
	var group sync.WaitGroup
	for _, op := range []*operation{plainUpload, keyedUpload, resumableUpload, catalogEntry, deletion} {
		group.Go(func() {
			t.Run(op.name, func(t *testing.T) { testFrozen(t, op) })
		})
	}
	group.Wait()
}

func testFrozen(t *testing.T, op *operation) {
	s := newSystem(t)
	f, err := s.newFaulty(t, op.function)
	if err != nil {
		t.Fatal(err)
	}
	// The first upload of a user counts the user's files, and some changes of the usage delete old versions. Both need
	// additional writes.
	writes := math.MaxInt
	for range 3 {
		n, _, err := f.try(t.Context(), s, op, nil, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		writes = min(writes, n)
	}
	var all []*frozen
	for n := 1; n <= writes; n++ {
		for _, stage := range []moment{{"", false, false}, {"", true, false}} {
			for _, how := range []meanwhile{onlySweep, fileDelete, repetition} {
				if how == repetition && op != keyedUpload {
					continue // without a key, a client gets another file
				}
				all = append(all, &frozen{n: n, stage: stage, meanwhile: how,
					reached: make(chan struct{}), resumed: make(chan struct{}), ended: make(chan struct{})})
			}
		}
	}
	for batch := range slices.Chunk(all, frozenBatch) {
		for _, z := range batch {
			if err := z.start(t, s, op); err != nil {
				t.Fatal(err)
			}
		}
		for _, z := range batch {
			go func() {
				op.act(t.Context(), s, z.attempt, z.url)
				close(z.ended)
			}()
		}
		for _, z := range batch {
			select {
			case <-z.reached:
				z.attempt.failed = true
			case <-z.ended:
				t.Errorf("%s: the function was not suspended", z.attempt)
			case <-time.After(servertest.Recovery):
				t.Fatalf("%s: the function was not suspended within %v", z.attempt, servertest.Recovery)
			}
		}
		time.Sleep(killGrace + 200*time.Millisecond)
		if status, counts := postSweep(t, s.sweep); status != http.StatusOK {
			t.Errorf("sweep: got %d %+v, want 200", status, counts)
		}
		for _, z := range batch {
			z.during(t, s)
		}
		for _, z := range batch {
			_ = z.process.Signal(syscall.SIGCONT) // a process that cannot be continued sends no response
			close(z.resumed)
		}
		for _, z := range batch {
			<-z.ended // the requests have a time limit
			z.merge(t)
			z.kill()
		}
	}
	s.settle(t)
	s.check(t)
}

// frozen is an operation during which the function is suspended.
type frozen struct {
	*faulty
	n         int    // the write command at which the function is suspended
	stage     moment // the stage of the command
	meanwhile meanwhile
	attempt   *attempt
	other     *attempt // contains the requests of another client during the suspension

	reached chan struct{} // closed when the function is suspended
	resumed chan struct{} // closed when the function continues
	ended   chan struct{} // closed when the attempt has ended
}

// start starts the function, which will be suspended.
func (z *frozen) start(t *testing.T, s *system, op *operation) (err error) {
	if z.faulty, err = s.newFaulty(t, op.function); err != nil {
		return err
	}
	if z.attempt, err = s.newAttempt(t.Context(), op, ""); err != nil {
		return err
	}
	where := "before"
	if z.stage.answer {
		where = "after"
	}
	z.attempt.log = z.log
	z.begin(z.attempt, nil, 0)
	when := nthCommand(z.n, isWrite, z.stage)
	z.arm(func(m moment) bool {
		hit := when(m)
		if hit {
			z.attempt.fails = "suspended " + where + " " + m.what + ", " + string(z.meanwhile)
		}
		return hit
	}, func() (cut bool) {
		// The proxy holds the message during the suspension, because a suspended function neither sends nor receives.
		_ = z.process.Signal(syscall.SIGSTOP)
		close(z.reached)
		select {
		case <-z.resumed:
		case <-t.Context().Done():
		}
		return false
	})
	return nil
}

// during does what happens in addition to a sweep while the function is suspended.
func (z *frozen) during(t *testing.T, s *system) {
	t.Helper()
	a := z.attempt
	z.other = &attempt{op: a.op, name: a.name, body: a.body, ids: map[string]bool{}}
	switch z.meanwhile {
	case repetition:
		z.other.repeat(t.Context(), s)
	case fileDelete:
		a.mu.Lock()
		defer a.mu.Unlock()
		for id := range a.ids {
			if s.do(t.Context(), z.other, http.MethodDelete, s.files+"/files/"+id, nil).status == http.StatusNoContent {
				z.other.id, z.other.gone = id, true
			}
		}
	}
}

// merge adds the result of the other client to the attempt.
func (z *frozen) merge(t *testing.T) {
	t.Helper()
	a, b := z.attempt, z.other
	a.seen = append(a.seen, b.seen...)
	switch {
	case b.gone:
		a.id, a.gone = b.id, true
	case b.outcome == accepted && a.outcome == accepted && a.id != b.id:
		t.Errorf("%s: got the accepted files %s and %s, want one file", a, a.id, b.id)
	case b.outcome == accepted:
		a.accept(b.id)
	}
}
