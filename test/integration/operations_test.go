package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// The tests of failing stores (TestStoreFaults), killed functions and frozen functions (TestFrozenWriter) have the same
// steps. They run many attempts of an operation while the function fails, let sweep complete the interrupted work, and
// then check the same rules: see system.settle and system.check.

// system is a set of functions with a database of their own. All of its functions are connected directly to the
// database. Events go to record over HTTP.
type system struct {
	uri      string
	db       *mongo.Database
	bearer   string
	settings map[string][]string // the settings of each function, except MONGODB_URI
	// The URLs of the functions. The events of losing are lost, so its files have notes but no catalog entries.
	upload, files, record, sweep, losing string
	sweepLog                             string // the path of the log of sweep

	mu       sync.Mutex
	attempts []*attempt
}

// newSystem starts a system.
func newSystem(t *testing.T) *system {
	t.Helper()
	s := &system{uri: servertest.MongoDB(t).NewDatabase(t)}
	s.db = servertest.Database(t, s.uri)
	if err := errors.Join(ensure(t, s.uri), openCatalog(t, s.uri).EnsureIndexes(t.Context())); err != nil {
		t.Fatal(err)
	}
	signer, keys := newTokenKeys(t)
	_, s.bearer, _ = strings.Cut(bearerOf(t, signer, "0190-ada", "ada", token.RoleUser), ": ")
	linkKey := filepath.Join(t.TempDir(), "link-key")
	if err := os.WriteFile(linkKey, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	verifier := []string{"TOKEN_KEYS_FILE=" + keys, "TOKEN_ISSUER=strongroom", "TOKEN_AUDIENCE=strongroom"}
	s.settings = map[string][]string{"files": append([]string{"LINK_KEY_FILE=" + linkKey, "ACCOUNTS_URL=http://127.0.0.1:1"}, verifier...)}
	s.record, _ = s.run(t, "record")
	s.settings["upload"] = append([]string{"EVENTS_URL=" + s.record}, verifier...)
	grace := killGrace.String()
	s.settings["sweep"] = []string{"EVENTS_URL=" + s.record, "PENDING_GRACE=" + grace, "ORPHAN_GRACE=" + grace}
	s.upload, _ = s.run(t, "upload")
	s.files, _ = s.run(t, "files")
	s.sweep, s.sweepLog = s.run(t, "sweep")

	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent) // accepts each event, but does nothing
	}))
	t.Cleanup(sink.Close)
	s.settings["upload"] = append([]string{"EVENTS_URL=" + sink.URL}, verifier...)
	s.losing, _ = s.run(t, "upload")
	return s
}

// run runs a function of the system until the test ends. It returns the URL and the path of the log.
func (s *system) run(t *testing.T, function string) (url, log string) {
	t.Helper()
	v := &victim{}
	if err := v.start(t, function, append([]string{"MONGODB_URI=" + s.uri}, s.settings[function]...)...); err != nil {
		t.Fatal(err)
	}
	return v.url, v.log
}

// outcome is what a client knows after an attempt.
type outcome string

const (
	unknown  outcome = "unknown" // no response, or a response with a status of 500 or higher
	refused  outcome = "refused"
	accepted outcome = "accepted"
)

// attempt is one attempt of an operation. An attempt and its file have the same unique name.
type attempt struct {
	op    *operation
	name  string
	fails string // describes when and how the function fails
	body  []byte

	id      string // the ID of the file, if the client knows it
	upload  string // the ID of the resumable upload, if the client knows it
	event   []byte // the event of the file that prepare stored
	outcome outcome
	// failed is set if the function failed during the attempt. If it is not set, the operation must be accepted.
	failed bool
	// isTwice is set if the server executed a command twice. MongoDB recognizes a command that the driver repeats, so a
	// function does not have to handle the duplicate key error of the second execution.
	isTwice bool
	// repeated is set if the client repeated the operation until it was accepted.
	repeated bool
	// gone is set if a client was told that the file does not exist any longer.
	gone bool
	seen []string // the requests and their responses
	// offset is the number of bytes of the resumable upload that were accepted.
	offset int
	wrong  []string // descriptions of responses that are always wrong, such as a 500, or a 404 for accepted data

	log string // the path of the log of the function that fails
	mu  sync.Mutex
	ids map[string]bool // the IDs of files and uploads in the commands to the database
}

// operation is an operation whose steps the tests interrupt.
type operation struct {
	name string
	// function is the function that fails.
	function string
	size     int // the size of the file
	// resumable is set if the operation is a resumable upload.
	resumable bool
	// deletes is set if the operation deletes the file.
	deletes bool
	// prepare does what must be done before the operation, while no function fails. It can be nil.
	prepare func(ctx context.Context, s *system, a *attempt) error
	// act sends the requests of the operation to the URL of the function that fails.
	act func(ctx context.Context, s *system, a *attempt, url string)
	// again does what a client does if it does not know the outcome of the operation. It uses a function that does not
	// fail, and calls accept or sets gone if it succeeds. It is nil if a client cannot repeat the operation.
	again func(ctx context.Context, s *system, a *attempt)
}

var (
	plainUpload = &operation{name: "upload", function: "upload", size: 20, act: post}
	// The file has three chunks.
	largeUpload = &operation{name: "upload of three chunks", function: "upload", size: 2*mebi + 1, act: post}
	keyedUpload = &operation{name: "upload with a key", function: "upload", size: 20, act: postWithKey,
		again: func(ctx context.Context, s *system, a *attempt) {
			until(func() bool { postWithKey(ctx, s, a, s.upload); return a.outcome == accepted })
		}}
	resumableUpload = &operation{name: "resumable upload", function: "upload", size: 20, resumable: true,
		act: uploadParts, again: resume}
	// The file has three chunks. The first part ends in the second chunk.
	largeResumable = &operation{name: "resumable upload of three chunks", function: "upload", size: 2*mebi + 1, resumable: true,
		act: uploadParts, again: resume}
	deletion = &operation{name: "deletion", function: "files", size: 20, deletes: true, act: deleteFile, again: deleteAgain,
		prepare: func(ctx context.Context, s *system, a *attempt) error {
			post(ctx, s, a, s.upload)
			return s.prepared(ctx, a)
		}}
	// The file was a resumable upload, and its event was lost.
	earlyDeletion = &operation{name: "deletion before the event", function: "files", size: 20, deletes: true,
		act: deleteFile, again: deleteAgain,
		prepare: func(ctx context.Context, s *system, a *attempt) error {
			uploadParts(ctx, s, a, s.losing)
			return s.prepared(ctx, a)
		}}
	// An event source delivers the event again if record does not accept it.
	catalogEntry = &operation{name: "catalog entry", function: "record", size: 20, act: deliver,
		again: func(ctx context.Context, s *system, a *attempt) {
			until(func() bool { deliver(ctx, s, a, s.record); return a.outcome == accepted })
		},
		prepare: func(ctx context.Context, s *system, a *attempt) error {
			post(ctx, s, a, s.losing)
			return s.prepared(ctx, a)
		}}
)

// until calls try until it returns true, but at most ten times.
func until(try func() bool) {
	for range 10 {
		if try() {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// attemptCount numbers the attempts of all systems.
var attemptCount atomic.Int64

// newAttempt prepares an attempt.
func (s *system) newAttempt(ctx context.Context, op *operation, fails string) (*attempt, error) {
	name := fmt.Sprintf("a%d.txt", attemptCount.Add(1))
	a := &attempt{op: op, name: name, fails: fails, body: make([]byte, op.size), ids: map[string]bool{}}
	copy(a.body, name) // each file has different bytes
	s.mu.Lock()
	s.attempts = append(s.attempts, a)
	s.mu.Unlock()
	if op.prepare == nil {
		return a, nil
	}
	err := op.prepare(ctx, s, a)
	if err != nil {
		err = fmt.Errorf("prepare %s: %w", a, err)
	}
	a.outcome, a.failed, a.seen = "", false, nil
	return a, err
}

// prepared returns an error if no file was stored. It reads the event of the file.
func (s *system) prepared(ctx context.Context, a *attempt) error {
	if a.outcome != accepted {
		return fmt.Errorf("got the outcome %q, want %q", a.outcome, accepted)
	}
	var file struct {
		Metadata struct {
			Event string `bson:"event"`
		} `bson:"metadata"`
	}
	err := s.db.Collection("fs.files").FindOne(ctx, bson.D{{Key: "_id", Value: a.id}}).Decode(&file)
	if a.event = []byte(file.Metadata.Event); err == nil && len(a.event) == 0 {
		err = fmt.Errorf("the document of file %s has no event", a.id)
	}
	return err
}

// String returns a description for messages.
func (a *attempt) String() string { return a.op.name + ", " + a.fails + " (" + a.name + ")" }

// note records the IDs in a command to the database. It ignores commands that contain the IDs of other attempts: a new
// version of the user's usage, and a search for several IDs.
func (a *attempt) note(command []byte) {
	if bytes.Contains(command, []byte("reservations")) || bytes.Contains(command, []byte("$in")) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range fileIDs.FindAll(command, -1) {
		a.ids[string(id)] = true
	}
}

// fileIDs matches the IDs of files and uploads.
var fileIDs = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

// known returns all IDs of files and uploads that the attempt has used.
func (a *attempt) known() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := slices.Sorted(maps.Keys(a.ids))
	if a.id != "" && !a.ids[a.id] {
		ids = append(ids, a.id)
	}
	return ids
}

// accept records that the operation was accepted for the file with the given ID.
func (a *attempt) accept(id string) { a.id, a.outcome = id, accepted }

// aside calls do. Its requests do not change the outcome of the attempt.
func (a *attempt) aside(do func()) {
	seen, known := a.seen, a.outcome
	do()
	a.seen, a.outcome = seen, known
}

// repeat repeats the operation.
func (a *attempt) repeat(ctx context.Context, s *system) {
	a.repeated = true
	a.op.again(ctx, s, a)
}

// response is the response to a request. If there is no response, the status is 0.
type response struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request. It records the request and the outcome in the attempt. A response with a status below 300 does
// not change the outcome, because an operation can consist of several requests. headers contains alternating names and
// values.
func (s *system) do(ctx context.Context, a *attempt, method, url string, body []byte, headers ...string) response {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		a.seen = append(a.seen, err.Error())
		return response{}
	}
	request.Header.Set("Authorization", s.bearer)
	request.Header.Set("X-Request-Id", a.name)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	var r response
	answer, err := attemptClient.Do(request)
	if err == nil {
		defer answer.Body.Close()
		r.header = answer.Header
		if r.body, err = io.ReadAll(answer.Body); err == nil {
			r.status = answer.StatusCode
		}
	}
	what := strconv.Itoa(r.status)
	if err != nil {
		what = "no response"
	}
	a.seen = append(a.seen, method+" "+request.URL.Path+": "+what)
	switch {
	case r.status == 0 || r.status >= 500:
		a.outcome = unknown
	case r.status >= 300:
		a.outcome = refused
	}
	if after := r.header.Get("Retry-After"); r.status >= 500 && !a.isTwice && (r.status != http.StatusServiceUnavailable || after == "") {
		a.wrong = append(a.wrong, fmt.Sprintf("got status %d with Retry-After %q, want 503 with Retry-After", r.status, after))
	}
	return r
}

// attemptClient does not reuse connections, because it would repeat requests on broken ones.
var attemptClient = &http.Client{Timeout: 90 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// post uploads the file in one request.
func post(ctx context.Context, s *system, a *attempt, url string) { s.post(ctx, a, url) }

// postWithKey uploads the file in one request with an idempotency key.
func postWithKey(ctx context.Context, s *system, a *attempt, url string) {
	s.post(ctx, a, url, "Idempotency-Key", `"`+a.name+`"`)
}

func (s *system) post(ctx context.Context, a *attempt, url string, headers ...string) {
	r := s.do(ctx, a, http.MethodPost, url+"/upload?name="+a.name, a.body, append(headers, "Content-Type", "text/plain")...)
	if r.status != http.StatusAccepted {
		return
	}
	var stored struct{ ID, SHA256 string }
	if err := json.Unmarshal(r.body, &stored); err != nil || stored.SHA256 != servertest.SHA256(a.body) {
		a.outcome = unknown
		a.seen = append(a.seen, fmt.Sprintf("invalid response %q", r.body))
		return
	}
	a.accept(stored.ID)
}

// createUpload creates a resumable upload. It returns true if it was created.
func (s *system) createUpload(ctx context.Context, a *attempt, url string) bool {
	encode := func(value string) string { return base64.StdEncoding.EncodeToString([]byte(value)) }
	r := s.do(ctx, a, http.MethodPost, url+"/upload/tus/", nil, "Tus-Resumable", "1.0.0", "Upload-Length", strconv.Itoa(len(a.body)),
		"Upload-Metadata", "filename "+encode(a.name)+",filetype "+encode("text/plain"))
	if r.status != http.StatusCreated {
		return false
	}
	a.upload, a.offset = path.Base(r.header.Get("Location")), 0
	return true
}

// appendPart sends the next part of a resumable upload. An upload has two parts. appendPart returns true if all bytes
// of the part were accepted.
func (s *system) appendPart(ctx context.Context, a *attempt, url string, offset int) bool {
	end := len(a.body)
	if first := end * 3 / 5; offset < first {
		end = first
	}
	r := s.do(ctx, a, http.MethodPatch, url+"/upload/tus/"+a.upload, a.body[offset:end], "Tus-Resumable", "1.0.0",
		"Content-Type", "application/offset+octet-stream", "Upload-Offset", strconv.Itoa(offset))
	if r.status != http.StatusNoContent || r.header.Get("Upload-Offset") != strconv.Itoa(end) {
		return false
	}
	if a.offset = end; end == len(a.body) {
		a.accept(a.upload)
	}
	return true
}

// uploadParts creates a resumable upload and sends both parts. It stops after a failed request.
func uploadParts(ctx context.Context, s *system, a *attempt, url string) {
	if s.createUpload(ctx, a, url) && s.appendPart(ctx, a, url, 0) {
		s.appendPart(ctx, a, url, len(a.body)*3/5)
	}
}

// resume continues a resumable upload from its offset until it is complete, as a tus client does. If the upload does
// not exist, resume creates it.
func resume(ctx context.Context, s *system, a *attempt) {
	until(func() bool {
		if a.outcome == accepted || a.upload == "" && !s.createUpload(ctx, a, s.upload) {
			return a.outcome == accepted
		}
		for range 3 {
			r := s.do(ctx, a, http.MethodHead, s.upload+"/upload/tus/"+a.upload, nil, "Tus-Resumable", "1.0.0")
			offset, err := strconv.Atoi(r.header.Get("Upload-Offset"))
			switch {
			case r.status == http.StatusNotFound || r.status == http.StatusGone:
				a.wrong = append(a.wrong, "the resumable upload "+a.upload+" does not exist any longer")
				a.upload = ""
				return false
			case err == nil && offset < a.offset:
				a.wrong = append(a.wrong, fmt.Sprintf("got the offset %d, want at least %d, which was accepted", offset, a.offset))
				return false
			case r.status != http.StatusOK || err != nil:
				return false
			case offset == len(a.body):
				a.accept(a.upload)
				return true
			}
			s.appendPart(ctx, a, s.upload, offset)
		}
		return false
	})
}

// deleteFile deletes the file. Then it checks whether the file still exists.
func deleteFile(ctx context.Context, s *system, a *attempt, url string) {
	r := s.do(ctx, a, http.MethodDelete, url+"/files/"+a.id, nil)
	if r.status == http.StatusNoContent {
		a.accept(a.id)
	}
	a.aside(func() {
		a.gone = s.do(ctx, a, http.MethodGet, s.files+"/files/"+a.id, nil).status == http.StatusNotFound
	})
}

// deleteAgain deletes the file until it is gone.
func deleteAgain(ctx context.Context, s *system, a *attempt) {
	a.aside(func() {
		until(func() bool {
			r := s.do(ctx, a, http.MethodDelete, s.files+"/files/"+a.id, nil)
			a.gone = a.gone || r.status == http.StatusNoContent || r.status == http.StatusNotFound
			return a.gone
		})
	})
}

// deliver delivers the event of the file, as an event source does.
func deliver(ctx context.Context, s *system, a *attempt, url string) {
	r := s.do(ctx, a, http.MethodPost, url, a.event, "Content-Type", "application/cloudevents+json")
	if r.status/100 == 2 {
		a.accept(a.id)
	}
}

// maxSweeps is the maximum number of sweeps that complete all interrupted work. The first sweep can find resumable
// uploads whose files the second sweep announces. The clients then terminate their uploads, which later sweeps discard.
const maxSweeps = 6

// settle runs sweep until no work is left, but at most maxSweeps times. After the first sweep, it terminates the
// resumable uploads that clients abandoned. In the end, it delivers the events of deleted files again.
func (s *system) settle(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	for n := range maxSweeps {
		time.Sleep(killGrace + 200*time.Millisecond)
		if status, counts := postSweep(t, s.sweep); status != http.StatusOK {
			t.Errorf("sweep %d: got %d %+v, want 200\n%s", n+1, status, counts, logLines(s.sweepLog, `"WARN"`))
		}
		state := s.read(t)
		if len(state.Unfinished()) == 0 {
			break
		}
		for _, a := range s.attempts {
			for _, id := range a.known() {
				if n == 0 && a.op.resumable && state.Notes[id] && id != a.id {
					a.aside(func() {
						s.do(ctx, a, http.MethodDelete, s.upload+"/upload/tus/"+id, nil, "Tus-Resumable", "1.0.0")
					})
				}
			}
		}
	}
	state := s.read(t)
	for _, a := range s.attempts {
		if _, ok := state.Files[a.id]; a.event != nil && !ok {
			a.aside(func() { deliver(ctx, s, a, s.record) })
		}
	}
}

// read reads the state of the database.
func (s *system) read(t *testing.T) servertest.StoreState {
	t.Helper()
	state, err := servertest.ReadStore(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// maxReported is the maximum number of attempts for which check reports errors.
const maxReported = 30

// check checks all attempts. An accepted file has its bytes and one catalog entry. An operation without a response, or
// a refused one, has left either a complete file or nothing. A deleted file is not visible in any way. It reports an
// error for each attempt that violates these rules, and for each violation that belongs to no attempt.
func (s *system) check(t *testing.T) {
	t.Helper()
	state, listed := s.read(t), s.list(t)
	owners := map[string]*attempt{}
	for _, a := range s.attempts {
		for _, id := range a.known() {
			owners[id] = a
		}
	}
	problems := map[*attempt][]string{}
	violations := append(state.Violations(), state.Unfinished()...)
	for id := range state.Entries {
		if !listed[id] {
			violations = append(violations, servertest.Violation{ID: id, What: "the file is in the catalog, but not in the list"})
		}
	}
	for _, v := range violations {
		a := owners[v.ID]
		if a == nil {
			t.Error(v)
			continue
		}
		problems[a] = append(problems[a], v.String())
	}
	outcomes := map[outcome]int{}
	reported := 0
	for _, a := range s.attempts {
		outcomes[a.outcome]++
		found := append(problems[a], a.check(t.Context(), s, state, listed)...)
		if len(found) == 0 {
			continue
		}
		if reported++; reported <= maxReported {
			t.Errorf("%s: after the outcome %q: %s\n\t%s\n%s", a, a.outcome, strings.Join(found, "; "), strings.Join(a.seen, "; "),
				logLines(a.log, `"`+a.name+`"`))
		}
	}
	if reported > maxReported {
		t.Errorf("%d more attempts violate the rules", reported-maxReported)
	}
	t.Logf("%d attempts with the outcomes %v; %d of them violate the rules", len(s.attempts), outcomes, reported)
}

// check returns which rules for the attempt itself are violated.
func (a *attempt) check(ctx context.Context, s *system, state servertest.StoreState, listed map[string]bool) (found []string) {
	found = slices.Clone(a.wrong)
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if !a.failed && a.outcome != accepted {
		add("the operation was not accepted, although the function did not fail")
	}
	var stored []string
	for id, f := range state.Files {
		if f.Name == a.name {
			stored = append(stored, id)
			if want := servertest.SHA256(a.body); f.SHA256 != want {
				add("file %s: got the digest %s, want %s", id, f.SHA256, want)
			}
		}
	}
	deleted := a.gone || a.op.deletes && a.outcome == accepted
	switch {
	case deleted && (len(stored) > 0 || listed[a.id]):
		add("deleted file %s: got stored %t, listed %t, want neither", a.id, len(stored) > 0, listed[a.id])
	case !deleted && !a.op.deletes && a.outcome == accepted && !slices.Equal(stored, []string{a.id}):
		add("accepted file %s: got the stored files %q, want only this file", a.id, stored)
	case len(stored) > 1:
		add("got the stored files %q, want at most one file", stored)
	case a.repeated && a.op.deletes && !a.gone, a.repeated && !a.op.deletes && a.outcome != accepted:
		add("the repeated operation was not accepted")
	}
	want := http.StatusOK
	switch {
	case a.id == "":
		return found
	case deleted, len(stored) == 0:
		want = http.StatusNotFound
	}
	for _, suffix := range []string{"", "/content"} {
		if suffix != "" && len(a.body) > mebi {
			continue // FerretDB takes too long, and the digests of all chunks have been checked
		}
		var r response
		a.aside(func() { r = s.do(ctx, a, http.MethodGet, s.files+"/files/"+a.id+suffix, nil) })
		if r.status != want {
			add("GET /files/%s%s: got %d, want %d", a.id, suffix, r.status, want)
		} else if suffix != "" && want == http.StatusOK && !bytes.Equal(r.body, a.body) {
			add("GET /files/%s/content: got %q, want %q", a.id, r.body, a.body)
		}
	}
	return found
}

// list returns the IDs of all files that the files function lists. A list with a duplicate fails the test.
func (s *system) list(t *testing.T) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for cursor, more := "", true; more; {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.files+"/files?limit=100&cursor="+cursor, nil)
		if err != nil {
			t.Fatal(err)
		}
		if cursor == "" {
			request.URL.RawQuery = "limit=100"
		}
		request.Header.Set("Authorization", s.bearer)
		answer, err := attemptClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			Files []struct{ ID string }
			Next  string
		}
		err = errors.Join(json.NewDecoder(answer.Body).Decode(&page), answer.Body.Close())
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("list the files: got %s (%v), want 200", answer.Status, err)
		}
		for _, f := range page.Files {
			if ids[f.ID] {
				t.Errorf("got file %s twice in the list, want it once", f.ID)
			}
			ids[f.ID] = true
		}
		cursor, more = page.Next, page.Next != "" && len(page.Files) > 0
	}
	return ids
}

// logLines returns the lines in the log of a function that contain the given text, but not more than ten. There is no
// log if path is empty.
func logLines(path, text string) string {
	log, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer log.Close()
	var lines []string
	for scanner := bufio.NewScanner(log); scanner.Scan() && len(lines) < 10; {
		if line := scanner.Text(); strings.Contains(line, text) {
			lines = append(lines, "\t"+line)
		}
	}
	return strings.Join(lines, "\n")
}
