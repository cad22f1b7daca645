//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// What was accepted is catalogued, whatever happens to the broker meanwhile.
func TestNothingIsLostWithTheBroker(t *testing.T) {
	s := open(t)
	var files []*file
	for i := range 10 {
		if i == 4 {
			kubectl(t, "delete", "pod", "rabbitmq-0", "--wait=false")
		}
		f := newFile(fmt.Sprintf("broker %d.bin", i), 64<<10)
		s.upload(t, f)
		files = append(files, f)
	}
	// An adapter that has lost its broker too often is restarted by Kubernetes, with pauses of its choice.
	for _, f := range files {
		s.catalogued(t, f, 5*time.Minute)
		s.download(t, f)
	}
	kubectl(t, "rollout", "status", "statefulset/rabbitmq", "--timeout=100s")
}

// An event that record can not handle is delivered again until it can.
func TestRecordWithoutMongoDB(t *testing.T) {
	s := open(t)
	index, original := -1, map[string]any(nil)
	for i, variable := range services(t)["record"].Spec.Template.Spec.Containers[0].Env {
		if variable["name"] == "MONGODB_URI" {
			index, original = i, variable
		}
	}
	if original == nil {
		t.Fatal("record has no MONGODB_URI")
	}
	set := func(variable map[string]any) {
		t.Helper()
		patch, err := json.Marshal([]any{map[string]any{
			"op": "replace", "path": fmt.Sprintf("/spec/template/spec/containers/0/env/%d", index), "value": variable}})
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
	t.Cleanup(restore)
	// Nothing listens there. Only record is cut off: upload and files go on.
	set(map[string]any{"name": "MONGODB_URI", "value": "mongodb://127.0.0.1:1/strongroom?authSource=strongroom"})

	// A route takes a moment to lead to the new revision: what the old one still catalogues proves nothing.
	var f *file
	eventually(t, 2*time.Minute, func() string {
		f = newFile("without MongoDB.txt", 1<<10)
		s.upload(t, f)
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			if s.status(t, f) == "catalogued" {
				return "record still reaches MongoDB"
			}
		}
		return ""
	})
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		if status := s.status(t, f); status != "stored" {
			t.Fatalf("the file is %s while record can not reach MongoDB", status)
		}
	}
	s.download(t, f)
	restore()
	s.catalogued(t, f, 6*time.Minute)
}

// With a store away, whoever needs it is told to come again, whoever does not is not affected, and when it is back all
// is well without a restart.
func TestStoresAway(t *testing.T) {
	s := open(t)
	login := func(t *testing.T) answer { return s.login(t, s.username, s.password) }
	upload := func(t *testing.T) answer { return s.tryUpload(t, newFile("store away.txt", 1<<10)) }
	list := func(t *testing.T) answer {
		return s.call(t, http.MethodGet, "files", "/files", s.signedIn(t), nil, nil)
	}
	for _, store := range []struct {
		name  string
		needs map[string]func(*testing.T) answer
	}{
		{"mysql", map[string]func(*testing.T) answer{"login": login}},
		{"mongodb", map[string]func(*testing.T) answer{"upload": upload, "files": list}},
		{"rabbitmq", map[string]func(*testing.T) answer{"upload": upload}},
	} {
		t.Run(store.name, func(t *testing.T) {
			token := s.signedIn(t)
			for name, request := range store.needs {
				if got := request(t); got.status/100 != 2 {
					t.Fatalf("before: %s answers %s", name, got.String()[:4])
				}
			}
			before := pods(t)
			start := stopStore(t, store.name)
			for name, request := range store.needs {
				eventually(t, time.Minute, func() string {
					got := request(t)
					if got.status/100 == 2 {
						return name + " still answers"
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
						t.Fatalf("%s answers %d with %s away", name, got.status, store.name)
					}
					time.Sleep(min(retryAfter(t, got), 2*time.Second))
					if took := time.Since(sent); took > 30*time.Second {
						t.Errorf("%s took %v to say that %s is away", name, took, store.name)
					}
				}
				if got := s.call(t, http.MethodGet, "validate", "/validate", token, nil, nil); got.status != http.StatusOK {
					t.Fatalf("validate answers %s with %s away", got, store.name)
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
					return fmt.Sprintf("%s answers %d with %s back", name, got.status, store.name)
				})
			}
			for pod, restarts := range pods(t) {
				if restarts > before[pod] {
					t.Errorf("pod %s was restarted", pod)
				}
			}
		})
	}
}
