package content

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// maxResumable is the maximum number of open resumable uploads per user. It limits the work that one user can cause
	// for the sweep function.
	maxResumable = 1000
	// maxReservations is the number of reservations of a user at which the next upload first removes those that have
	// ended. It limits the size of a version of the usage.
	maxReservations = maxResumable + 500
	// minFileSize is the number of bytes of a quota that allow one file. A file without any bytes also needs space for
	// its metadata.
	minFileSize = 4 << 10
	// minFiles is the number of files that every quota allows.
	minFiles = 1000
	// reservedAtOnce is the number of bytes by which the reservation of an upload of unknown size grows.
	reservedAtOnce = 16 << 20
	// maxCounts is the maximum number of attempts to count the files of a user while they change.
	maxCounts = 10
	// countTimeout is the time limit for counting the files of a user.
	countTimeout = 2 * time.Minute
	// countPause is the pause before IsUsageCorrect checks again whether the files of a user have been counted.
	countPause = 500 * time.Millisecond
	// stagingRetry is the Retry-After value while another request adds verified bytes to the same upload.
	stagingRetry = 2 * time.Second
)

// usage is a user's storage usage. It is the value of the user's register (see mongodb.Registers). The first upload
// under a quota, or the first resumable upload, creates it.
type usage struct {
	// Bytes and Files are the total size and the number of the user's files, including all reservations.
	Bytes int64 `bson:"bytes"`
	Files int64 `bson:"files"`
	// Counting is a random text while the existing files are being counted. In this case, Bytes and Files are zero.
	Counting string `bson:"counting,omitempty"`
	// Reservations contains the uploads and the deletions in progress.
	Reservations []reservation `bson:"reservations"`
}

// reservation is the part of a user's usage that belongs to an upload or a deletion in progress. It makes each change
// of the totals idempotent: the end of an upload or of a deletion removes the reservation and changes the totals in one
// step.
type reservation struct {
	// ID is the ID of the upload or the file.
	ID    string `bson:"id"`
	Bytes int64  `bson:"bytes"`
	// IsResumable reports whether the reservation belongs to a resumable upload.
	IsResumable bool `bson:"resumable,omitempty"`
	// IsDeletion reports whether the file is being deleted.
	IsDeletion bool `bson:"deletion,omitempty"`
	// IsAdopted reports whether the note of the upload might not be marked as reserved yet.
	IsAdopted bool `bson:"adopted,omitempty"`
	// For is the ID of the resumable upload for which a temporary file is being written. It is empty for other files.
	For string `bson:"for,omitempty"`
}

// files returns the number of files that r adds to the usage. A temporary file does not count.
func (r reservation) files() int64 {
	if r.For != "" {
		return 0
	}
	return 1
}

// index returns the index of the reservation with the given ID, or -1.
func (u *usage) index(id string) int {
	return slices.IndexFunc(u.Reservations, func(r reservation) bool { return r.ID == id })
}

// add returns a copy of u with another reservation, which adds the given numbers to the totals.
func (u *usage) add(r reservation, bytes, files int64) *usage {
	return &usage{Bytes: u.Bytes + bytes, Files: u.Files + files, Reservations: append(slices.Clone(u.Reservations), r)}
}

// remove returns a copy of u without reservation i, with the given changes of the totals.
func (u *usage) remove(i int, bytes, files int64) *usage {
	return &usage{Bytes: u.Bytes + bytes, Files: u.Files + files, Reservations: slices.Delete(slices.Clone(u.Reservations), i, i+1)}
}

// Limits limits the files of each user.
type Limits struct {
	// Bytes is the maximum total size of a user's files and uploads. 0 means that there is no limit. Each minFileSize
	// bytes allow one file, and every user can have minFiles files.
	Bytes int64
}

// Files returns the maximum number of files per user.
func (l Limits) Files() int64 { return max(minFiles, l.Bytes/minFileSize) }

// refuse returns an error if the user must not start another upload with the reservation r, whatever its size is.
func (l Limits) refuse(u *usage, r reservation) error {
	resumable := 0
	for _, other := range u.Reservations {
		if other.IsResumable {
			resumable++
		}
		if r.For != "" && other.For == r.For {
			return problem.Locked.With("another request is adding bytes with a checksum to this upload: send the bytes again later").RetryAfter(stagingRetry)
		}
	}
	switch {
	case l.Bytes > 0 && r.For == "" && u.Files >= l.Files():
		return l.full(u)
	case r.IsResumable && resumable >= maxResumable:
		return problem.TooManyUploads.With("you have %d unfinished uploads: complete or delete some of them, and try again later", resumable)
	}
	return nil
}

// full returns the error for a file that does not fit into the quota.
func (l Limits) full(u *usage) error {
	if u.Files >= l.Files() {
		return problem.QuotaExceeded.With("you have %d files, the maximum number: delete files to upload others", u.Files)
	}
	return problem.QuotaExceeded.With("the file exceeds your quota of %d bytes, of which %d bytes are left", l.Bytes, max(0, l.Bytes-u.Bytes))
}

// Room returns the maximum size of a new file of the owner in bytes, and the error for a larger file. least is the
// known minimum size of the file. If even a file of this size does not fit, err is the error for a larger file.
func (s *Store) Room(ctx context.Context, owner string, least int64) (bytes int64, full, err error) {
	if s.Limits.Bytes == 0 {
		return math.MaxInt64, nil, nil
	}
	for settled := false; ; settled = true {
		u, _, err := s.usage.Latest(ctx, owner)
		if err == nil && (u == nil || u.Counting != "") {
			u, err = s.count(ctx, owner)
		}
		if err != nil {
			return 0, nil, err
		}
		left := s.Limits.Bytes - u.Bytes
		full := s.Limits.full(u)
		if u.Files < s.Limits.Files() && max(0, least) <= left {
			return left, full, nil
		}
		if settled {
			return 0, nil, full
		}
		if err := s.settle(ctx, owner, all); err != nil {
			return 0, nil, err
		}
	}
}

// reserve adds the reservation r to the owner's usage, or changes the size of an existing reservation with the same ID.
// It reserves up to r.Bytes bytes, but at least the given number of bytes, and returns the number of reserved bytes.
func (s *Store) reserve(ctx context.Context, owner string, r reservation, least int64) (granted int64, err error) {
	for settled := false; ; settled = true {
		refused := false
		err = s.changeUsage(ctx, owner, true, func(_ context.Context, u *usage) (*usage, error) {
			if refused = len(u.Reservations) >= maxReservations && !settled; refused {
				return nil, errOutdated
			}
			i := u.index(r.ID)
			var had int64
			if i >= 0 {
				if had = u.Reservations[i].Bytes; least <= had && had <= r.Bytes {
					granted = had
					return nil, nil
				}
			} else if err := s.Limits.refuse(u, r); err != nil {
				refused = true
				return nil, err
			}
			granted = r.Bytes
			if s.Limits.Bytes > 0 && r.For == "" {
				granted = min(r.Bytes, had+s.Limits.Bytes-u.Bytes)
			}
			if granted < least {
				refused = true
				return nil, s.Limits.full(u)
			}
			changed := r
			changed.Bytes = granted
			if i < 0 {
				return u.add(changed, granted, r.files()), nil
			}
			return u.remove(i, 0, 0).add(changed, granted-had, 0), nil
		})
		if err == nil || !refused || settled {
			return granted, err
		}
		// A reservation can be outdated, for example if the process of its upload was killed after the commit.
		if err := s.settle(ctx, owner, all); err != nil {
			return 0, err
		}
	}
}

// changeUsage changes the owner's usage like mongodb.Registers.Change. If the user's files have not been counted yet,
// it first counts them. If the usage does not exist, changeUsage creates it only if create is true.
func (s *Store) changeUsage(ctx context.Context, owner string, create bool, next func(context.Context, *usage) (*usage, error)) error {
	for range maxCounts {
		err := s.usage.Change(ctx, owner, func(ctx context.Context, u *usage) (*usage, error) {
			switch {
			case u == nil && !create:
				return nil, nil
			case u == nil || u.Counting != "":
				return nil, errUncounted
			}
			return next(ctx, u)
		})
		if !errors.Is(err, errUncounted) {
			return err
		}
		if _, err := s.count(ctx, owner); err != nil {
			return err
		}
	}
	return errUncounted
}

// errOutdated reports that the reservations of uploads and deletions that have ended must first be removed.
var errOutdated = errors.New("the usage contains too many reservations")

// errUncounted reports that the files of a user have not been counted.
var errUncounted = problem.Unavailable.With("your files are being counted: try again later")

// release removes the reservation of an upload that is not a file, or of a deleted file, and subtracts it from the
// owner's usage.
func (s *Store) release(ctx context.Context, owner, id string) error {
	return s.changeUsage(ctx, owner, false, func(_ context.Context, u *usage) (*usage, error) {
		i := u.index(id)
		if i < 0 {
			return nil, nil
		}
		return u.remove(i, -u.Reservations[i].Bytes, -u.Reservations[i].files()), nil
	})
}

// Settle removes the reservation of an upload that has become a file. The file stays part of its owner's usage. If the
// upload has no reservation, Settle first adds the file to the usage. It does nothing if the user has no usage.
func (s *Store) Settle(ctx context.Context, note outbox.Note) error {
	if !note.IsReserved {
		if adopted, err := s.adopt(ctx, note.Owner, note.ID, false); err != nil || !adopted {
			return err
		}
	}
	return s.settle(ctx, note.Owner, func(r reservation) bool { return r.ID == note.ID })
}

// settle removes those of the selected reservations whose upload or deletion has ended. It corrects the totals by the
// difference between the reservation and the size of the file.
func (s *Store) settle(ctx context.Context, owner string, selected func(reservation) bool) error {
	return s.changeUsage(ctx, owner, false, func(ctx context.Context, u *usage) (*usage, error) {
		var ids []string
		for _, r := range u.Reservations {
			if selected(r) {
				ids = append(ids, r.ID)
			}
		}
		docs, err := s.documents(ctx, ids)
		if err != nil {
			return nil, err
		}
		active, err := s.active(ctx, slices.DeleteFunc(ids, func(id string) bool { return docs[id] != nil }))
		if err != nil {
			return nil, err
		}
		settled := &usage{Bytes: u.Bytes, Files: u.Files}
		for _, r := range u.Reservations {
			switch doc := docs[r.ID]; {
			case !selected(r), doc.live() && r.IsDeletion, doc == nil && active[r.ID]:
				settled.Reservations = append(settled.Reservations, r)
			case doc.live():
				if r.IsAdopted {
					// Mark the note before the reservation is removed, so that no other call adopts the file again.
					if err := s.Notes.Reserved(ctx, r.ID); err != nil {
						return nil, err
					}
				}
				settled.Bytes += doc.Length - r.Bytes
			default:
				settled.Bytes -= r.Bytes
				settled.Files -= r.files()
			}
		}
		if len(settled.Reservations) == len(u.Reservations) {
			return nil, nil
		}
		return settled, nil
	})
}

func all(reservation) bool { return true }

// adopt adds a reservation for an existing file to the owner's usage, and reports whether the file has a reservation
// afterward. If the file is not part of the totals because it was uploaded without a quota, or by the previous version,
// adopt adds it. If isDeletion is true, adopt marks the reservation as the reservation of a deletion.
func (s *Store) adopt(ctx context.Context, owner, id string, isDeletion bool) (adopted bool, err error) {
	err = s.changeUsage(ctx, owner, false, func(ctx context.Context, u *usage) (*usage, error) {
		if i := u.index(id); i >= 0 {
			adopted = true
			if u.Reservations[i].IsDeletion || !isDeletion {
				return nil, nil
			}
			r := u.Reservations[i]
			r.IsDeletion = true
			return u.remove(i, 0, 0).add(r, 0, 0), nil
		}
		// Read the note and the file only now, after the latest version of the usage. If another call has added the
		// file and has settled it, the note is marked. If another call has released the file, the file is deleted.
		note, err := s.Notes.Note(ctx, id)
		if err != nil {
			return nil, err
		}
		isNew := note != nil && !note.IsReserved && !note.IsStored
		if !isNew && !isDeletion {
			return nil, nil
		}
		doc, err := s.document(ctx, id)
		if err != nil || !doc.live() {
			return nil, err
		}
		adopted = true
		r := reservation{ID: id, Bytes: doc.Length, IsDeletion: isDeletion, IsAdopted: isNew}
		if isNew {
			return u.add(r, r.Bytes, 1), nil
		}
		return u.add(r, 0, 0), nil
	})
	return adopted, err
}

// active reports for each of the given IDs whether an upload has a note, or a deletion has a record.
func (s *Store) active(ctx context.Context, ids []string) (map[string]bool, error) {
	notes, err := s.Notes.Existing(ctx, ids)
	if err != nil {
		return nil, err
	}
	deletions, err := mongodb.Existing(ctx, s.deletions, ids)
	active := map[string]bool{}
	for _, id := range slices.Concat(notes, deletions) {
		active[id] = true
	}
	return active, err
}

// documents returns the documents of those of the given IDs that belong to a file, or to a tombstone.
func (s *Store) documents(ctx context.Context, ids []string) (map[string]*fileDocument, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	docs, err := mongodb.List[fileDocument](ctx, s.files, mongodb.IDs(ids), "_id", 0)
	byID := map[string]*fileDocument{}
	for _, doc := range docs {
		byID[doc.ID] = &doc
	}
	return byID, err
}
