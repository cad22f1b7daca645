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
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/bench/nullmongo"
)

const (
	chunk       = 1 << 20   // size of a chunk, in bytes
	oneStream   = 1 << 30   // size of a file that is uploaded alone, in bytes
	atOnce      = 40        // number of concurrent uploads, which is the containerConcurrency of upload
	eachOfThem  = 64 << 20  // size of each concurrent upload, in bytes
	uploadLimit = 512 << 20 // memory limit of upload in bytes, as in its manifest
	uploadGoal  = 200 << 20 // maximum peak memory of upload, in bytes
	streamGoal  = 8 << 20   // maximum size of the buffers of one stream, in bytes
)

// BenchmarkUpload measures the throughput of single streams of 1 GiB to a null server (see package nullmongo). It
// alternates between three ways. "driver" is the GridFS writer of the driver with a SHA-256 of the stream, which is the
// reference. "writer" is the writer of package content. "function" is the real upload function over HTTP. The client,
// the null server and the function share the cores of the machine.
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
			_, err := files.Put(b.Context(), content.File{Info: file.Info{Size: oneStream}}, block.reader(oneStream), noEvent)
			return err
		}, 0},
		{"function", func() error {
			_, err := upload.post(b.Context(), block, oneStream)
			return err
		}, 0},
	}
	for _, way := range ways { // the warm-up
		if err := way.send(); err != nil {
			b.Fatalf("%s: %v", way.name, err)
		}
	}
	rounds := 0
	for b.Loop() {
		for i := range ways { // alternate, so that other load on the machine affects all ways equally
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

// BenchmarkUploadBuffers measures the maximum memory of a stream. The null server does not respond to inserts until all
// streams wait for it. "one" is a single stream, which has its maximum number of inserts in flight. "many" are
// concurrent streams, which share the maximum number of inserts of the store. "slow" are concurrent streams whose
// clients stop after half a chunk. For comparison, "driver" is a single stream of the driver's GridFS writer.
func BenchmarkUploadBuffers(b *testing.B) {
	null := startNull(b)
	files := openContent(b, null)
	plain := gridFS(b, null)
	block := newBlock(1)
	writer := func(ctx context.Context, r io.Reader) {
		_, _ = files.Put(ctx, content.File{Info: file.Info{Size: -1}}, r, noEvent) // returns an error when ctx is canceled
	}
	driver := func(ctx context.Context, r io.Reader) { _, _ = plain.UploadFromStream(ctx, "a", r) }
	for _, c := range []struct {
		name    string
		put     func(context.Context, io.Reader)
		streams int
		size    int // the number of bytes that each client sends before it stops
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
				b.Errorf("memory of a stream: got %.0f KiB, want at most %.0f KiB", most/1024, c.goal/1024)
			}
		})
	}
}

// held returns the memory that all streams together use while they wait for the null server, in bytes.
func held(b *testing.B, null *nullmongo.Server, block block, put func(context.Context, io.Reader), streams, size int) float64 {
	put(b.Context(), block.reader(8*chunk)) // allocates connections and other memory that does not belong to a stream
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
	// The streams wait when each of them has read some bytes, and none of them has read any more for 300 ms.
	const quiet = 300 * time.Millisecond
	for last, since := int64(-1), time.Now(); time.Since(since) < quiet; time.Sleep(quiet / 10) {
		if now := read.Load(); now != last || now < int64(streams*min(size, chunk)) {
			last, since = now, time.Now()
		}
	}
	holding := inUse()
	cancel()
	release()
	_ = group.Wait() // always nil
	return holding - before
}

// stuck is the request body of a client that sends the bytes of r and then stops, until done is closed.
type stuck struct {
	r    io.Reader
	read *atomic.Int64 // the number of bytes read from all bodies
	done <-chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.read.Add(int64(n))
	if err == io.EOF {
		<-s.done
		return 0, errors.New("the client closed the connection")
	}
	return n, err
}

// inUse returns the heap memory in use after a garbage collection, in bytes.
func inUse() float64 {
	runtime.GC()
	runtime.GC() // a sync.Pool releases its objects only after the second garbage collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse)
}

// BenchmarkUploadsAtOnce measures 40 concurrent uploads of 64 MiB to the real upload function with a null server. It
// checks the digests in the responses, and prints the throughput and the peak memory of the function.
func BenchmarkUploadsAtOnce(b *testing.B) {
	upload := startUpload(b, startNull(b))
	b.Logf("the memory limit of 512 MiB is set with %s", upload.limit)
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
					err = fmt.Errorf("upload %d: got the digest %s, want %s", i, got, want[i])
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
		b.Errorf("peak memory: got %d MiB, want at most %d MiB", peak>>20, uploadGoal>>20)
	}
}

// startNull starts a null server. The benchmark fails if the server receives an invalid message.
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

// gridFS returns a GridFS bucket of the driver with the default chunk size of 255 KiB. With chunks of 1 MiB, the driver
// is half as fast, because it does not reuse the memory of messages of that size.
func gridFS(b *testing.B, null *nullmongo.Server) *mongo.GridFSBucket {
	client, err := mongo.Connect(options.Client().ApplyURI(null.URI()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Disconnect(context.WithoutCancel(b.Context())) })
	return client.Database("strongroom").GridFSBucket()
}

// openContent opens a content store in the null server, which is closed when the benchmark ends.
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

// noEvent is a finish function for Put that returns no event.
func noEvent(*content.File) ([]byte, error) { return nil, nil }

// uploader is a running upload function and an access token for it.
type uploader struct {
	*limited
	bearer string
}

// startUpload starts the upload function with a null server and an event sink that accepts all events.
func startUpload(b *testing.B, null *nullmongo.Server) *uploader {
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(sink.Close)
	return startUploadTo(b, null.URI(), sink.URL)
}

// startUploadTo starts the upload function with the given stores.
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

// post uploads a file and returns the digest in the response.
func (u *uploader) post(ctx context.Context, block block, size int64) (sum string, err error) {
	_, sum, err = u.postFile(ctx, block, size)
	return sum, err
}

// postFile uploads a file and returns the ID and the digest in the response.
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
		return "", "", fmt.Errorf("upload a file: got %s %s (%v), want 202", response.Status, text, err)
	}
	var file struct {
		ID     string `json:"id"`
		SHA256 string `json:"sha256"`
	}
	err = json.Unmarshal(text, &file)
	return file.ID, file.SHA256, err
}

// block is a sequence of bytes. The content of a file is a repeated block.
type block []byte

// newBlock returns a block of pseudorandom bytes, which depend only on seed. Its length is not a divisor of the chunk
// size, so that all chunks of a file are different.
func newBlock(seed byte) block {
	b := make(block, chunk-1)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never returns an error
	return b
}

// reader returns the content of a file of the given size.
func (b block) reader(size int64) io.Reader {
	return io.LimitReader(&repeated{block: b, rest: bytes.NewReader(b)}, size)
}

// repeated is a reader that repeats a block without end.
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
