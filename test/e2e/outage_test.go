//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestRecordWithoutMongoDB proves that the event of a file is delivered again until record can add the catalog entry.
// In the meantime, record cannot reach MongoDB, and the file has the status "stored".
func TestRecordWithoutMongoDB(t *testing.T) {
	s := open(t)
	index, original := -1, map[string]any(nil)
	for i, volume := range services(t)["record"].Spec.Template.Spec.Volumes {
		if volume["name"] == "mongodb" {
			index, original = i, volume
		}
	}
	if original == nil {
		t.Fatal("the Service record has no volume mongodb")
	}
	set := func(volume map[string]any) {
		t.Helper()
		patch, err := json.Marshal([]any{map[string]any{
			"op": "replace", "path": fmt.Sprintf("/spec/template/spec/volumes/%d", index), "value": volume}})
		if err != nil {
			t.Fatal(err)
		}
		kubectl(t, "patch", "ksvc", "record", "--type=json", "--patch", string(patch))
		eventually(t, 3*time.Minute, func() string {
			if !services(t)["record"].ready() {
				return "the new revision of record is not ready"
			}
			return ""
		})
	}
	restored := false
	restore := func() {
		if !restored {
			restored = true
			set(original)
		}
	}
	const secret = "mongodb-unreachable"
	t.Cleanup(func() { kubectl(t, "delete", "secret", secret, "--ignore-not-found") })
	t.Cleanup(restore)
	// No server has this address. Only record loses its connection to MongoDB, so upload and files still work.
	kubectl(t, "create", "secret", "generic", secret, "--from-literal=uri=mongodb://127.0.0.1:1/strongroom?authSource=strongroom")
	set(map[string]any{"name": "mongodb", "secret": map[string]any{
		"secretName": secret, "items": []map[string]string{{"key": "uri", "path": "uri"}}}})

	// After the change of the Service, the old revision can still receive events for some time. Repeat the upload until
	// a file is not cataloged within 5 s.
	var f *file
	eventually(t, 2*time.Minute, func() string {
		f = newFile("without MongoDB.txt", 1<<10)
		s.upload(t, f)
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			if s.status(t, f) == "catalogued" {
				return "got status catalogued, want stored while record cannot reach MongoDB"
			}
		}
		return ""
	})
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		if status := s.status(t, f); status != "stored" {
			t.Fatalf("file while record cannot reach MongoDB: got status %s, want stored", status)
		}
	}
	s.download(t, f)
	restore()
	s.catalogued(t, f, 6*time.Minute)
}

// TestUploadsWithoutRabbitMQ proves that uploads are accepted while RabbitMQ stops, while it is down and while it starts,
// that clients can download the files, and that all files reach the catalog after RabbitMQ is up again.
func TestUploadsWithoutRabbitMQ(t *testing.T) {
	s := open(t)
	var files []*file
	upload := func(name string) *file {
		f := newFile(name, 64<<10)
		s.upload(t, f)
		files = append(files, f)
		return f
	}
	for i := range 4 {
		upload(fmt.Sprintf("before the outage %d.bin", i))
	}
	start := stopStore(t, "rabbitmq")
	upload("while RabbitMQ stops.bin")
	kubectl(t, "wait", "pod/rabbitmq-0", "--for=delete", "--timeout=100s")
	for i := range 3 {
		f := upload(fmt.Sprintf("without RabbitMQ %d.bin", i))
		if status := s.status(t, f); status != "stored" {
			t.Errorf("file while RabbitMQ is down: got status %s, want stored", status)
		}
	}
	start()
	upload("while RabbitMQ starts.bin")
	// sweep first publishes an event when the file is at least 2 min old. Kubernetes restarts the receive adapter after
	// the adapter has lost the connection to RabbitMQ several times. The backoff between restarts can take minutes.
	inside := newNeighbor(t)
	eventually(t, 8*time.Minute, func() string {
		inside.post(t, "sweep", nil, "") // responds with 503 until RabbitMQ is up, and with 429 within a minute
		for _, f := range files {
			if status := s.status(t, f); status != "catalogued" {
				time.Sleep(10 * time.Second)
				return fmt.Sprintf("file %s: got status %s, want catalogued", f.name, status)
			}
		}
		return ""
	})
	for _, f := range files {
		s.download(t, f)
	}
}

// TestStoresUnavailable proves that while a store is down, the functions that need it respond with 503 and Retry-After,
// and validate still works. After the store is up again, all functions work without a restart.
func TestStoresUnavailable(t *testing.T) {
	s := open(t)
	login := func(t *testing.T) answer { return s.login(t, s.username, s.password) }
	upload := func(t *testing.T) answer { return s.tryUpload(t, newFile("store unavailable.txt", 1<<10)) }
	list := func(t *testing.T) answer {
		return s.call(t, http.MethodGet, "files", "/files", s.signedIn(t), nil, nil)
	}
	for _, store := range []struct {
		name  string
		needs map[string]func(*testing.T) answer
	}{
		{"mysql", map[string]func(*testing.T) answer{"login": login}},
		{"mongodb", map[string]func(*testing.T) answer{"upload": upload, "files": list}},
	} {
		t.Run(store.name, func(t *testing.T) {
			token := s.signedIn(t)
			for name, request := range store.needs {
				if got := request(t); got.status/100 != 2 {
					t.Fatalf("request to %s before the outage: got status %d, want 2xx", name, got.status)
				}
			}
			before := pods(t)
			start := stopStore(t, store.name)
			for name, request := range store.needs {
				eventually(t, time.Minute, func() string {
					got := request(t)
					if got.status/100 == 2 {
						return fmt.Sprintf("request to %s: got status %d, want 503", name, got.status)
					}
					retryAfter(t, got)
					return ""
				})
			}
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
				for name, request := range store.needs {
					sent := time.Now()
					got := request(t)
					if got.status != http.StatusServiceUnavailable {
						t.Fatalf("request to %s while %s is down: got status %d, want 503", name, store.name, got.status)
					}
					time.Sleep(min(retryAfter(t, got), 2*time.Second))
					if took := time.Since(sent); took > 30*time.Second {
						t.Errorf("503 from %s while %s is down: got it after %v, want it within 30 s", name, store.name, took)
					}
				}
				if got := s.call(t, http.MethodGet, "validate", "/validate", token, nil, nil); got.status != http.StatusOK {
					t.Fatalf("request to validate while %s is down: got %s, want 200", store.name, got)
				}
			}
			start()
			for name, request := range store.needs {
				eventually(t, 2*time.Minute, func() string {
					got := request(t)
					if got.status/100 == 2 {
						return ""
					}
					retryAfter(t, got)
					return fmt.Sprintf("request to %s after the restart of %s: got status %d, want 2xx", name, store.name, got.status)
				})
			}
			for pod, restarts := range pods(t) {
				if restarts > before[pod] {
					t.Errorf("pod %s: got %d container restarts, want %d", pod, restarts, before[pod])
				}
			}
		})
	}
}
