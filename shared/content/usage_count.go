package content

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// count counts the owner's files, uploads and deletions, and stores the result as the owner's usage. If the usage
// exists already, count returns it.
func (s *Store) count(ctx context.Context, owner string) (*usage, error) {
	// Do not stop at the deadline of ctx. Otherwise, no request might ever complete the count.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
	defer cancel()
	result, err, _ := s.counts.Do(owner, func() (any, error) { return s.countOnce(ctx, owner) })
	if err != nil {
		return nil, err
	}
	return result.(*usage), nil
}

func (s *Store) countOnce(ctx context.Context, owner string) (*usage, error) {
	// While Counting is set, no function of this version settles or releases a reservation of this owner, because it
	// would first count the files itself (changeUsage). A deletion that looked for the usage before this change has a
	// deletion record, so tally finds it.
	var mark *usage
	err := s.usage.Change(ctx, owner, func(_ context.Context, u *usage) (*usage, error) {
		if mark = u; u != nil {
			return nil, nil
		}
		mark = &usage{Counting: rand.Text()}
		return mark, nil
	})
	if err != nil || mark.Counting == "" {
		return mark, err
	}
	counted, err := s.tally(ctx, owner, mark.Reservations)
	if err != nil {
		return nil, err
	}
	var result *usage
	err = s.usage.Change(ctx, owner, func(_ context.Context, u *usage) (*usage, error) {
		switch {
		case u != nil && u.Counting == mark.Counting:
			result = counted
			return counted, nil
		case u == nil || u.Counting != "":
			return nil, errUncounted // another count has begun
		}
		result = u // another process has counted
		return nil, nil
	})
	return result, err
}

// tally adds up the owner's files, uploads and deletions. before contains the reservations before the count.
func (s *Store) tally(ctx context.Context, owner string, before []reservation) (*usage, error) {
	for range maxCounts {
		reservations, seen, err := s.unsettled(ctx, owner, before)
		if err != nil {
			return nil, err
		}
		ids := make([]string, len(reservations))
		for i, r := range reservations {
			ids[i] = r.ID
		}
		u := &usage{}
		if u.Bytes, u.Files, err = s.sum(ctx, owner, ids); err != nil {
			return nil, err
		}
		docs, err := s.documents(ctx, ids)
		if err != nil {
			return nil, err
		}
		// If an upload has begun since the first query, and is a file already, it is unknown whether sum has counted
		// the file.
		if unknown, err := s.hasNewFile(ctx, owner, seen); err != nil {
			return nil, err
		} else if unknown {
			continue
		}
		for _, r := range reservations {
			switch doc := docs[r.ID]; {
			case doc.live():
				r.Bytes = doc.Length
			case doc != nil, r.IsDeletion:
				continue // the upload was ended, or the file was deleted
			}
			u = u.add(r, r.Bytes, r.files())
		}
		return u, nil
	}
	return nil, errUncounted
}

// unsettled returns the given reservations, and a reservation for each incomplete deletion of the owner and for each
// upload that was not reserved and is not a file yet. It marks the notes of files that were not reserved, because tally
// counts these files. Uploads that are marked but have no reservation yet reserve their bytes themselves. seen contains
// the IDs of all notes.
func (s *Store) unsettled(ctx context.Context, owner string, before []reservation) (reservations []reservation, seen map[string]bool, err error) {
	reservations = slices.Clone(before)
	add := func(r reservation) {
		if !slices.ContainsFunc(reservations, func(other reservation) bool { return other.ID == r.ID }) {
			reservations = append(reservations, r)
		}
	}
	deletions, err := mongodb.List[deletion](ctx, s.deletions, bson.D{{Key: "owner", Value: owner}}, "_id", 0)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range deletions {
		add(reservation{ID: d.ID, IsDeletion: true})
	}
	notes, err := s.Notes.Owned(ctx, owner)
	if err != nil {
		return nil, nil, err
	}
	seen = map[string]bool{}
	var unreserved []string
	for _, n := range notes {
		if seen[n.ID] = true; !n.IsReserved {
			unreserved = append(unreserved, n.ID)
		}
	}
	docs, err := s.documents(ctx, unreserved)
	if err != nil {
		return nil, nil, err
	}
	var stored []string
	for _, n := range notes {
		switch doc := docs[n.ID]; {
		case n.IsReserved:
		case doc.live():
			stored = append(stored, n.ID)
		case doc == nil:
			add(reservation{ID: n.ID, Bytes: max(0, n.Length), IsResumable: n.Tus != nil, IsAdopted: true})
		}
	}
	return reservations, seen, s.Notes.Reserved(ctx, stored...)
}

// hasNewFile reports whether the owner has a file whose note is not in seen.
func (s *Store) hasNewFile(ctx context.Context, owner string, seen map[string]bool) (bool, error) {
	notes, err := s.Notes.Owned(ctx, owner)
	if err != nil {
		return false, err
	}
	var ids []string
	for _, n := range notes {
		if !seen[n.ID] {
			ids = append(ids, n.ID)
		}
	}
	docs, err := s.documents(ctx, ids)
	for _, doc := range docs {
		if doc.live() {
			return true, err
		}
	}
	return false, err
}

// sum returns the total size and the number of the owner's files, without those with the given IDs.
func (s *Store) sum(ctx context.Context, owner string, without []string) (bytes, files int64, err error) {
	match := bson.D{{Key: "metadata.owner", Value: owner}}
	if len(without) > 0 {
		match = append(match, bson.E{Key: "_id", Value: bson.D{{Key: "$nin", Value: without}}})
	}
	// Use two queries, because FerretDB computes only the first sum of a group.
	for _, sum := range []struct {
		of     any
		result *int64
	}{{"$length", &bytes}, {1, &files}} {
		if *sum.result, err = s.total(ctx, match, sum.of); err != nil {
			return 0, 0, mongodb.Problem(err, "add up the files of user "+owner)
		}
	}
	return bytes, files, nil
}

// total adds up the values of an expression for all files that match a filter.
func (s *Store) total(ctx context.Context, match bson.D, of any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	cursor, err := s.files.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$match", Value: match}},
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: nil}, {Key: "total", Value: bson.D{{Key: "$sum", Value: of}}}}}},
	})
	var totals []struct {
		Total int64 `bson:"total"`
	}
	if err == nil {
		err = cursor.All(ctx, &totals)
	}
	if err != nil || len(totals) == 0 { // there are no files
		return 0, err
	}
	return totals[0].Total, nil
}

// NextOwner returns the first user after the given user who has a recorded usage. After the last user, it returns an
// empty string.
func (s *Store) NextOwner(ctx context.Context, after string) (string, error) {
	return s.usage.NextKey(ctx, after)
}

// IsUsageCorrect reports whether the owner's recorded usage equals the sum of the owner's files. If the files are being
// counted, it waits up to maxCounts × countPause.
func (s *Store) IsUsageCorrect(ctx context.Context, owner string) (bool, error) {
	isCounting := false
	for range maxCounts {
		u, version, err := s.usage.Latest(ctx, owner)
		if err != nil || u == nil {
			return err == nil, err
		}
		if isCounting = u.Counting != ""; isCounting {
			time.Sleep(countPause)
			continue
		}
		ids, err := s.unreserved(ctx, owner)
		if err != nil {
			return false, err
		}
		bytes, files := u.Bytes, u.Files
		for _, r := range u.Reservations {
			bytes -= r.Bytes
			files -= r.files()
			ids = append(ids, r.ID)
		}
		gotBytes, gotFiles, err := s.sum(ctx, owner, ids)
		if err != nil {
			return false, err
		}
		// Compare the sums only if nothing has changed between the queries.
		again, err := s.unreserved(ctx, owner)
		if err != nil {
			return false, err
		}
		_, now, err := s.usage.Latest(ctx, owner)
		if err != nil {
			return false, err
		}
		if now == version && !slices.ContainsFunc(again, func(id string) bool { return !slices.Contains(ids, id) }) {
			return gotBytes == bytes && gotFiles == files, nil
		}
	}
	// If the usage changes too often, it cannot be checked now. If the count does not end, its process was killed.
	return !isCounting, nil
}

// unreserved returns the IDs of the owner's uploads that have no reservation yet.
func (s *Store) unreserved(ctx context.Context, owner string) (ids []string, err error) {
	notes, err := s.Notes.Owned(ctx, owner)
	for _, n := range notes {
		if !n.IsReserved {
			ids = append(ids, n.ID)
		}
	}
	return ids, err
}

// Recount replaces the owner's recorded usage by the sum of the owner's files, uploads and deletions.
func (s *Store) Recount(ctx context.Context, owner string) error {
	err := s.usage.Change(ctx, owner, func(_ context.Context, u *usage) (*usage, error) {
		mark := &usage{Counting: rand.Text()}
		if u != nil {
			mark.Reservations = u.Reservations
		}
		return mark, nil
	})
	if err == nil {
		_, err = s.count(ctx, owner)
	}
	return err
}
