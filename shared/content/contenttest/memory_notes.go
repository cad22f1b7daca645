package contenttest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/outbox"
)

// MemoryNotes is the outbox of a Memory. Its methods behave like the methods of outbox.Notes.
type MemoryNotes struct{ m *Memory }

// Notes returns the notes of the uploads in m.
func (m *Memory) Notes() MemoryNotes { return MemoryNotes{m} }

func (n MemoryNotes) Note(ctx context.Context, id string) (*outbox.Note, error) {
	if err := n.m.lock(ctx, "Note", id); err != nil {
		return nil, err
	}
	defer n.m.mu.Unlock()
	if u := n.m.uploads[id]; u != nil {
		note := u.Note
		return &note, nil
	}
	return nil, nil
}

// change calls the change function with a note, if the note exists.
func (n MemoryNotes) change(ctx context.Context, method, id string, change func(note *outbox.Note)) error {
	if err := n.m.lock(ctx, method, id); err != nil {
		return err
	}
	defer n.m.mu.Unlock()
	if u := n.m.uploads[id]; u != nil {
		change(&u.Note)
	}
	return nil
}

func (n MemoryNotes) Postpone(ctx context.Context, id string, until time.Time) error {
	return n.change(ctx, "Postpone", id, func(note *outbox.Note) { note.DueAt = until })
}

func (n MemoryNotes) Stored(ctx context.Context, id string, at time.Time, published int, due time.Time) error {
	return n.change(ctx, "Stored", id, func(note *outbox.Note) {
		note.IsStored, note.StoredAt, note.Published, note.DueAt = true, &at, published, due
	})
}

func (n MemoryNotes) Adopt(ctx context.Context) error { return n.m.begin(ctx, "Adopt", "") }

// all returns the notes that match, sorted by the due time.
func (n MemoryNotes) all(match func(outbox.Note) bool) (notes []outbox.Note) {
	for _, u := range n.m.uploads {
		if match(u.Note) {
			notes = append(notes, u.Note)
		}
	}
	slices.SortFunc(notes, func(a, b outbox.Note) int {
		if order := a.DueAt.Compare(b.DueAt); order != 0 {
			return order
		}
		return strings.Compare(a.ID, b.ID)
	})
	return notes
}

func (n MemoryNotes) Due(ctx context.Context, stored bool, at time.Time, limit int) ([]outbox.Note, error) {
	if err := n.m.lock(ctx, "Due", ""); err != nil {
		return nil, err
	}
	defer n.m.mu.Unlock()
	due := n.all(func(note outbox.Note) bool { return note.IsStored == stored && !note.DueAt.After(at) })
	return due[:min(limit, len(due))], nil
}

func (n MemoryNotes) Waiting(ctx context.Context) (files int64, since time.Time, err error) {
	if err := n.m.lock(ctx, "Waiting", ""); err != nil {
		return 0, time.Time{}, err
	}
	defer n.m.mu.Unlock()
	for _, note := range n.all(func(note outbox.Note) bool { return note.IsStored }) {
		if files++; since.IsZero() || note.StoredAt.Before(since) {
			since = *note.StoredAt
		}
	}
	return files, since, nil
}

// NoteIDs returns the IDs of all notes, in ascending order.
func (m *Memory) NoteIDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.uploads))
}
