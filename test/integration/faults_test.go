package integration

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// fault describes what a proxy in front of MongoDB does with a write command.
type fault struct {
	name string
	// lost is set if the proxy closes the connection before it forwards the command.
	lost bool
	// silent is set if the proxy closes the connection instead of forwarding the reply.
	silent bool
	// early and late are set if the proxy forwards the command or the reply only after the time limit of the client.
	early, late bool
	// twice is set if the server receives the command twice. The client gets the second reply.
	twice bool
	// skipped is set if the server does not receive the command, although the client gets a reply.
	skipped bool
	// reply returns the document of the reply. It is nil if the client gets the server's reply, which is real.
	reply func(what string, real bson.D) bson.D
	// times is the number of commands to which the fault applies. They have the same name and collection, unless all is
	// set. The default is 1.
	times int
	all   bool
	// fits reports whether a server can respond to a command in this way. It can be nil.
	fits func(what string) bool
}

// slow reports whether an attempt with the fault takes as long as the time limit of the client.
func (f *fault) slow() bool { return f.early || f.late }

// slowness returns a duration that is longer than the time limit of the functions for a command.
func slowness(what string) time.Duration {
	const margin = 500 * time.Millisecond
	switch what {
	case "delete fs.chunks", "delete uploads.journal", "update uploads.journal", "update uploads.claims":
		return 20*time.Second + margin
	case "insert fs.chunks", "update fs.chunks", "insert uploads.journal":
		return 10*time.Second + margin
	}
	return 5*time.Second + margin
}

// isWrite reports whether a command writes.
func isWrite(what string) bool {
	name, _, _ := strings.Cut(what, " ")
	return name == "insert" || name == "update" || name == "delete" || name == "findAndModify"
}

// faultGroups returns all faults, by the name of their group. Each group has a system of its own, because FerretDB
// becomes slow with many documents.
func faultGroups() map[string][]*fault {
	return map[string][]*fault{
		"connections": {
			{name: "late reply", late: true},
			{name: "late execution", early: true},
			{name: "no reply", silent: true},
			{name: "three replies missing", silent: true, times: 3},
			{name: "lost", lost: true},
			{name: "lost three times", lost: true, times: 3},
			{name: "executed twice", twice: true},
		},
		"errors after execution":      errorFaults(false),
		"errors instead of execution": errorFaults(true),
	}
}

// errorFaults returns the faults in which the client gets an error. If skipped is set, the server does not execute the
// command.
func errorFaults(skipped bool) []*fault {
	found := []*fault{
		{name: "duplicate key without a majority", reply: duplicateKey,
			fits: func(what string) bool { return !strings.HasPrefix(what, "delete ") }},
		{name: "error 11600 three times", reply: commandError(11600), times: 3},
	}
	for _, code := range []int32{50, 64, 91, 11601} {
		found = append(found, &fault{name: fmt.Sprintf("write concern error %d", code), reply: writeConcernError(code),
			// Without the execution, the proxy does not know the document in the reply.
			fits: func(what string) bool { return !skipped || !strings.HasPrefix(what, "findAndModify ") }})
	}
	for _, code := range []int32{11600, 11602, 10107, 189, 91, 112, 50, 6, 1} {
		found = append(found, &fault{name: fmt.Sprintf("error %d", code), reply: commandError(code)})
	}
	for _, f := range found {
		if f.skipped = skipped; skipped {
			f.name += ", not executed"
		} else {
			f.name += ", executed"
		}
	}
	return found
}

// faultSet selects faults.
type faultSet func(f *fault) bool

func everyFault(*fault) bool { return true }

func noFault(*fault) bool { return false }

// mostFaults selects all faults, but not all error codes.
func mostFaults(f *fault) bool {
	name, _, isError := strings.Cut(f.name, ",")
	switch name {
	case "duplicate key without a majority", "error 11600 three times", "write concern error 64", "write concern error 11601",
		"error 11600", "error 112", "error 1":
		return true
	}
	return !isError
}

// lostReply selects a broken connection after the execution.
func lostReply(f *fault) bool { return f.name == "no reply" }

// someFaults selects one fault of each kind.
func someFaults(f *fault) bool {
	switch f.name {
	case "no reply", "three replies missing", "lost", "lost three times", "error 11600, not executed",
		"duplicate key without a majority, not executed", "write concern error 64, executed":
		return true
	}
	return false
}

// failure returns the members of an error in a reply.
func failure(code int32) bson.D {
	return bson.D{{Key: "code", Value: code}, {Key: "codeName", Value: fmt.Sprintf("Code%d", code)},
		{Key: "errmsg", Value: "the test simulates an error"}}
}

// commandError returns the reply to a command that failed.
func commandError(code int32) func(string, bson.D) bson.D {
	return func(string, bson.D) bson.D { return append(failure(code), bson.E{Key: "ok", Value: 0.0}) }
}

// writeConcernError returns the reply to a command that the server has executed, but not replicated.
func writeConcernError(code int32) func(string, bson.D) bson.D {
	return func(what string, real bson.D) bson.D {
		if real == nil {
			if real = written; strings.HasPrefix(what, "update ") {
				real = append(bson.D{{Key: "nModified", Value: int32(1)}}, written...)
			}
		}
		return append(real[:len(real):len(real)], bson.E{Key: "writeConcernError", Value: failure(code)})
	}
}

// written is the reply to a command that wrote or deleted one document.
var written = bson.D{{Key: "n", Value: int32(1)}, {Key: "ok", Value: 1.0}}

// duplicateKey returns the reply of a primary that steps down while it waits until a majority has the document with the
// duplicate key, as in MongoDB's test jstests/replsets/noop_writes_wait_for_write_concern.js.
func duplicateKey(what string, _ bson.D) bson.D {
	const code, message = int32(11000), "E11000 duplicate key error"
	stepDown := bson.E{Key: "writeConcernError", Value: failure(189)}
	if strings.HasPrefix(what, "findAndModify ") {
		return bson.D{{Key: "ok", Value: 0.0}, {Key: "code", Value: code}, {Key: "errmsg", Value: message}, stepDown}
	}
	duplicate := bson.D{{Key: "index", Value: int32(0)}, {Key: "code", Value: code}, {Key: "errmsg", Value: message}}
	return bson.D{{Key: "ok", Value: 1.0}, {Key: "n", Value: int32(0)}, {Key: "writeErrors", Value: bson.A{duplicate}}, stepDown}
}

// injector provides parsers for a proxy in front of MongoDB (see wire). They apply a fault to the nth write command of
// an attempt. Only one attempt can use the proxy at a time.
type injector struct {
	wire    *wire // is set by through
	mu      sync.Mutex
	attempt *attempt // nil if no attempt is in progress
	fault   *fault   // nil if the attempt has no fault
	n       int
	writes  int    // the number of write commands in the attempt
	what    string // the command to which the fault was applied
	left    int    // the number of further commands to which the fault applies
}

// through starts a proxy with the injector's parsers and returns uri with the proxy's address.
func (in *injector) through(t *testing.T, uri string, watch func(moment) (cut bool)) string {
	t.Helper()
	in.wire = newWire(t, host(t, uri), in.open, watch)
	return in.wire.through(t, uri)
}

// begin begins an attempt, whose nth write command gets the fault.
func (in *injector) begin(a *attempt, f *fault, n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.attempt, in.fault, in.n, in.writes, in.what, in.left = a, f, n, 0, "", 0
}

// end ends an attempt. It returns the number of write commands, and the command to which the fault was applied. what is
// empty if the attempt had fewer than n write commands.
func (in *injector) end() (writes int, what string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.attempt, in.fault = nil, nil
	return in.writes, in.what
}

// next returns the fault for the next command, or nil.
func (in *injector) next(message []byte, what string) *fault {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.attempt == nil || !isWrite(what) {
		return nil
	}
	in.attempt.note(message)
	in.writes++
	f := in.fault
	switch {
	case f == nil:
	case in.writes == in.n:
		in.what, in.left = what, max(f.times, 1)-1
		if f.fits != nil && !f.fits(what) {
			in.left = 0
			return nil
		}
		in.attempt.failed = true
		return f
	case in.what != "" && in.left > 0 && (f.all || what == in.what):
		in.left--
		return f
	}
	return nil
}

// errInjected ends a connection.
var errInjected = errors.New("the test closes the connection")

// open returns the parsers for a new connection.
func (in *injector) open() (fromClient, fromServer parser) {
	client, server := mongoMessages()
	var mu sync.Mutex
	pending := map[uint32]*fault{} // the faults of the commands without a reply, by request ID
	fromClient = func(r *bufio.Reader) ([]byte, string, error) {
		message, what, err := client(r)
		if err != nil {
			return nil, "", err
		}
		f := in.next(message, what)
		if f == nil {
			return message, what, nil
		}
		id := binary.LittleEndian.Uint32(message[4:])
		mu.Lock()
		pending[id] = f
		mu.Unlock()
		switch {
		case f.lost:
			return nil, "", errInjected
		case f.early:
			time.Sleep(slowness(what))
		case f.skipped:
			message, err = mongoMessage(id, 0, bson.D{{Key: "ping", Value: int32(1)}, {Key: "$db", Value: "admin"}})
		case f.twice:
			message = append(message, message...)
		}
		return message, what, err
	}
	fromServer = func(r *bufio.Reader) ([]byte, string, error) {
		message, what, err := server(r)
		if err != nil {
			return nil, "", err
		}
		id := binary.LittleEndian.Uint32(message[8:])
		mu.Lock()
		f := pending[id]
		delete(pending, id)
		mu.Unlock()
		if f == nil {
			return message, what, nil
		}
		switch {
		case f.silent:
			return nil, "", errInjected
		case f.late:
			time.Sleep(slowness(what))
		case f.twice:
			message, _, err = server(r)
		case f.reply != nil:
			var real bson.D
			if !f.skipped {
				if err := bson.Unmarshal(message[messageHeader:], &real); err != nil {
					return nil, "", err
				}
			}
			message, err = mongoMessage(0, id, f.reply(what, real))
		}
		return message, what, err
	}
	return fromClient, fromServer
}

// messageHeader is the number of bytes in an OP_MSG message before its document: the header, the flags, and the kind of
// the section.
const messageHeader = 16 + 4 + 1

// mongoMessage returns an OP_MSG message.
func mongoMessage(id, to uint32, document bson.D) ([]byte, error) {
	body, err := bson.Marshal(document)
	message := append(make([]byte, messageHeader), body...)
	for i, n := range []uint32{uint32(len(message)), id, to, opMsg} {
		binary.LittleEndian.PutUint32(message[4*i:], n)
	}
	return message, err
}

// faulty is a function behind a proxy that applies faults.
type faulty struct {
	victim
	injector
}

// newFaulty starts a function of the system behind a proxy.
func (s *system) newFaulty(t *testing.T, function string) (*faulty, error) {
	f := &faulty{}
	return f, f.start(t, function, append([]string{"MONGODB_URI=" + f.through(t, s.uri, f.watch)}, s.settings[function]...)...)
}

// try runs an attempt. Its nth write command gets the given fault, which can be nil. If again is set, the client repeats
// the operation. The results are those of injector.end.
func (f *faulty) try(
	ctx context.Context, s *system, op *operation, bad *fault, n int, again bool,
) (writes int, what string, err error) {
	a, err := s.newAttempt(ctx, op, "no fault")
	if err != nil {
		return 0, "", err
	}
	a.log, a.isTwice = f.log, bad != nil && bad.twice
	f.begin(a, bad, n)
	op.act(ctx, s, a, f.url)
	if writes, what = f.end(); what != "" {
		a.fails = fmt.Sprintf("write %d (%s): %s", n, what, bad.name)
	}
	if again && what != "" {
		a.fails += ", repeated"
		a.repeat(ctx, s)
	}
	return writes, what, nil
}

const (
	// maxWrites is an upper limit for the number of write commands in an attempt.
	maxWrites = 60
	// faultWorkers is the number of functions with faults per system.
	faultWorkers = 8
	// faultSystems is the number of systems that run at the same time.
	faultSystems = 5
)

// TestStoreFaults proves that a failure of MongoDB during any write command loses no accepted file, mixes no files up,
// leaves no data of refused files behind, and does not bring a deleted file back. Each attempt of an operation has one
// fault. Afterward, sweep completes the interrupted work.
func TestStoreFaults(t *testing.T) {
	var group sync.WaitGroup
	slots := make(chan struct{}, faultSystems)
	for _, c := range []struct {
		op *operation
		// once selects the faults after which the client does nothing. repeated selects the faults after which the client
		// repeats the operation.
		once, repeated faultSet
	}{
		{resumableUpload, mostFaults, someFaults},
		{deletion, mostFaults, someFaults},
		{keyedUpload, mostFaults, mostFaults},
		{plainUpload, everyFault, noFault},
		{catalogEntry, everyFault, mostFaults},
		{earlyDeletion, someFaults, noFault},
		// These operations have few faults, because FerretDB is slow with large files.
		{largeUpload, lostReply, noFault},
		{largeResumable, noFault, lostReply},
	} {
		for name, faults := range faultGroups() {
			if !slices.ContainsFunc(faults, func(f *fault) bool { return c.once(f) || c.repeated(f) }) {
				continue
			}
			slots <- struct{}{}
			group.Go(func() {
				t.Run(c.op.name+"/"+name, func(t *testing.T) { testFaults(t, c.op, faults, c.once, c.repeated) })
				<-slots
			})
		}
	}
	group.Wait()
}

// testFaults applies faults to each write command of an operation.
func testFaults(t *testing.T, op *operation, faults []*fault, once, repeated faultSet) {
	s := newSystem(t)
	workers := make(chan *faulty, faultWorkers)
	for range faultWorkers {
		f, err := s.newFaulty(t, op.function)
		if err != nil {
			t.Fatal(err)
		}
		workers <- f
	}
	f := <-workers
	writes, _, err := f.try(t.Context(), s, op, nil, 0, false)
	workers <- f
	if err != nil || writes == 0 {
		t.Fatalf("attempt without a fault: got %d write commands and error %v, want write commands and no error", writes, err)
	}
	// Each job uses one function. An attempt with a slow fault is a job of its own, and these jobs begin first.
	var slow, fast []func(f *faulty) error
	for _, fault := range faults {
		for _, again := range []bool{false, true} {
			switch {
			case !again && !once(fault) || again && !repeated(fault):
			case fault.slow():
				for n := 1; n <= writes; n++ {
					slow = append(slow, func(f *faulty) error {
						_, _, err := f.try(t.Context(), s, op, fault, n, again)
						return err
					})
				}
			default:
				fast = append(fast, func(f *faulty) error {
					for n := 1; n < maxWrites; n++ {
						if _, what, err := f.try(t.Context(), s, op, fault, n, again); err != nil || what == "" {
							return err
						}
					}
					return fmt.Errorf("%s: got at least %d write commands", op.name, maxWrites)
				})
			}
		}
	}
	var group sync.WaitGroup
	for _, job := range append(slow, fast...) {
		f := <-workers
		group.Go(func() {
			if err := job(f); err != nil {
				t.Error(err)
			}
			workers <- f
		})
	}
	group.Wait()
	s.settle(t)
	s.check(t)
}
