package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/bench/nullmongo"
)

const (
	chunk       = 1 << 20   // of a file, in bytes
	oneStream   = 1 << 30   // bytes of the file that is uploaded alone
	atOnce      = 40        // uploads at once: the containerConcurrency of upload
	eachOfThem  = 64 << 20  // bytes of each
	uploadLimit = 512 << 20 // of upload's memory, as in its manifest
	uploadGoal  = 200 << 20 // that it must keep to
	streamGoal  = 8 << 20   // of the buffers of one stream
)

// BenchmarkUpload sends one stream of 1 GiB after another to a null server (see nullmongo) in three ways, in turns: with
// nothing but the driver (its GridFS as it comes, and SHA-256 on the way), which is the ceiling; with our own writer; and
// over HTTP to the real upload function. All of it, client, null server and function, shares the cores of this machine.
func BenchmarkUpload(b *testing.B) {
	null := startNull(b)
	plain := gridFS(b, null)
	files := openContent(b, null)
	upload := startUpload(b, null)
	block := newBlock(1)
	ways := []struct {
		name string
		send func() error
		took time.Duration
	}{
		{"driver", func() error {
			sum := sha256.New()
			_, err := plain.UploadFromStream(b.Context(), "a", io.TeeReader(block.reader(oneStream), sum))
			return err
		}, 0},
		{"writer", func() error {
			_, err := files.Put(b.Context(), content.File{Size: oneStream}, block.reader(oneStream), noEvent)
			return err
		}, 0},
		{"function", func() error {
			_, err := upload.post(b.Context(), block, oneStream)
			return err
		}, 0},
	}
	for _, way := range ways { // until all is warm
		if err := way.send(); err != nil {
			b.Fatalf("%s: %v", way.name, err)
		}
	}
	rounds := 0
	for b.Loop() {
		for i := range ways { // in turns, so that what else the machine does is shared
			way := &ways[i]
			began := time.Now()
			if err := way.send(); err != nil {
				b.Fatalf("%s: %v", way.name, err)
			}
			way.took += time.Since(began)
		}
		rounds++
	}
	for _, way := range ways {
		b.ReportMetric(float64(rounds)*oneStream/(1<<20)/way.took.Seconds(), way.name+"-MiB/s")
		if way.name != "driver" {
			b.ReportMetric(ways[0].took.Seconds()/way.took.Seconds(), way.name+"/driver")
		}
	}
	b.ReportMetric(float64(upload.peak(b))/(1<<20), "peak-MiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkUploadBuffers measures what a stream holds in memory when it holds the most: the null server answers no
// insert, until all streams wait. One stream alone then has as much in flight as it may have; many share what all
// together may. slow are streams whose clients have sent half a chunk and then nothing. For comparison, driver is one
// stream of the driver's.
func BenchmarkUploadBuffers(b *testing.B) {
	null := startNull(b)
	files := openContent(b, null)
	plain := gridFS(b, null)
	block := newBlock(1)
	writer := func(ctx context.Context, r io.Reader) {
		_, _ = files.Put(ctx, content.File{Size: -1}, r, noEvent) // ended by its context
	}
	driver := func(ctx context.Context, r io.Reader) { _, _ = plain.UploadFromStream(ctx, "a", r) }
	for _, c := range []struct {
		name    string
		put     func(context.Context, io.Reader)
		streams int
		size    int // that each client sends before it waits
		goal    float64
	}{
		{"one", writer, 1, 64 * chunk, streamGoal},
		{"many", writer, atOnce, 64 * chunk, streamGoal},
		{"slow", writer, atOnce, chunk / 2, streamGoal},
		{"driver", driver, 1, 64 * chunk, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			var most float64
			for b.Loop() {
				most = max(most, held(b, null, block, c.put, c.streams, c.size)/float64(c.streams))
			}
			b.ReportMetric(most/1024, "KiB/stream")
			b.ReportMetric(0, "ns/op")
			if c.goal > 0 && most > c.goal {
				b.Errorf("a stream holds %.0f KiB, want at most %.0f", most/1024, c.goal/1024)
			}
		})
	}
}

// held returns the memory that streams hold together while nothing moves on, in bytes.
func held(b *testing.B, null *nullmongo.Server, block block, put func(context.Context, io.Reader), streams, size int) float64 {
	put(b.Context(), block.reader(8*chunk)) // connections, and what is made once
	before := inUse()
	ctx, cancel := context.WithCancel(b.Context())
	release := null.Hold()
	var read atomic.Int64
	var group errgroup.Group
	for range streams {
		group.Go(func() error {
			put(ctx, &stuck{r: block.reader(int64(size)), read: &read, done: ctx.Done()})
			return nil
		})
	}
	// Nothing moves on when nobody has read anything for a while, all having read something.
	const quiet = 300 * time.Millisecond
	for last, since := int64(-1), time.Now(); time.Since(since) < quiet; time.Sleep(quiet / 10) {
		if now := read.Load(); now != last || now < int64(streams*min(size, chunk)) {
			last, since = now, time.Now()
		}
	}
	holding := inUse()
	cancel()
	release()
	_ = group.Wait() // no stream has an error of its own
	return holding - before
}

// stuck is a client that sends the bytes of r and then nothing any more, until done.
type stuck struct {
	r    io.Reader
	read *atomic.Int64 // of all of them
	done <-chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.read.Add(int64(n))
	if err == io.EOF {
		<-s.done
		return 0, errors.New("gave up")
	}
	return n, err
}

// inUse returns the memory of all that is not garbage, in bytes.
func inUse() float64 {
	runtime.GC()
	runtime.GC() // what a sync.Pool has kept for one more round
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse)
}

// BenchmarkUploadsAtOnce sends 40 files of 64 MiB at once to the real upload function, in front of a null server, and
// compares the digests it answers with. It prints the most memory that the function has had resident.
func BenchmarkUploadsAtOnce(b *testing.B) {
	upload := startUpload(b, startNull(b))
	b.Logf("the memory limit of 512 MiB is %s", upload.limit)
	var blocks [atOnce]block
	var want [atOnce]string
	for i := range blocks {
		blocks[i] = newBlock(byte(i))
		sum := sha256.New()
		if _, err := io.Copy(sum, blocks[i].reader(eachOfThem)); err != nil {
			b.Fatal(err)
		}
		want[i] = hex.EncodeToString(sum.Sum(nil))
	}
	rounds, before := 0, upload.cpu(b)
	for b.Loop() {
		var group errgroup.Group
		for i := range blocks {
			group.Go(func() error {
				got, err := upload.post(b.Context(), blocks[i], eachOfThem)
				if err == nil && got != want[i] {
					err = fmt.Errorf("the digest is %s, want %s", got, want[i])
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		rounds++
	}
	mib := float64(rounds) * atOnce * eachOfThem / (1 << 20)
	peak := upload.peak(b)
	b.ReportMetric(mib/b.Elapsed().Seconds(), "MiB/s")
	b.ReportMetric((upload.cpu(b)-before).Seconds()/(mib/1024), "cpu-s/GiB")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	b.ReportMetric(0, "ns/op")
	if peak > uploadGoal {
		b.Errorf("the peak is %d MiB, want at most %d", peak>>20, uploadGoal>>20)
	}
}

// startNull starts a null server, which must know all it is told.
func startNull(b *testing.B) *nullmongo.Server {
	null, err := nullmongo.Start(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := null.Close(); err != nil {
			b.Error(err)
		}
	})
	return null
}

// gridFS returns the driver's own GridFS, with its chunks of 255 KiB: with 1 MiB it is half as fast, because its messages
// then are too large for it to use their memory again.
func gridFS(b *testing.B, null *nullmongo.Server) *mongo.GridFSBucket {
	client, err := mongo.Connect(options.Client().ApplyURI(null.URI()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Disconnect(context.WithoutCancel(b.Context())) })
	return client.Database("strongroom").GridFSBucket()
}

func openContent(b *testing.B, null *nullmongo.Server) *content.Store {
	files, err := content.Open(null.URI())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := files.Close(); err != nil {
			b.Error(err)
		}
	})
	return files
}

// noEvent is a finish for Put.
func noEvent(*content.File) ([]byte, error) { return nil, nil }

// uploader is a running upload function, and a token for it.
type uploader struct {
	*limited
	bearer string
}

// startUpload starts upload in front of a null server. Its events go to a sink that takes all of them.
func startUpload(b *testing.B, null *nullmongo.Server) *uploader {
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(sink.Close)
	return startUploadTo(b, null.URI(), sink.URL)
}

// startUploadTo starts upload with its stores.
func startUploadTo(b *testing.B, mongoURI, eventsURL string) *uploader {
	dir := b.TempDir()
	env := append(settings(b, dir), "MONGODB_URI="+mongoURI, "EVENTS_URL="+eventsURL, "LOG_LEVEL=warn",
		"REQUEST_TIMEOUT=560s", "GOMEMLIMIT=128MiB") // as in its manifest
	signer, err := token.LoadSigner(filepath.Join(dir, "key.jwk"), "bench", "bench", time.Hour, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	bearer, _, err := signer.Sign(token.Subject{ID: "0190-ada", Username: "ada", Roles: []string{token.RoleUser}, Version: 1})
	if err != nil {
		b.Fatal(err)
	}
	return &uploader{startLimited(b, uploadLimit, build(b, dir, "upload"), env), bearer}
}

// post hands in a file and returns its digest, as the function has it.
func (u *uploader) post(ctx context.Context, block block, size int64) (sum string, err error) {
	_, sum, err = u.postFile(ctx, block, size)
	return sum, err
}

// postFile hands in a file and returns its id and its digest, as the function has it.
func (u *uploader) postFile(ctx context.Context, block block, size int64) (id, sum string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url+"/upload?name=a", block.reader(size))
	if err != nil {
		return "", "", err
	}
	request.ContentLength = size
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Authorization", "Bearer "+u.bearer)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusAccepted {
		return "", "", fmt.Errorf("got %s and %w: %s", response.Status, err, text)
	}
	var file struct {
		ID     string `json:"id"`
		SHA256 string `json:"sha256"`
	}
	err = json.Unmarshal(text, &file)
	return file.ID, file.SHA256, err
}

// block is what files are made of, again and again.
type block []byte

// newBlock returns a block of random bytes, the same every time for one seed. Its length is no divisor of a chunk, so
// that no two chunks are alike.
func newBlock(seed byte) block {
	b := make(block, chunk-1)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// reader returns a file of the given size.
func (b block) reader(size int64) io.Reader {
	return io.LimitReader(&repeated{block: b, rest: bytes.NewReader(b)}, size)
}

// repeated is a block without an end.
type repeated struct {
	block block
	rest  *bytes.Reader
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.rest.Len() == 0 {
		r.rest.Reset(r.block)
	}
	return r.rest.Read(p)
}
