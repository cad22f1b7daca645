package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// cluster is a fake Kubernetes API that supports only Secrets.
type cluster struct {
	sync.Mutex
	secrets map[string]map[string][]byte
	created []string
	// annotations and versions describe patched Secrets. A Secret that was never patched has version 0.
	annotations map[string]map[string]string
	versions    map[string]int
	// refuse holds the status with which the API refuses a request, by method and Secret name, such as "GET mysql".
	refuse map[string]int
	// race is called before the API creates or patches a Secret.
	race func(name string)
}

const bearer = "a-service-account-token"

// start starts a fake API, and returns it with the settings that a pod would have.
func start(t *testing.T) (*cluster, config) {
	t.Helper()
	c := &cluster{
		secrets: map[string]map[string][]byte{}, refuse: map[string]int{},
		annotations: map[string]map[string]string{}, versions: map[string]int{},
	}
	server := httptest.NewTLSServer(c)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	write(t, dir, "namespace", "strongroom\n")
	write(t, dir, "token", bearer+"\n")
	return c, config{Host: address.Hostname(), Port: address.Port(), ServiceAccount: dir, Stores: "development"}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const path = "/api/v1/namespaces/strongroom/secrets"
	fail := func(status int) {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"kind":"Status","message":"refused for the test","code":%d}`, status)
	}
	if r.Header.Get("Authorization") != "Bearer "+bearer {
		fail(http.StatusUnauthorized)
		return
	}
	switch name, isOne := strings.CutPrefix(r.URL.Path, path+"/"); {
	case r.Method == http.MethodGet && isOne:
		c.Lock()
		defer c.Unlock()
		if status := c.refuse["GET "+name]; status != 0 {
			fail(status)
			return
		}
		data, found := c.secrets[name]
		if !found {
			fail(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "v1", "kind": "Secret", "data": data, "metadata": map[string]any{
			"name": name, "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
			"resourceVersion": strconv.Itoa(c.versions[name]), "annotations": c.annotations[name],
		}})
	case r.Method == http.MethodPost && r.URL.Path == path:
		var s secret
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil || s.APIVersion != "v1" || s.Kind != "Secret" || s.Type != "Opaque" {
			fail(http.StatusBadRequest)
			return
		}
		if c.race != nil {
			c.race(s.Metadata.Name)
		}
		c.Lock()
		defer c.Unlock()
		if status := c.refuse["POST "+s.Metadata.Name]; status != 0 {
			fail(status)
			return
		}
		if _, found := c.secrets[s.Metadata.Name]; found {
			fail(http.StatusConflict)
			return
		}
		c.secrets[s.Metadata.Name] = s.Data
		c.created = append(c.created, s.Metadata.Name)
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPatch && isOne:
		c.patch(name, r, w, fail)
	default:
		fail(http.StatusForbidden)
	}
}

// patch handles a JSON merge patch like the real API. A null value deletes a key. A resourceVersion that differs from the
// Secret's version is a conflict.
func (c *cluster) patch(name string, r *http.Request, w http.ResponseWriter, fail func(int)) {
	var patch struct {
		Metadata struct {
			Version     string            `json:"resourceVersion"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&patch); err != nil || patch.Data == nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
		fail(http.StatusBadRequest)
		return
	}
	if c.race != nil {
		c.race(name)
	}
	c.Lock()
	defer c.Unlock()
	if status := c.refuse["PATCH "+name]; status != 0 {
		fail(status)
		return
	}
	if patch.Metadata.Version != strconv.Itoa(c.versions[name]) {
		fail(http.StatusConflict)
		return
	}
	data := maps.Clone(c.secrets[name])
	for key, value := range patch.Data {
		if value == nil {
			delete(data, key)
		} else {
			data[key] = value
		}
	}
	annotations := maps.Clone(c.annotations[name])
	for key, value := range patch.Metadata.Annotations {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[key] = value
	}
	c.secrets[name], c.annotations[name] = data, annotations
	c.versions[name]++
	_, _ = w.Write([]byte("{}"))
}
