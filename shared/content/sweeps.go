package content

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// sweepDocument is a document in the sweeps collection. It records the beginning of a sweep. The numbers of sweeps are
// consecutive, so of several sweeps that have read the same documents, only one can insert the next document.
type sweepDocument struct {
	Number  int64     `bson:"_id"`
	BegunAt time.Time `bson:"begun_at"`
}

// BeginSweep records that a sweep begins. If another sweep began less than interval ago, the error wraps
// problem.TooManySweeps. If the interval is 0, BeginSweep does nothing.
func (s *Store) BeginSweep(ctx context.Context, interval time.Duration) error {
	if interval == 0 {
		return nil
	}
	// The collection contains one document, or a few documents while sweeps begin.
	begun, err := mongodb.List[sweepDocument](ctx, s.sweeps, bson.D{}, "_id", 0)
	if err != nil {
		return err
	}
	next := sweepDocument{Number: 1, BegunAt: s.now().UTC()}
	if len(begun) > 0 {
		latest := begun[len(begun)-1]
		next.Number = latest.Number + 1
		// Ignore a time that is more than interval in the future. A process with a wrong clock has recorded it.
		if wait := latest.BegunAt.Add(interval).Sub(next.BegunAt); wait > 0 && wait <= 2*interval {
			return tooManySweeps(wait)
		}
	}
	err = mongodb.Insert(ctx, s.sweeps, mongodb.CallTimeout, next, "record the beginning of a sweep")
	if errors.Is(err, mongodb.ErrExists) { // a concurrent sweep has begun
		return tooManySweeps(interval)
	}
	if err != nil {
		return err
	}
	_, err = mongodb.RemoveAll(ctx, s.sweeps, bson.D{{Key: "_id", Value: bson.D{{Key: "$lt", Value: next.Number}}}})
	return err
}

func tooManySweeps(wait time.Duration) error {
	return problem.TooManySweeps.With("another sweep has begun: try again later").RetryAfter(wait)
}
