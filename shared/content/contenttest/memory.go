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
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Memory is an in-memory file store. Its methods behave like the methods of content.Store. It is safe for concurrent
// use.
type Memory struct {
	// Now returns the current time. If Now is nil, the store uses time.Now.
	Now func() time.Time
	// Before is an optional hook. Each method calls the hook with the method's name and with the ID or key that the
	// method received. Put and Append call the hook after they have read all bytes. Put calls the hook again, with the
	// method name Commit, before it commits the file. Put and Create call it with the method name Reserve when they
	// reserve the size of the file. AppendVerified calls it only through Append. All other methods call it first. If
	// the hook returns an error, the method returns this error and has no effect. If the hook is set, readers also call
	// it for each Read and Close, and return at most one byte per Read.
	Before func(method, id string) error
	// Limits limits the files of each user.
	Limits content.Limits

	mu        sync.Mutex
	read      int
	files     map[string]Stored
	ended     map[string]bool // the IDs of ended uploads and deleted files
	uploads   map[string]*upload
	resumable map[string][]string // the IDs of all resumable uploads, by owner
	claims    map[string]claim
	deletions map[string]time.Time // the due times of incomplete deletions
	verifying map[string]bool      // the uploads for which AppendVerified is in progress
}

// Stored is a file in a Memory.
type Stored struct {
	content.File
	Bytes []byte
	// HasNote reports whether the file has a note. Only the Files method sets HasNote.
	HasNote bool
}

// upload is a note, and the bytes of a resumable upload.
type upload struct {
	outbox.Note
	bytes []byte
}

type claim struct {
	file content.File
	at   time.Time
}

var (
	errNoFile   = problem.NotFound.With("there is no such file")
	errNoUpload = problem.NotFound.With("there is no such upload")
	errTaken    = problem.Conflict.With("the offset is wrong or outdated")
	errQuota    = problem.QuotaExceeded.With("the file exceeds your quota")
	errComplete = problem.Conflict.With("the upload is complete")
)

// New returns an empty store.
func New() *Memory {
	return &Memory{files: map[string]Stored{}, ended: map[string]bool{}, uploads: map[string]*upload{}, resumable: map[string][]string{}, claims: map[string]claim{},
		deletions: map[string]time.Time{}, verifying: map[string]bool{}}
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

// Add stores a file with the given bytes, but without a note. Unlike Put, Add keeps all fields of f.
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
		f.HasNote = m.uploads[id] != nil
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
	note := outbox.Note{ID: f.ID, Owner: f.Owner, Length: f.Size, DueAt: m.now()}
	if err := m.reserve(ctx, note); err != nil {
		return content.File{}, err
	}
	defer func() {
		if err != nil && !errors.Is(err, mongodb.ErrUnknown) {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.uploads, f.ID)
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
	note.Length = f.Size
	if err := m.reserve(ctx, note); err != nil {
		return content.File{}, err
	}
	event, err := finish(&f)
	if err != nil {
		return content.File{}, err
	}
	if err := m.lock(ctx, "Commit", f.ID); err != nil {
		return content.File{}, err
	}
	defer m.mu.Unlock()
	if m.ended[f.ID] {
		return content.File{}, problem.Unavailable.With("the upload was ended")
	}
	f.Event = string(event)
	m.files[f.ID] = Stored{File: f, Bytes: b}
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

func (m *Memory) IDs(ctx context.Context, after string, limit int) (ids []string, next string, err error) {
	if err := m.lock(ctx, "IDs", after); err != nil {
		return nil, "", err
	}
	defer m.mu.Unlock()
	if ids = page(m.files, after, limit, func(string) bool { return true }); len(ids) > 0 {
		next = ids[len(ids)-1]
	}
	return ids, next, nil
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
	delete(m.uploads, id)
	delete(m.deletions, id)
	return nil
}

func (m *Memory) CloseNote(ctx context.Context, id string) error {
	if err := m.lock(ctx, "CloseNote", id); err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.uploads, id)
	return nil
}

func (m *Memory) Settle(ctx context.Context, note outbox.Note) error {
	return m.begin(ctx, "Settle", note.ID)
}

func (m *Memory) Room(ctx context.Context, owner string, least int64) (bytes int64, full, err error) {
	if err := m.lock(ctx, "Room", owner); err != nil {
		return 0, nil, err
	}
	defer m.mu.Unlock()
	if m.Limits.Bytes == 0 {
		return math.MaxInt64, nil, nil
	}
	used, files := m.used(owner)
	left := m.Limits.Bytes - used
	if max(0, least) > left || files >= m.Limits.Files() {
		return 0, nil, errQuota
	}
	return left, errQuota, nil
}

// used returns the total size and the number of the owner's files and uploads.
func (m *Memory) used(owner string) (bytes, files int64) {
	for _, f := range m.files {
		if f.Owner == owner {
			bytes += f.Size
			files++
		}
	}
	for id, u := range m.uploads {
		if _, stored := m.files[id]; u.Owner == owner && !stored && !m.ended[id] {
			bytes += max(0, u.Length)
			files++
		}
	}
	return bytes, files
}

// reserve adds a note whose size counts toward the quota. If the note exists, reserve changes its size.
func (m *Memory) reserve(ctx context.Context, note outbox.Note) error {
	if err := m.lock(ctx, "Reserve", note.ID); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.Limits.Bytes > 0 {
		bytes, files := m.used(note.Owner)
		if existing := m.uploads[note.ID]; existing != nil {
			bytes -= max(0, existing.Length)
			files--
		}
		if bytes+max(0, note.Length) > m.Limits.Bytes || files >= m.Limits.Files() {
			return errQuota
		}
	}
	m.uploads[note.ID] = &upload{Note: note}
	return nil
}

func (m *Memory) Claimed(ctx context.Context, key string) (content.File, bool, error) {
	if err := m.lock(ctx, "Claimed", key); err != nil {
		return content.File{}, false, err
	}
	defer m.mu.Unlock()
	f, found := m.files[m.claims[key].file.ID]
	return f.File, found, nil
}

// claimWait is how long Claim waits for the commit of another upload that has claimed the key.
const claimWait = 2 * time.Second

func (m *Memory) Claim(ctx context.Context, key string, f content.File) (content.File, error) {
	if err := m.lock(ctx, "Claim", key); err != nil {
		return content.File{}, err
	}
	defer m.mu.Unlock()
	for deadline := time.Now().Add(claimWait); m.isClaiming(key, f.ID) && time.Now().Before(deadline); {
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	if c, claimed := m.claims[key]; claimed && c.file.ID != f.ID {
		if first, stored := m.files[c.file.ID]; stored {
			return first.File, nil
		}
		m.ended[c.file.ID] = true
	}
	m.claims[key] = claim{f, m.now()}
	return f, nil
}

// isClaiming reports whether an upload other than the given one has claimed the key and is still in progress.
func (m *Memory) isClaiming(key, id string) bool {
	other := m.claims[key].file.ID
	_, stored := m.files[other]
	return other != id && m.uploads[other] != nil && !stored && !m.ended[other]
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
	if _, marked := m.deletions[id]; !marked {
		m.deletions[id] = m.now()
	}
	delete(m.files, id)
	m.ended[id] = true
	return nil
}

func (m *Memory) IsDeleted(ctx context.Context, id string) (bool, error) {
	if err := m.lock(ctx, "IsDeleted", id); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	_, stored := m.files[id]
	return !stored, nil
}

func (m *Memory) PendingDeletions(ctx context.Context, at time.Time, limit int) ([]string, error) {
	if err := m.lock(ctx, "PendingDeletions", ""); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	ids := page(m.deletions, "", len(m.deletions), func(id string) bool { return !m.deletions[id].After(at) })
	slices.SortStableFunc(ids, func(a, b string) int { return m.deletions[a].Compare(m.deletions[b]) })
	return ids[:min(limit, len(ids))], nil
}

func (m *Memory) PostponeDeletion(ctx context.Context, id string, until time.Time) error {
	if err := m.lock(ctx, "PostponeDeletion", id); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if _, ok := m.deletions[id]; ok {
		m.deletions[id] = until
	}
	return nil
}

func (m *Memory) ForgetDeletions(ctx context.Context, _ time.Time) error {
	return m.begin(ctx, "ForgetDeletions", "")
}
