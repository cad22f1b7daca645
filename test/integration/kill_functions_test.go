package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// killRounds is how many times the tests kill a function at each step.
	killRounds = 10
	// killWorkers is the number of functions that a test kills at the same time.
	killWorkers = 6
)

// stages are the moments of a command at which the tests kill a function, without the description of the command.
var stages = []moment{{"", false, false}, {"", false, true}, {"", true, false}, {"", true, true}}

// nthCommand returns a trigger for a stage of the nth command of a kind.
func nthCommand(n int, kind func(what string) bool, stage moment) trigger {
	return func(m moment) bool {
		if m.answer != stage.answer || m.passed != stage.passed || !kind(m.what) {
			return false
		}
		n--
		return n == 0
	}
}

// isCommand reports whether a command reads from or writes to a collection.
func isCommand(what string) bool {
	return strings.Contains(what, " ") && !strings.HasPrefix(what, "endSessions")
}

// TestRecordKilled proves that killing record with SIGKILL at any read or write of an event loses no catalog entry. In
// half of the rounds, the event is delivered again. In the other rounds, sweep publishes it again.
func TestRecordKilled(t *testing.T) { testKilled(t, catalogEntry, isCommand) }

// TestFilesKilled proves that killing files with SIGKILL at any step of a deletion either deletes the file or keeps it.
// After a client got a 404 for the file, the file does not come back.
func TestFilesKilled(t *testing.T) {
	for _, op := range []*operation{deletion, earlyDeletion} {
		t.Run(op.name, func(t *testing.T) { testKilled(t, op, isWrite) })
	}
}

// TestResumableUploadKilled proves that killing upload with SIGKILL at any write of a resumable upload loses no byte that
// a response has acknowledged. In half of the rounds, the client continues the upload.
func TestResumableUploadKilled(t *testing.T) { testKilled(t, resumableUpload, isWrite) }

// testKilled kills a function at each stage of each command of a kind during an operation, killRounds times per command.
// Afterward, sweep completes the interrupted work.
func testKilled(t *testing.T, op *operation, kind func(what string) bool) {
	s := newSystem(t)
	workers := make(chan struct{}, killWorkers)
	var group sync.WaitGroup
	for n, more := 1, true; more; n++ {
		if n > maxWrites {
			t.Fatalf("got at least %d commands", maxWrites)
		}
		killed := make([]bool, killRounds)
		for i := range killRounds {
			workers <- struct{}{}
			group.Go(func() {
				var err error
				if killed[i], err = s.killDuring(t, op, n, kind, stages[i%len(stages)], i%2 == 1); err != nil {
					t.Error(err)
				}
				<-workers
			})
		}
		group.Wait()
		more = slices.Contains(killed, true)
	}
	s.settle(t)
	s.check(t)
}

// killDuring starts a function and kills it during an operation. If again is set, the client repeats the operation.
// killDuring returns false if the operation has fewer than n commands of the kind.
func (s *system) killDuring(t *testing.T, op *operation, n int, kind func(string) bool, stage moment, again bool) (bool, error) {
	f, err := s.newFaulty(t, op.function)
	if err != nil {
		return false, err
	}
	defer f.kill()
	a, err := s.newAttempt(t.Context(), op, fmt.Sprintf("command %d, %v", n, stage))
	if err != nil {
		return false, err
	}
	a.log = f.log
	f.begin(a, nil, 0)
	var at moment
	when := nthCommand(n, kind, stage)
	f.arm(func(m moment) bool { at = m; return when(m) }, f.kill)
	op.act(t.Context(), s, a, f.url)
	killed := f.disarm()
	f.end()
	if !killed {
		return false, nil
	}
	a.failed, a.fails = true, fmt.Sprintf("killed at command %d: %v", n, at)
	f.wire.serving.Wait() // the store can execute the function's last command after the function was killed
	if again {
		a.fails += ", repeated"
		a.repeat(t.Context(), s)
	}
	return true, nil
}

// TestSweepKilled proves that killing sweep with SIGKILL at any write command of its work loses no accepted file and
// leaves nothing behind: while it publishes events again, finishes deletions, and discards or finishes uploads.
func TestSweepKilled(t *testing.T) {
	for _, c := range []struct {
		name string
		op   *operation
	}{
		{"lost events", catalogEntry}, {"deletions", deletion}, {"uploads", keyedUpload}, {"resumable uploads", resumableUpload},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystem(t)
			if err := s.interrupt(t, c.op, 4*killRounds); err != nil {
				t.Fatal(err)
			}
			time.Sleep(killGrace + 200*time.Millisecond)
			kills := 0
			for i, done := 0, false; !done && i < 6*killRounds; i++ {
				killed, err := s.killSweep(t, 1+i/len(stages), stages[i%len(stages)])
				if err != nil {
					t.Fatal(err)
				}
				if done = !killed; killed {
					kills++
				}
			}
			if kills < killRounds {
				t.Errorf("sweep was killed %d times, want at least %d times", kills, killRounds)
			}
			t.Logf("sweep was killed %d times", kills)
			s.settle(t)
			s.check(t)
		})
	}
}

// interrupt runs attempts of an operation during which the database becomes unavailable: before the first write command,
// before the second, and so on.
func (s *system) interrupt(t *testing.T, op *operation, attempts int) error {
	f, err := s.newFaulty(t, op.function)
	if err != nil {
		return err
	}
	writes, _, err := f.try(t.Context(), s, op, nil, 0, false)
	if err != nil {
		return err
	}
	blackout := &fault{name: "unavailable from then on", lost: true, times: 1 << 30, all: true}
	var group sync.WaitGroup
	errs := make([]error, killWorkers)
	for i := range killWorkers {
		group.Go(func() {
			f, err := s.newFaulty(t, op.function)
			for j := i; j < attempts && err == nil; j += killWorkers {
				_, _, err = f.try(t.Context(), s, op, blackout, 1+j%writes, false)
			}
			errs[i] = err
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// killSweep runs a sweep that is killed at a stage of its nth write command. It returns false if the sweep has ended
// before that command.
func (s *system) killSweep(t *testing.T, n int, stage moment) (killed bool, err error) {
	f, err := s.newFaulty(t, "sweep")
	if err != nil {
		return false, err
	}
	defer f.kill()
	f.arm(nthCommand(n, isWrite, stage), f.kill)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, nil)
	if err != nil {
		return false, err
	}
	response, err := attemptClient.Do(request)
	if err == nil {
		err = response.Body.Close()
	}
	if f.disarm() {
		return true, nil // the response, or its absence, does not matter
	}
	return false, err
}
