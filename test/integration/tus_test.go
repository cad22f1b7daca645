package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/browser"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

const mebi = 1 << 20

// tusTime bounds one run of upload.mjs.
const tusTime = 3 * time.Minute

// tusResult is the output of upload.mjs.
type tusResult struct {
	URL      string
	Failures int
	Answers  []struct {
		Method string
		Status int
		Offset int64
	}
}

// id returns the ID of the upload, which is also the ID of its file.
func (r tusResult) id() string { return path.Base(r.URL) }

// tusClient runs upload.mjs in the directory project. settings are added to its environment.
func tusClient(ctx context.Context, project string, settings ...string) (tusResult, error) {
	ctx, cancel := context.WithTimeout(ctx, tusTime)
	defer cancel()
	node := exec.CommandContext(ctx, "node", "upload.mjs")
	node.Dir = project
	node.Env = append(os.Environ(), settings...)
	var out, complaint bytes.Buffer
	node.Stdout, node.Stderr = &out, &complaint
	if err := node.Run(); err != nil {
		return tusResult{}, fmt.Errorf("run upload.mjs: %w: %s", err, complaint.Bytes())
	}
	var r tusResult
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("decode the output of upload.mjs: %w: %s", err, out.Bytes())
	}
	return r, nil
}

// bearerToken returns the uploader's access token, without the scheme.
func (u *uploader) bearerToken() string { return strings.TrimPrefix(u.bearer, "Bearer ") }

// wantStock checks that the GridFS implementation of the driver reads a file with the bytes want, and that the SHA-256
// digest in the file's document is correct.
func (u *uploader) wantStock(t *testing.T, id string, want []byte) {
	t.Helper()
	stream, err := u.db.GridFSBucket().OpenDownloadStream(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(stream)
	if err != nil || servertest.SHA256(got) != servertest.SHA256(want) || stream.GetFile().Metadata.Lookup("sha256").StringValue() != servertest.SHA256(want) {
		t.Errorf("GridFS of the driver: got %d bytes with the digest %s (%v) and the document %s, want %d bytes with %s",
			len(got), servertest.SHA256(got), err, stream.GetFile().Metadata, len(want), servertest.SHA256(want))
	}
}

// TestTusClient proves that tus-js-client can upload 100 MiB although its connections are closed three times during a
// request. After each interruption, the client continues the upload at the other replica.
func TestTusClient(t *testing.T) {
	project := browser.Project(t, "../tus")
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	u := startUpload(t, 2, broker.URL)
	c := openCatalog(t, u.uri)
	if err := c.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	adapter(t, broker, runFunction(t, "record", "MONGODB_URI="+u.uri))

	const size, chunk = 100 * mebi, 32 * mebi
	want := servertest.RandomBytes(size)
	local := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(local, want, 0o600); err != nil {
		t.Fatal(err)
	}
	cut := newCutter(t, u.urls, 20*mebi+333_333, 50*mebi, 90*mebi+1)
	r, err := tusClient(t.Context(), project, "ENDPOINT=http://"+cut.address+"/upload/tus/", "TOKEN="+u.bearerToken(), "FILE="+local, fmt.Sprintf("CHUNK=%d", chunk))
	if err != nil {
		t.Fatal(err)
	}
	cuts, taken, sent := cut.counts()
	t.Logf("%d failures; bytes between interruptions %v; responses %+v", r.Failures, taken, r.Answers)

	if cuts != 3 || r.Failures < 3 || slices.Min(taken) < mebi {
		t.Errorf("got %d interruptions, %d failures, and %v bytes between interruptions, want 3, at least 3, and at least 1 MiB each",
			cuts, r.Failures, taken)
	}
	offset, resumed := int64(0), 0
	for i, a := range r.Answers {
		if a.Method == "PATCH" && a.Status == http.StatusConflict {
			continue // the interrupted replica stored more bytes after the HEAD response with the offset
		}
		if (a.Method == "POST") != (i == 0) || a.Status/100 != 2 || a.Offset < offset && a.Method != "POST" {
			t.Errorf("response %d: got %+v after offset %d, want a POST first, status 2xx, and an offset that does not decrease", i, a, offset)
		}
		if a.Method == "HEAD" {
			if resumed++; a.Offset == 0 {
				t.Error("got offset 0 after an interrupted request, want the bytes of the request to be kept")
			}
		}
		offset = max(offset, a.Offset)
	}
	if resumed < 3 || offset != size {
		t.Errorf("got %d continuations up to offset %d, want at least 3 up to %d", resumed, offset, size)
	}
	if again := sent - size; again > int64(r.Failures*chunk) {
		t.Errorf("the client sent %d bytes twice, want at most the bytes of %d failed requests of %d bytes", again, r.Failures, chunk)
	}

	// digests reads the chunks in small batches. For the driver's GridFS, FerretDB would send all chunks in one reply,
	// which would be too long for the driver.
	if got := digests(t, u.db)[r.id()]; got != servertest.SHA256(want) {
		t.Errorf("stored file: got the digest %s, want %s", got, servertest.SHA256(want))
	}
	var stored struct {
		UploadDate time.Time `bson:"uploadDate"`
	}
	if err := u.db.Collection("fs.files").FindOne(t.Context(), bson.D{{Key: "_id", Value: r.id()}}).Decode(&stored); err != nil {
		t.Fatal(err)
	}
	wantEntry(t, c, file.Info{ID: r.id(), Owner: "0190-ada", Name: "großes Ω.bin", Size: size, SHA256: servertest.SHA256(want), ContentType: "application/x-test", StoredAt: stored.UploadDate.UTC()})
	wantSettled(t, broker, 0)
	if all := catalogued(t, c); len(all) != 1 {
		t.Errorf("got %d catalog entries, want 1", len(all))
	}
	if n := servertest.CountDocuments(t, u.db.Collection("uploads"), bson.D{}); n != 0 {
		t.Errorf("got %d unfinished uploads, want none", n)
	}
	servertest.WantNoJournal(t, u.db, r.id())
}

// TestTusTwoClients proves that two tus-js-client processes can send the same file to the same upload at the same time,
// each to another replica. Both succeed, and the result is one correct file.
func TestTusTwoClients(t *testing.T) {
	project := browser.Project(t, "../tus")
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	u := startUpload(t, 2, broker.URL)
	const size = 8*mebi + 4321
	want := servertest.RandomBytes(size)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	id := u.createTus(t, size)
	var results [2]tusResult
	group, ctx := errgroup.WithContext(t.Context())
	for i, replica := range u.urls {
		group.Go(func() (err error) {
			results[i], err = tusClient(ctx, project, "ENDPOINT="+replica+"/upload/tus/", "URL="+replica+"/upload/tus/"+id, "TOKEN="+u.bearerToken(), "FILE="+file, "CHUNK=1000000")
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", results)
	u.wantStock(t, id, want)
	if results[0].id() != id || results[1].id() != id {
		t.Errorf("got the uploads %s and %s, want %s", results[0].id(), results[1].id(), id)
	}
	if n := servertest.CountDocuments(t, u.db.Collection("fs.files"), bson.D{}); n != 1 {
		t.Errorf("got %d files, want 1", n)
	}
}

// TestTusTwoWriters proves that an upload stays consistent if two clients send different bytes to it at the same time,
// in requests of random sizes. The file contains all acknowledged bytes and no others, and its digest matches its
// bytes.
func TestTusTwoWriters(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	u := startUpload(t, 2, broker.URL)
	const size = 5*mebi + 99
	id := u.createTus(t, size)
	var took [2]atomic.Int64
	var conflicts atomic.Int64
	group, ctx := errgroup.WithContext(t.Context())
	for w, replica := range u.urls {
		group.Go(func() error {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for {
				status, offset, err := u.askTus(ctx, http.MethodHead, replica+"/upload/tus/"+id, nil)
				if err != nil || status != http.StatusOK || offset == size {
					return errors.Join(err, unless(status == http.StatusOK, "HEAD: got status %d, want 200", status))
				}
				part := bytes.Repeat([]byte{byte('a' + w)}, min(1+random.IntN(600_000), int(size-offset)))
				status, after, err := u.askTus(ctx, http.MethodPatch, replica+"/upload/tus/"+id, part, "Upload-Offset", strconv.FormatInt(offset, 10))
				switch {
				case err != nil:
					return err
				case status == http.StatusConflict:
					conflicts.Add(1)
				case status != http.StatusNoContent || after != offset+int64(len(part)):
					return fmt.Errorf("PATCH of %d bytes at offset %d: got status %d and offset %d, want 204 and %d",
						len(part), offset, status, after, offset+int64(len(part)))
				default:
					took[w].Add(int64(len(part)))
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("acknowledged %d and %d bytes, %d conflicts", took[0].Load(), took[1].Load(), conflicts.Load())
	var buffer bytes.Buffer
	if _, err := u.db.GridFSBucket().DownloadToStream(t.Context(), id, &buffer); err != nil {
		t.Fatal(err)
	}
	got := buffer.Bytes()
	u.wantStock(t, id, got)
	if len(got) != size {
		t.Errorf("got %d bytes, want %d", len(got), size)
	}
	// The file can contain more bytes of a client than were acknowledged, because a request with a conflict can have
	// stored some of its bytes.
	for w := range took {
		if n := int64(bytes.Count(got, []byte{byte('a' + w)})); n < took[w].Load() {
			t.Errorf("writer %d: got %d bytes in the file, want at least the %d acknowledged bytes", w, n, took[w].Load())
		}
	}
	if bytes.Count(got, []byte{'a'})+bytes.Count(got, []byte{'b'}) != size {
		t.Error("the file contains bytes that no client sent")
	}
}

// unless returns an error if ok is false.
func unless(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// createTus creates a resumable upload at the first replica and returns its ID.
func (u *uploader) createTus(t *testing.T, size int) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u.urls[0]+"/upload/tus/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", u.bearer)
	request.Header.Set("Tus-Resumable", "1.0.0")
	request.Header.Set("Upload-Length", strconv.Itoa(size))
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("create an upload: got %s, want 201", response.Status)
	}
	return path.Base(response.Header.Get("Location"))
}

// askTus sends a tus request for an upload and returns the status and the offset of the response. The offset is -1 if
// the response has none. headers contains alternating names and values.
func (u *uploader) askTus(ctx context.Context, method, url string, body []byte, headers ...string) (status int, offset int64, err error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	request.Header.Set("Authorization", u.bearer)
	request.Header.Set("Tus-Resumable", "1.0.0")
	request.Header.Set("Content-Type", "application/offset+octet-stream")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, 0, err
	}
	offset, err = strconv.ParseInt(response.Header.Get("Upload-Offset"), 10, 64)
	if err != nil {
		offset = -1
	}
	return response.StatusCode, offset, nil
}

// TestTusOnlyForItsOwner proves that requests of other users for an upload are refused with every method and change
// nothing. This applies to admins, too.
func TestTusOnlyForItsOwner(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	u := startUpload(t, 1, broker.URL)
	bearers := map[string]string{}
	for name, role := range map[string]string{"mallory": token.RoleUser, "grace": token.RoleAdmin} {
		_, bearers[name], _ = strings.Cut(bearerOf(t, u.signer, "0190-"+name, name, role), ": ")
	}
	open, complete := u.createTus(t, 10), u.createTus(t, 0)
	for _, id := range []string{open, complete} {
		url := u.urls[0] + "/upload/tus/" + id
		for method, want := range map[string]int{
			http.MethodHead: 404, http.MethodPatch: 404, http.MethodDelete: 404,
			http.MethodGet: 405, http.MethodPut: 405, http.MethodOptions: 200, // the owner gets the same statuses
		} {
			for _, bearer := range []string{bearers["mallory"], bearers["grace"]} {
				status, offset, err := u.askTus(t.Context(), method, url, []byte("mallory's"), "Authorization", bearer, "Upload-Offset", "0")
				if err != nil || status != want || offset != -1 {
					t.Errorf("%s: got status %d, offset %d (%v), want %d and no offset", method, status, offset, err, want)
				}
				status, offset, err = u.askTus(t.Context(), http.MethodPost, url, []byte("mallory's"), "Authorization", bearer, "Upload-Offset", "0",
					"X-HTTP-Method-Override", method)
				if err != nil || status != want || offset != -1 {
					t.Errorf("POST as %s: got status %d, offset %d (%v), want %d and no offset", method, status, offset, err, want)
				}
			}
		}
	}
	for _, id := range []string{open, complete} {
		if status, offset, err := u.askTus(t.Context(), http.MethodHead, u.urls[0]+"/upload/tus/"+id, nil); err != nil || status != 200 || offset != 0 {
			t.Errorf("HEAD of the owner afterward: got status %d, offset %d (%v), want 200 and 0", status, offset, err)
		}
	}
	if status, _, err := u.askTus(t.Context(), http.MethodDelete, u.urls[0]+"/upload/tus/"+open, nil); err != nil || status != 204 {
		t.Errorf("DELETE of the owner: got status %d (%v), want 204", status, err)
	}
}
