//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// errCut is the error of a request body that ends early on purpose.
var errCut = errors.New("the test ends the request")

// slow is a request body that is sent at a limited rate. If cut is not 0, reading fails with errCut after cut bytes.
type slow struct {
	content []byte
	pause   time.Duration // before each 64 KiB
	cut     int
	sent    int
}

func (s *slow) Read(p []byte) (int, error) {
	if s.cut > 0 && s.sent >= s.cut {
		return 0, errCut
	}
	if s.sent == len(s.content) {
		return 0, io.EOF
	}
	time.Sleep(s.pause)
	n := copy(p[:min(len(p), 64<<10)], s.content[s.sent:])
	s.sent += n
	return n, nil
}

// resumable is a resumable upload (tus 1.0).
type resumable struct {
	s        *system
	token    string
	function string
	file     *file
	location string
}

// send sends one request of the upload. The response must have the status want.
func (r *resumable) send(method, path string, want int, header map[string]string, body *slow) (answer, error) {
	header["Tus-Resumable"] = "1.0.0"
	got, err := r.s.stream(method, r.function, path, r.token, header, body, int64(len(body.content)))
	if err == nil && got.status != want {
		err = fmt.Errorf("%s %s: got %s, want %d", method, path, got, want)
	}
	return got, err
}

// create creates the upload.
func (r *resumable) create() error {
	got, err := r.send(http.MethodPost, "/upload/tus", http.StatusCreated, map[string]string{
		"Upload-Length":   fmt.Sprint(len(r.file.content)),
		"Upload-Metadata": "filename " + base64.StdEncoding.EncodeToString([]byte(r.file.name)),
	}, &slow{})
	if err != nil {
		return err
	}
	r.location = got.header.Get("Location")
	_, r.file.id, _ = strings.Cut(r.location, "/upload/tus/")
	return nil
}

// offset returns how many bytes the server has.
func (r *resumable) offset() (offset int, err error) {
	got, err := r.send(http.MethodHead, r.location, http.StatusOK, map[string]string{}, &slow{})
	if err == nil {
		_, err = fmt.Sscan(got.header.Get("Upload-Offset"), &offset)
	}
	return offset, err
}

// resume sends the rest of the file. If cut is not 0, it ends the connection after cut bytes.
func (r *resumable) resume(pause time.Duration, cut int) error {
	offset, err := r.offset()
	if err != nil || offset == len(r.file.content) {
		return err
	}
	_, err = r.send(http.MethodPatch, r.location, http.StatusNoContent, map[string]string{
		"Upload-Offset": fmt.Sprint(offset), "Content-Type": "application/offset+octet-stream",
	}, &slow{content: r.file.content[offset:], pause: pause, cut: cut})
	return err
}

// again calls do every second until it succeeds, for at most 3 minutes.
func again(do func() error) error {
	deadline := time.Now().Add(3 * time.Minute)
	for {
		err := do()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(time.Second)
	}
}

// TestResumableUpload proves that a client can resume an upload after its connection has ended, through all proxies.
func TestResumableUpload(t *testing.T) {
	s := open(t)
	for _, function := range []string{"upload", "gateway"} {
		t.Run(function, func(t *testing.T) {
			r := &resumable{s: s, token: s.signedIn(t), function: function, file: newFile("resumed.bin", 6<<20)}
			if err := r.create(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				// An upload can be locked until the server notices that the connection has ended.
				if err := again(func() error {
					err := r.resume(0, 2<<20)
					if errors.Is(err, errCut) {
						return nil
					}
					return fmt.Errorf("got %w, want the end of the connection", err)
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := again(func() error { // the server stores the bytes when it notices that the connection has ended
				received, err := r.offset()
				if err == nil && received == 0 {
					err = errors.New("got the offset 0 after two interrupted requests, want a part of the file")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := again(func() error { return r.resume(0, 0) }); err != nil {
				t.Fatal(err)
			}
			s.catalogued(t, r.file, 2*time.Minute)
			s.download(t, r.file)
		})
	}
}

// TestIngressDrain proves that no upload is lost or stored twice while the pods of the ingress are replaced. Clients
// repeat a failed request with the same key, and resume an interrupted resumable upload.
func TestIngressDrain(t *testing.T) {
	s := open(t)
	in := findIngress(t)
	token := s.signedIn(t)
	var deployment struct {
		Spec struct {
			Selector struct {
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"selector"`
		} `json:"spec"`
	}
	get(t, &deployment, "deployment", in.deployment, "--namespace", in.namespace)
	var labels []string
	for name, value := range deployment.Spec.Selector.MatchLabels {
		labels = append(labels, name+"="+value)
	}
	started := time.Now().UnixNano()
	const pause = 100 * time.Millisecond // 64 KiB each, so that an upload of 8 MiB takes 13 s
	var clients errgroup.Group
	var files []*file
	failures := make([]int, 6)
	for i := range failures {
		f := newFile(fmt.Sprintf("drain-%d-%d.bin", started, i), 8<<20)
		files = append(files, f)
		function := []string{"upload", "gateway"}[i%2]
		if i < 2 {
			r := &resumable{s: s, token: token, function: function, file: f}
			if err := r.create(); err != nil {
				t.Fatal(err)
			}
			clients.Go(func() error {
				return again(func() error {
					err := r.resume(pause, 0)
					if err != nil {
						failures[i]++
					}
					return err
				})
			})
			continue
		}
		clients.Go(func() error {
			time.Sleep(time.Duration(i) * 4 * time.Second) // some uploads start after the drain has begun
			return again(func() error {
				header := map[string]string{"Content-Type": "application/octet-stream", "Idempotency-Key": fmt.Sprintf(`"%s"`, f.name)}
				got, err := s.stream(http.MethodPost, function, "/upload?name="+f.name, token, header, &slow{content: f.content, pause: pause}, int64(len(f.content)))
				if err == nil && got.status != http.StatusAccepted {
					err = fmt.Errorf("upload %s: got %s, want 202", f.name, got)
				}
				if err != nil {
					failures[i]++
					return err
				}
				var stored struct{ ID string }
				err = json.Unmarshal(got.body, &stored)
				f.id = stored.ID
				return err
			})
		})
	}
	time.Sleep(5 * time.Second)
	kubectl(t, "delete", "pods", "--selector", strings.Join(labels, ","), "--namespace", in.namespace, "--wait=false")
	err := clients.Wait()
	kubectl(t, "rollout", "status", "deployment/"+in.deployment, "--namespace", in.namespace, "--timeout=100s")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("failed requests of each client: %v", failures)
	for _, f := range files {
		s.catalogued(t, f, 2*time.Minute)
		s.download(t, f)
	}
	var page struct {
		Files []struct{ ID, Name string }
	}
	s.call(t, http.MethodGet, "files", fmt.Sprintf("/files?q=drain+%d&limit=100", started), s.signedIn(t), nil, nil).decode(t, http.StatusOK, &page)
	if len(page.Files) != len(files) {
		t.Errorf("got the files %v, want each of the %d files once", page.Files, len(files))
	}
}
