package content

import "context"

// CloseNote settles the reservation of a file, and deletes the note and the journal of its upload. Call it only after
// the file's catalog entry exists. Afterward, the sweep function does not publish the file's event again.
func (s *Store) CloseNote(ctx context.Context, id string) error {
	note, err := s.Notes.Note(ctx, id)
	if err != nil || note == nil {
		return err
	}
	if !note.IsStored { // otherwise, the sweep function has settled the reservation
		if err := s.Settle(ctx, *note); err != nil {
			return err
		}
	}
	if note.Tus != nil {
		if err := s.DropJournal(ctx, id); err != nil {
			return err
		}
	}
	return s.Notes.Remove(ctx, id)
}

// Discard ends an upload that is not a file, and deletes its data. If the upload is already a file, the error wraps
// problem.Conflict.
func (s *Store) Discard(ctx context.Context, id string) error {
	if err := s.end(ctx, id); err != nil {
		return err
	}
	note, err := s.Notes.Note(ctx, id)
	if err != nil {
		return err
	}
	var owner string
	if note != nil {
		owner = note.Owner
	}
	return s.purge(ctx, owner, id)
}
