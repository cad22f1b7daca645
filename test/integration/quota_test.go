package integration

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestQuotaManyWriters proves that 50 writers, who upload and delete files of one user through 5 processes, never
// exceed the quota, and that the recorded usage equals the sum of the files at the end.
func TestQuotaManyWriters(t *testing.T) {
	const writers, attempts, most, quota = 50, 6, 1000, 10_000
	u := startUpload(t, 0, "")
	record := runFunction(t, "record", "MONGODB_URI="+u.uri)
	for range 2 {
		u.urls = append(u.urls, runFunction(t, "upload", append(u.settings, "MONGODB_URI="+u.uri, "EVENTS_URL="+record, fmt.Sprint("UPLOAD_QUOTA=", quota))...))
	}
	files := u.startFiles(t)
	sweep := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+record, "PENDING_GRACE=1ms", "ORPHAN_GRACE=1h")
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil {
			if used, _, err := servertest.SumOfFiles(ctx, u.db, "0190-ada"); err == nil && used > quota {
				t.Errorf("got %d bytes, want at most %d", used, quota)
			}
		}
	})
	watching.Go(func() {
		for ctx.Err() == nil {
			postSweep(t, sweep)
			time.Sleep(100 * time.Millisecond)
		}
	})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var writing sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for w := range writers {
		writing.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			var mine []string
			for range attempts {
				request := u.request(t, u.urls[random.IntN(len(u.urls))], strings.Repeat("x", random.IntN(most)), "")
				if random.IntN(2) == 0 {
					request.ContentLength, request.Body = -1, io.NopCloser(request.Body) // of unknown length
				}
				status, id := u.do(t, request)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
				if id != "" {
					mine = append(mine, id)
				}
				if len(mine) > 0 && random.IntN(3) > 0 {
					if status, body, err := u.call(t, http.MethodDelete, files+"/files/"+mine[0]); err != nil || status != http.StatusNoContent {
						t.Errorf("delete a file: got status %d, body %s and error %v, want 204", status, body, err)
					}
					mine = mine[1:]
				}
			}
		})
	}
	writing.Wait()
	stop()
	watching.Wait()
	for status := range statuses {
		if status != http.StatusAccepted && status != http.StatusInsufficientStorage {
			t.Errorf("got status %d, want 202 or 507", status)
		}
	}
	if statuses[http.StatusAccepted] == 0 || statuses[http.StatusInsufficientStorage] == 0 {
		t.Errorf("got the numbers of responses %v, want some with 202 and some with 507", statuses)
	}
	// No upload is in progress, so sweep can discard all uploads that are not files.
	last := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+record, "PENDING_GRACE=1ms", "ORPHAN_GRACE=1ms")
	servertest.Eventually(t, time.Minute, "no notes", func() error {
		postSweep(t, last)
		if n := servertest.CountDocuments(t, u.db.Collection("uploads"), bson.D{}); n > 0 {
			return fmt.Errorf("got %d notes, want none", n)
		}
		return nil
	})
	servertest.WantUsage(t, u.db, "0190-ada")
}
