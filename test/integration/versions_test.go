package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// previousVersion is the commit of the previous version, from which an upgrade must work.
const previousVersion = "880a960"

// previousDir returns the folder of the previous version's source and binaries.
func previousDir() string { return filepath.Join(servertest.TempDir(), "previous") }

// previousFunctions builds functions of the previous version, and adds them to binaries as "previous-NAME".
func previousFunctions(t *testing.T, names ...string) {
	t.Helper()
	source := previousDir()
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if err := os.Mkdir(source, 0o755); err == nil {
		// git archive fails in a shallow clone, which does not contain the commit.
		archive := exec.CommandContext(t.Context(), "git", "-C", "../..", "archive", previousVersion)
		extract := exec.CommandContext(t.Context(), "tar", "-x", "-C", source)
		reader, writer := io.Pipe()
		archive.Stdout, extract.Stdin = writer, reader
		extracted := make(chan error, 1)
		go func() { extracted <- extract.Run() }()
		err := archive.Run()
		if err = errors.Join(err, writer.Close(), <-extracted); err != nil {
			err = errors.Join(store.ErrNotInstalled, err)
		}
		servertest.Need(t, "commit "+previousVersion, err)
	} else if !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(source, "bin", name)
		if binaries.paths["previous-"+name] != "" {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), servertest.StartTimeout)
		defer cancel()
		command := exec.CommandContext(ctx, "go", "build", "-o", path, "./functions/"+name)
		command.Dir = source
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("build %s of %s: %v\n%s", name, previousVersion, err, out)
		}
		binaries.paths["previous-"+name] = path
	}
}

// startVersions starts a function of the previous version and of this version. It returns their URLs.
func (u *uploader) startVersions(t *testing.T, name string, settings ...string) (urls [2]string) {
	t.Helper()
	for i, version := range []string{"previous-" + name, name} {
		urls[i] = runFunction(t, version, append(slices.Clip(u.settings), append(settings, "MONGODB_URI="+u.uri)...)...)
	}
	return urls
}

// alternate returns the URL of a proxy that forwards requests to the given URLs in turn. While lose is true, the proxy
// confirms requests without forwarding them, as a broker that loses messages does.
func alternate(t *testing.T, lose *atomic.Bool, urls ...string) string {
	t.Helper()
	var proxies []http.Handler
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		proxies = append(proxies, httputil.NewSingleHostReverseProxy(u))
	}
	var next atomic.Uint64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lose.Load() {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		proxies[next.Add(1)%uint64(len(proxies))].ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// wantComplete checks the database after sweep has completed all work: each accepted file is complete and has one
// entry, each deleted file is gone, and nothing else remains.
func (u *uploader) wantComplete(t *testing.T, accepted, deleted map[string]bool) {
	t.Helper()
	state, err := servertest.ReadStore(t.Context(), u.db)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range slices.Concat(state.Violations(), state.ContentViolations(), state.Unfinished()) {
		if strings.Contains(v.What, "in the journal have no note") {
			continue // the previous version of sweep deletes a note without the journal, and setup fsck --repair deletes the journal
		}
		t.Error(v)
	}
	for id := range accepted {
		if _, stored := state.Files[id]; stored == deleted[id] {
			t.Errorf("accepted file %s: got stored %t, want %t", id, stored, !deleted[id])
		}
	}
	for id := range deleted {
		if _, listed := state.Entries[id]; listed {
			t.Errorf("deleted file %s: got a catalog entry, want none", id)
		}
	}
}

// TestUpgradeOfData proves that files and uploads of the previous version are complete after an upgrade. The broker has
// lost the events of some files after it confirmed them. setup adds notes for these files, and sweep publishes the
// events.
func TestUpgradeOfData(t *testing.T) {
	previousFunctions(t, "upload", "record")
	var lose atomic.Bool
	u := startUpload(t, 0, "")
	record := u.startVersions(t, "record")
	old := runFunction(t, "previous-upload", append(slices.Clip(u.settings), "MONGODB_URI="+u.uri, "EVENTS_URL="+alternate(t, &lose, record[0]))...)
	u.urls = []string{old}
	accepted := map[string]bool{}
	post := func(replica int, body, key string) string {
		t.Helper()
		status, id := u.post(t, replica, body, key)
		if status != http.StatusAccepted {
			t.Fatalf("upload a file: got status %d, want 202", status)
		}
		accepted[id] = true
		return id
	}
	for _, lost := range []bool{false, true} {
		lose.Store(lost)
		post(0, "plain", "")
		post(0, "keyed", fmt.Sprintf(`"lost %t"`, lost))
		post(0, strings.Repeat("x", 2*mebi+5), "")
	}
	open, content := u.createTus(t, 2*mebi+5), servertest.RandomBytes(2*mebi+5)
	complete := u.createTus(t, len(content))
	for id, end := range map[string]int{open: mebi + 300, complete: len(content)} {
		if status, _, err := u.askTus(t.Context(), http.MethodPatch, old+"/upload/tus/"+id, content[:end], "Upload-Offset", "0"); err != nil || status != http.StatusNoContent {
			t.Fatalf("append to an upload: got status %d and error %v, want 204", status, err)
		}
	}
	accepted[complete], accepted[open] = true, true

	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	for range 2 { // setup can run again
		if _, log, err := setupCommand(t, "", []string{"MYSQL_DSN=" + dsn, "MYSQL_ADMIN_DSN=" + admin, "MONGODB_URI=" + u.uri}); err != nil {
			t.Fatalf("setup: %v\n%s", err, log)
		}
	}
	lose.Store(false)
	sink := alternate(t, &lose, record[1])
	upload := runFunction(t, "upload", append(slices.Clip(u.settings), "MONGODB_URI="+u.uri, "EVENTS_URL="+sink)...)
	offset := strconv.Itoa(mebi + 300)
	if status, _, err := u.askTus(t.Context(), http.MethodPatch, upload+"/upload/tus/"+open, content[mebi+300:], "Upload-Offset", offset); err != nil || status != http.StatusNoContent {
		t.Errorf("complete an upload of the previous version: got status %d and error %v, want 204", status, err)
	}
	u.urls = append(u.urls, upload)
	if id := post(1, "keyed", `"lost true"`); len(accepted) != 8 {
		t.Errorf("repeat an upload of the previous version: got the new file %s, want the stored file", id)
	}
	sweep := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+sink, "PENDING_GRACE=1ms", "ORPHAN_GRACE=1h")
	time.Sleep(10 * time.Millisecond)
	for range 2 {
		if status, got := postSweep(t, sweep); status != http.StatusOK {
			t.Errorf("sweep: got status %d and %+v, want 200", status, got)
		}
	}
	u.wantComplete(t, accepted, nil)
}

// TestVersionsTogether proves that functions of the previous version and of this version can run at the same time.
// Clients upload and delete files through both versions, and both versions of record and sweep process the files.
// Afterward, each accepted file has one catalog entry, and each deleted file is gone.
func TestVersionsTogether(t *testing.T) {
	previousFunctions(t, "upload", "record", "files", "sweep")
	var never atomic.Bool
	u := startUpload(t, 0, "")
	record := u.startVersions(t, "record")
	sink := alternate(t, &never, record[:]...)
	uploads := u.startVersions(t, "upload", "EVENTS_URL="+sink)
	u.urls = uploads[:]
	key := filepath.Join(t.TempDir(), "link-key")
	if err := os.WriteFile(key, bytes.Repeat([]byte("k"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	files := u.startVersions(t, "files", "LINK_KEY_FILE="+key, "ACCOUNTS_URL=http://127.0.0.1:1")
	sweeps := u.startVersions(t, "sweep", "EVENTS_URL="+sink, "PENDING_GRACE=10ms", "ORPHAN_GRACE=1h")

	var mu sync.Mutex
	accepted, deleted := map[string]bool{}, map[string]bool{}
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(13, uint64(client)))
			for n := range 15 {
				id := ""
				switch random.IntN(3) {
				case 0:
					_, id = u.post(t, random.IntN(2), fmt.Sprintf("client %d, file %d", client, n), "")
				case 1: // the same upload through both versions
					body := fmt.Sprintf("client %d, file %d", client, n)
					first := random.IntN(2)
					_, id = u.post(t, first, body, fmt.Sprintf("%d-%d", client, n))
					if _, again := u.post(t, 1-first, body, fmt.Sprintf("%d-%d", client, n)); again != id {
						t.Errorf("got the files %s and %s with the same key, want one file", id, again)
					}
				default: // a resumable upload that this version completes
					content := servertest.RandomBytes(mebi + 1000)
					first := random.IntN(2) // the previous version cannot continue an upload of this version
					cut := 1 + random.IntN(len(content)-2)
					id = u.createTus(t, len(content)) // sends the request to the previous version
					for i, part := range [][]byte{content[:cut], content[cut:]} {
						status, _, err := u.askTus(t.Context(), http.MethodPatch, uploads[max(first, i)]+"/upload/tus/"+id, part, "Upload-Offset", strconv.Itoa(i*cut))
						if err != nil || status != http.StatusNoContent {
							t.Errorf("append to an upload: got status %d and error %v, want 204", status, err)
						}
					}
				}
				mu.Lock()
				accepted[id] = true
				mu.Unlock()
				if random.IntN(3) > 0 {
					continue
				}
				if status, body, err := u.call(t, http.MethodDelete, files[random.IntN(2)]+"/files/"+id); err != nil || status != http.StatusNoContent {
					t.Errorf("delete file %s: got status %d with %s and error %v, want 204", id, status, body, err)
				}
				mu.Lock()
				deleted[id] = true
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		clients.Wait()
		close(done)
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(100 * time.Millisecond):
			postSweep(t, sweeps[0]) // can respond with 503 after it has found a tombstone
			postSweep(t, sweeps[1])
		}
	}
	if accepted[""] {
		t.Error("got an upload that was not accepted, want 202 for all")
	}
	time.Sleep(50 * time.Millisecond)
	for range 3 {
		if status, got := postSweep(t, sweeps[1]); status != http.StatusOK {
			t.Errorf("sweep: got status %d and %+v, want 200", status, got)
		}
		time.Sleep(50 * time.Millisecond)
	}
	u.wantComplete(t, accepted, deleted)
}
