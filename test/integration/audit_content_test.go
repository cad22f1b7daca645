//go:build audit

package integration

import (
	"bufio"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

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
