//go:build audit

package integration

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestAuditKeyOfAnotherFile checks data B5: upload does not accept a file under the idempotency key of another file of the same length.
func TestAuditKeyOfAnotherFile(t *testing.T) {
	u := startUpload(t, 1, startSink(t))
	_, first := u.post(t, 0, "2026-01-01 balance 100", "daily")
	if status, second := u.post(t, 0, "2026-01-02 balance 200", "daily"); status == http.StatusAccepted && second == first {
		t.Errorf("got status 202 and the id of the first file, %s, for another file, want a refusal or another id", first)
	}
}

// TestAuditIndexTimeLimit checks data D1: the creation of an index has no time limit, because the server gives up a build that runs into the limit.
func TestAuditIndexTimeLimit(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	var mu sync.Mutex
	limits := map[string]string{} // by command; empty for no limit
	w := newWire(t, host(t, uri), func() (fromClient, fromServer parser) {
		client, server := mongoMessages()
		return func(r *bufio.Reader) ([]byte, string, error) {
			message, what, err := client(r)
			if err == nil && strings.HasPrefix(what, "createIndexes ") {
				document := bson.Raw(message[16+4+1:]) // after the header, the flags and the kind of the section
				mu.Lock()
				defer mu.Unlock()
				limits[what] = document[:binary.LittleEndian.Uint32(document)].Lookup("maxTimeMS").String()
			}
			return message, what, err
		}, server
	}, func(moment) bool { return false })
	s, err := content.Open(w.through(t, uri))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = errors.Join(s.EnsureIndexes(t.Context()), openCatalog(t, w.through(t, uri)).EnsureIndexes(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	if err != nil || len(limits) == 0 {
		t.Fatalf("got %d commands that create indexes and error %v", len(limits), err)
	}
	for command, limit := range limits {
		if limit != "" {
			t.Errorf("%s: got maxTimeMS %s, want no limit", command, limit)
		}
	}
}
