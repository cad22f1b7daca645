// Package contenttest contains an in-memory file store for use in tests. It also contains the tests that this store and
// content.Store must pass.
package contenttest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Memory is an in-memory file store. Its methods behave like the methods of content.Store. It is safe for concurrent
// use.
type Memory struct {
	// Now returns the current time. If Now is nil, the store uses time.Now.
	Now func() time.Time
	// Before is an optional hook. Each method calls the hook with the method's name and with the ID or key that the
	// method received. Put and Append call the hook after they have read all bytes. AppendVerified calls it only
	// through Append. All other methods call it first. If the hook returns an error, the method returns this error and
	// has no effect. If the hook is set, readers also call it for each Read and Close, and return at most one byte per
	// Read.
	Before func(method, id string) error

	mu                    sync.Mutex
	read                  int
	files                 map[string]Stored
	uploads               map[string]*upload // the upload records
	claims                map[string]claim
	deletions, tombstones map[string]time.Time
}

// Stored is a file in a Memory.
type Stored struct {
	content.File
	Bytes, Event []byte
	// Confirmed reports whether Confirm was called for the file.
	Confirmed bool
}

type upload struct {
	content.Upload
	resumable, complete, terminated bool
	bytes                           []byte
}

type claim struct {
	file content.File
	at   time.Time
}

var (
	errNoFile   = problem.NotFound.With("there is no such file")
	errNoUpload = problem.NotFound.With("there is no such upload")
	errTaken    = problem.Conflict.With("the offset is wrong or outdated")
	errComplete = problem.Conflict.With("the upload is complete")
)

// New returns an empty store.
func New() *Memory {
	return &Memory{files: map[string]Stored{}, uploads: map[string]*upload{}, claims: map[string]claim{},
		deletions: map[string]time.Time{}, tombstones: map[string]time.Time{}}
}

// Fail returns a function for Memory.Before. The function returns err for the given methods and nil for all other
// methods.
func Fail(err error, methods ...string) func(method, id string) error {
	return func(method, _ string) error {
		if slices.Contains(methods, method) {
			return err
		}
		return nil
	}
}

// Add stores a file with the given bytes and marks its event as confirmed. Unlike Put, Add keeps all fields of f.
func (m *Memory) Add(f content.File, b string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[f.ID] = Stored{File: f, Bytes: []byte(b)}
}

// Files returns all files, sorted by ID.
func (m *Memory) Files() []Stored {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Stored
	for id, f := range m.files {
		f.Confirmed = m.uploads[id] == nil
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Stored) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// BytesRead returns the number of bytes that Put and Append have read, including bytes that they did not store.
func (m *Memory) BytesRead() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read
}

// begin calls the Before hook, if it is set, and returns any error from the hook. If there is no such error, begin
// returns ctx.Err().
func (m *Memory) begin(ctx context.Context, method, id string) error {
	if m.Before != nil {
		if err := m.Before(method, id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// lock calls begin and, if begin returns no error, locks m.
func (m *Memory) lock(ctx context.Context, method, id string) error {
	err := m.begin(ctx, method, id)
	if err == nil {
		m.mu.Lock()
	}
	return err
}

func (m *Memory) now() time.Time {
	if m.Now != nil {
		return m.Now().UTC().Truncate(time.Millisecond)
	}
	return time.Now().UTC().Truncate(time.Millisecond)
}

// readAll reads r to its end and counts the bytes.
func (m *Memory) readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read += len(b)
	return b, err
}

func (m *Memory) Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) (event []byte, err error)) (_ content.File, err error) {
	f.ID = uuid.Must(uuid.NewV7()).String()
	m.mu.Lock()
	m.uploads[f.ID] = &upload{Upload: content.Upload{ID: f.ID, Owner: f.Owner, Length: f.Size}}
	m.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Discard(context.WithoutCancel(ctx), f.ID))
		}
	}()
	b, err := m.readAll(r)
	if err != nil {
		return content.File{}, err
	}
	// Call Before only after all bytes have been read.
	if err := m.begin(ctx, "Put", f.ID); err != nil {
		return content.File{}, err
	}
	f.Size, f.SHA256, f.StoredAt = int64(len(b)), digest(b), m.now()
	event, err := finish(&f)
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return content.File{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[f.ID] = Stored{File: f, Bytes: b, Event: event}
	return f, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (m *Memory) Get(ctx context.Context, id string) (content.File, error) {
	if err := m.lock(ctx, "Get", id); err != nil {
		return content.File{}, err
	}
	defer m.mu.Unlock()
	f, ok := m.files[id]
	if !ok {
		return content.File{}, errNoFile
	}
	return f.File, nil
}

func (m *Memory) Event(ctx context.Context, id string) ([]byte, error) {
	if err := m.lock(ctx, "Event", id); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	f, ok := m.files[id]
	if !ok {
		return nil, errNoFile
	}
	return f.Event, nil
}

func (m *Memory) IDs(ctx context.Context, after string, limit int) ([]string, error) {
	if err := m.lock(ctx, "IDs", after); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return page(m.files, after, limit, func(string) bool { return true }), nil
}

// page returns up to limit keys of a map, in ascending order. It skips all keys up to and including "after", and all
// keys for which match returns false.
func page[T any](all map[string]T, after string, limit int, match func(key string) bool) []string {
	keys := slices.Sorted(maps.Keys(all))
	keys = slices.DeleteFunc(keys, func(key string) bool { return key <= after || !match(key) })
	return keys[:min(limit, len(keys))]
}

func (m *Memory) Reader(ctx context.Context, f content.File) io.ReadSeekCloser {
	_ = m.begin(ctx, "Reader", f.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	return &reader{bytes.NewReader(m.files[f.ID].Bytes), func(method string) error { return m.begin(ctx, method, f.ID) }, m.Before != nil, false}
}

type reader struct {
	*bytes.Reader
	begin  func(method string) error // calls Memory.Before
	slow   bool                      // if true, Read returns at most one byte
	closed bool
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errors.New("the file reader is closed")
	}
	if err := r.begin("Read"); err != nil {
		return 0, err
	}
	if r.slow {
		p = p[:min(1, len(p))]
	}
	return r.Reader.Read(p)
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.closed = true
	_ = r.begin("Close")
	return nil
}

func (m *Memory) Delete(ctx context.Context, id string) error {
	if err := m.lock(ctx, "Delete", id); err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.files, id)
	delete(m.uploads, id)
	delete(m.deletions, id)
	return nil
}

func (m *Memory) Confirm(ctx context.Context, id string) error {
	if err := m.lock(ctx, "Confirm", id); err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.uploads, id)
	return nil
}

func (m *Memory) Confirmed(ctx context.Context, id string) (bool, error) {
	if err := m.lock(ctx, "Confirmed", id); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	return m.uploads[id] == nil, nil
}

func (m *Memory) Usage(ctx context.Context, owner string) (used int64, err error) {
	if err := m.lock(ctx, "Usage", owner); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for _, f := range m.files {
		if f.Owner == owner {
			used += f.Size
		}
	}
	for id, u := range m.uploads {
		if _, stored := m.files[id]; u.Owner == owner && !stored {
			used += max(0, u.Length)
		}
	}
	return used, nil
}

func (m *Memory) Unfinished(ctx context.Context, before time.Time, after string, limit int) ([]content.Pending, error) {
	if err := m.lock(ctx, "Unfinished", after); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var pending []content.Pending
	for _, id := range page(m.uploads, after, limit, func(id string) bool {
		return time.Unix(uuid.MustParse(id).Time().UnixTime()).Before(before.Truncate(time.Millisecond))
	}) {
		u := m.uploads[id]
		pending = append(pending, content.Pending{ID: id, Resumable: u.resumable, ExpiresAt: u.ExpiresAt})
	}
	return pending, nil
}

func (m *Memory) Claimed(ctx context.Context, key string) (f content.File, found bool, err error) {
	if err := m.lock(ctx, "Claimed", key); err != nil {
		return content.File{}, false, err
	}
	defer m.mu.Unlock()
	c, found := m.claims[key]
	return c.file, found, nil
}

func (m *Memory) Claim(ctx context.Context, key string, f content.File) (content.File, error) {
	if err := m.lock(ctx, "Claim", key); err != nil {
		return content.File{}, err
	}
	defer m.mu.Unlock()
	if _, claimed := m.claims[key]; !claimed {
		m.claims[key] = claim{f, m.now()}
	}
	return m.claims[key].file, nil
}

func (m *Memory) ForgetClaims(ctx context.Context, before time.Time) (int64, error) {
	if err := m.lock(ctx, "ForgetClaims", ""); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	all := len(m.claims)
	maps.DeleteFunc(m.claims, func(_ string, c claim) bool { return c.at.Before(before) })
	return int64(all - len(m.claims)), nil
}

func (m *Memory) MarkDeleted(ctx context.Context, id string) error {
	if err := m.lock(ctx, "MarkDeleted", id); err != nil {
		return err
	}
	defer m.mu.Unlock()
	for _, marks := range []map[string]time.Time{m.deletions, m.tombstones} {
		if _, marked := marks[id]; !marked {
			marks[id] = m.now()
		}
	}
	return nil
}

func (m *Memory) IsDeleted(ctx context.Context, id string) (bool, error) {
	if err := m.lock(ctx, "IsDeleted", id); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	_, deleted := m.tombstones[id]
	return deleted, nil
}

func (m *Memory) PendingDeletions(ctx context.Context, before time.Time, after string, limit int) ([]string, error) {
	if err := m.lock(ctx, "PendingDeletions", after); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return page(m.deletions, after, limit, func(id string) bool { return m.deletions[id].Before(before) }), nil
}

func (m *Memory) ForgetDeletions(ctx context.Context, before time.Time) (int64, error) {
	if err := m.lock(ctx, "ForgetDeletions", ""); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	all := len(m.tombstones)
	maps.DeleteFunc(m.tombstones, func(_ string, at time.Time) bool { return at.Before(before) })
	return int64(all - len(m.tombstones)), nil
}
