package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// soakUpload is one file that a client uploads.
type soakUpload struct {
	number int
	kind   string // plain, keyed or tus
	body   []byte
	sum    string
	random *rand.Rand // for the client's choices
}

// newSoakUpload returns the upload with the given number. The result depends only on the number and the seed. The
// logarithms of the sizes are distributed uniformly.
func newSoakUpload(plan soakPlan, number int) soakUpload {
	random := rand.New(rand.NewPCG(plan.seed, uint64(number)))
	u := soakUpload{number: number, kind: []string{"plain", "keyed", "tus"}[random.IntN(3)], random: random}
	u.body = make([]byte, int(math.Exp(random.Float64()*math.Log(float64(plan.maxSize)))))
	var key [32]byte
	for i := range key {
		key[i] = byte(random.Uint32())
	}
	_, _ = rand.NewChaCha8(key).Read(u.body) // never returns an error
	u.sum = servertest.SHA256(u.body)
	return u
}

// soakFile is a file that upload accepted.
type soakFile struct{ id, sum string }

// ledger contains the outcomes of all uploads. The keys of its maps are file names.
type ledger struct {
	mu       sync.Mutex
	accepted map[string]soakFile
	// open contains the digests of the uploads that were not accepted, but whose files can exist.
	open    map[string]string
	kinds   map[string]int // the number of accepted uploads by kind
	lost    []string       // resumable uploads that disappeared
	bytes   int64          // the size of all accepted files
	refused int            // plain uploads with a 5xx response
	unknown int            // plain uploads without a response
	retries int            // requests that repeated a failed request
}

func newLedger() ledger {
	return ledger{accepted: map[string]soakFile{}, open: map[string]string{}, kinds: map[string]int{}}
}

// progress describes how many uploads have ended.
func (l *ledger) progress() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d accepted (%d MiB), %d unknown, %d retries", len(l.accepted), l.bytes/mebi, l.unknown, l.retries)
}

// accept records an accepted upload.
func (l *ledger) accept(name, id string, u soakUpload) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted[name] = soakFile{id, u.sum}
	l.kinds[u.kind]++
	l.bytes += int64(len(u.body))
}

// leave records an upload that was not accepted. It also increments the given counter, which can be nil.
func (l *ledger) leave(name string, u soakUpload, counter *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[name] = u.sum
	if counter != nil {
		*counter++
	}
}

// lose records a resumable upload that disappeared.
func (l *ledger) lose(description string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = append(l.lost, description)
}

// retry records that a client repeats a request.
func (l *ledger) retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retries++
}

// soakClient is a client that repeats failed requests in the way that the documentation tells clients to.
type soakClient struct {
	t     *testing.T
	s     *soak
	owner string
	http  *http.Client
}

// newSoakClient returns client number i, which has its own user. It opens a new connection for each request, so that a
// killed process cannot break a request that was not sent yet.
func newSoakClient(t *testing.T, s *soak, i int) *soakClient {
	client := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	return &soakClient{t, s, fmt.Sprintf("0190-soak-%02d", i), client}
}

// upload uploads u and records the outcome.
func (c *soakClient) upload(ctx context.Context, u soakUpload) {
	if c.s.plan.pause > 0 {
		c.wait(ctx, randomTime(u.random, c.s.plan.pause))
	}
	switch u.kind {
	case "plain":
		c.plain(ctx, u)
	case "keyed":
		c.keyed(ctx, u)
	case "tus":
		c.tus(ctx, u)
	}
}

// plain uploads u without an idempotency key. If the outcome is unknown, plain does not repeat the request, because
// the file would be stored twice. After a 5xx response, it sends the file again with another name.
func (c *soakClient) plain(ctx context.Context, u soakUpload) {
	for try, attempt := 0, 0; ctx.Err() == nil; try++ {
		name := fmt.Sprintf("soak-%06d-%d.bin", u.number, attempt)
		got, sent, err := c.ask(ctx, u, http.MethodPost, "/upload?name="+name, u.body)
		switch {
		case err != nil && !sent:
		case err != nil:
			c.s.ledger.leave(name, u, &c.s.ledger.unknown)
			return
		case c.accepted(name, u, got):
			return
		case got.status < 500:
			c.t.Errorf("upload %s: got %s, want 202 or 5xx", name, got)
			c.s.ledger.leave(name, u, nil)
			return
		default:
			c.s.ledger.leave(name, u, &c.s.ledger.refused)
			attempt++
		}
		c.backoff(ctx, u, try)
	}
	c.t.Errorf("upload %d: %v", u.number, context.Cause(ctx))
}

// keyed uploads u with an idempotency key until it is accepted.
func (c *soakClient) keyed(ctx context.Context, u soakUpload) {
	name := fmt.Sprintf("soak-%06d.bin", u.number)
	key := fmt.Sprintf(`"soak-%06d"`, u.number)
	for try := 0; ctx.Err() == nil; try++ {
		got, _, err := c.ask(ctx, u, http.MethodPost, "/upload?name="+name, u.body, "Idempotency-Key", key)
		if err == nil && c.accepted(name, u, got) {
			return
		}
		if err == nil && got.status < 500 {
			c.t.Errorf("upload %s: got %s, want 202 or 5xx", name, got)
			break
		}
		c.backoff(ctx, u, try)
	}
	c.s.ledger.leave(name, u, nil)
	if ctx.Err() != nil {
		c.t.Errorf("upload %s: %v", name, context.Cause(ctx))
	}
}

// accepted reports whether the response has the status 202, and records the accepted file.
func (c *soakClient) accepted(name string, u soakUpload, got answer) bool {
	if got.status != http.StatusAccepted {
		return false
	}
	var file struct{ ID, SHA256 string }
	if err := json.Unmarshal(got.body, &file); err != nil || file.SHA256 != u.sum {
		c.t.Errorf("upload %s: got %s (%v), want the digest %s", name, got, err, u.sum)
	}
	c.s.ledger.accept(name, file.ID, u)
	return true
}

// tus uploads u as a resumable upload in one to four requests. After a failed request, it asks for the offset and
// continues there.
func (c *soakClient) tus(ctx context.Context, u soakUpload) {
	name := fmt.Sprintf("soak-%06d.bin", u.number)
	size, piece := int64(len(u.body)), int64(len(u.body)/(1+u.random.IntN(4))+1)
	var id string
	offset := int64(-1) // unknown
	for try := 0; ctx.Err() == nil; {
		var got answer
		var err error
		switch {
		case id == "":
			got, _, err = c.ask(ctx, u, http.MethodPost, "/upload/tus/", nil, "Upload-Length", strconv.FormatInt(size, 10),
				"Upload-Metadata", "filename "+base64.StdEncoding.EncodeToString([]byte(name)))
			if err == nil && got.status == http.StatusCreated {
				id, offset = path.Base(got.header.Get("Location")), 0
				continue
			}
		case offset < 0:
			got, _, err = c.ask(ctx, u, http.MethodHead, "/upload/tus/"+id, nil)
			if err == nil && got.status == http.StatusOK {
				offset = uploadOffset(got)
			}
		default:
			got, _, err = c.ask(ctx, u, http.MethodPatch, "/upload/tus/"+id, u.body[offset:min(offset+piece, size)],
				"Content-Type", "application/offset+octet-stream", "Upload-Offset", strconv.FormatInt(offset, 10))
			offset = -1
			if err == nil && got.status == http.StatusNoContent {
				offset = uploadOffset(got)
			}
		}
		switch {
		case offset == size:
			c.s.ledger.accept(name, id, u)
			return
		case offset >= 0:
			continue
		case err == nil && (got.status == http.StatusNotFound || got.status == http.StatusGone) && id != "":
			c.s.ledger.lose(fmt.Sprintf("%s (%s): got %s, want the resumable upload", name, id, got))
			return
		case err == nil && got.status < 500 && got.status != http.StatusConflict && got.status != http.StatusLocked:
			c.t.Errorf("resumable upload %s of %s: got %s, want 2xx, 409, 423 or 5xx", id, name, got)
			c.s.ledger.leave(name, u, nil)
			return
		}
		c.backoff(ctx, u, try)
		try++
	}
	c.s.ledger.leave(name, u, nil)
	c.t.Errorf("resumable upload %s of %s: %v", id, name, context.Cause(ctx))
}

// uploadOffset returns the Upload-Offset header of a response, or -1 if the response has none.
func uploadOffset(got answer) int64 {
	offset, err := strconv.ParseInt(got.header.Get("Upload-Offset"), 10, 64)
	if err != nil {
		return -1
	}
	return offset
}

// ask sends a request to a random replica and returns the response. sent reports whether the replica might have
// received the request. headers contains alternating names and values.
func (c *soakClient) ask(
	ctx context.Context, u soakUpload, method, target string, body []byte, headers ...string,
) (got answer, sent bool, err error) {
	paced := &pacedReader{r: bytes.NewReader(body), piece: len(body)/10 + 1}
	if c.s.plan.span > 0 {
		paced.pause = randomTime(u.random, c.s.plan.span) / 10
	}
	replica := c.s.replicas[u.random.IntN(len(c.s.replicas))]
	request, err := http.NewRequestWithContext(ctx, method, replica+target, paced)
	if err != nil {
		return answer{}, false, err
	}
	if request.ContentLength = int64(len(body)); len(body) == 0 {
		request.Body = http.NoBody
	}
	raw, _, err := c.s.signer.Sign(token.Subject{ID: c.owner, Username: c.owner, Roles: []string{token.RoleUser}, Version: 1})
	if err != nil {
		return answer{}, false, err
	}
	request.Header.Set("Authorization", "Bearer "+raw)
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Tus-Resumable", "1.0.0")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.http.Do(request)
	if err != nil {
		var failed *net.OpError
		return answer{}, !errors.As(err, &failed) || failed.Op != "dial", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, text}, true, err
}

// backoff waits before the next attempt. try is the number of failed attempts so far. The limit of the wait doubles
// with each attempt, because a slow store would otherwise be busy only with repeated requests.
func (c *soakClient) backoff(ctx context.Context, u soakUpload, try int) {
	c.s.ledger.retry()
	c.wait(ctx, randomTime(u.random, min(100*time.Millisecond<<min(try, 7), c.s.plan.backoff)))
}

// wait waits for the given time, or until ctx is done.
func (c *soakClient) wait(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// pacedReader reads at most piece bytes at a time and pauses after each piece, so that a request takes long enough to
// be interrupted.
type pacedReader struct {
	r     io.Reader
	piece int
	pause time.Duration
}

func (p *pacedReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b[:min(len(b), p.piece)])
	if n > 0 {
		time.Sleep(p.pause)
	}
	return n, err
}

// terminateAbandoned terminates the resumable uploads whose clients never received a URL, because they would otherwise
// remain until they expire after a day.
func (s *soak) terminateAbandoned(t *testing.T) {
	t.Helper()
	kept := map[string]bool{}
	for _, f := range s.ledger.accepted {
		kept[f.id] = true
	}
	type note struct {
		ID        string     `bson:"_id"`
		Owner     string     `bson:"owner"`
		ExpiresAt *time.Time `bson:"expires_at"`
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cursor, err := s.db.Collection("uploads").Find(ctx, bson.D{})
	var notes []note
	if err == nil {
		err = cursor.All(ctx, &notes)
	}
	if err != nil {
		t.Logf("list the notes of uploads: %v", err) // the store can still be starting
		return
	}
	for _, n := range notes {
		if n.ExpiresAt == nil || kept[n.ID] {
			continue
		}
		c := newSoakClient(t, s, 0)
		c.owner = n.Owner
		got, _, err := c.ask(ctx, newSoakUpload(s.plan, 0), http.MethodDelete, "/upload/tus/"+n.ID, nil)
		if err != nil || got.status != http.StatusNoContent && got.status != http.StatusNotFound {
			t.Logf("terminate the resumable upload %s: got %s (%v), want 204 or 404", n.ID, got, err)
		}
	}
}
