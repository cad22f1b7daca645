package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/dialer"
)

// requestTimeout is the time limit for each request to the Kubernetes API.
const requestTimeout = 15 * time.Second

var (
	// errExists reports that a Secret with the same name already exists.
	errExists = errors.New("the Secret already exists")
	// errConflict reports that another client has changed the Secret since this process read it.
	errConflict = errors.New("the Secret has changed since it was read")
)

// kubernetes is a client for the Kubernetes API that reads, creates and changes the Secrets in one namespace.
type kubernetes struct {
	client    *http.Client
	url       string // the URL of the namespace's Secrets
	tokenFile string // read again for each request, because the kubelet renews the token
}

// newKubernetes returns a client for the Kubernetes API at host and port. The directory dir contains the files of the
// pod's service account.
func newKubernetes(host, port, dir string) (*kubernetes, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read service account: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s/ca.crt contains no certificate", dir)
	}
	namespace, err := os.ReadFile(filepath.Join(dir, "namespace"))
	if err != nil {
		return nil, fmt.Errorf("read service account: %w", err)
	}
	return &kubernetes{
		client: &http.Client{
			Timeout:   requestTimeout,
			Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		},
		url:       fmt.Sprintf("https://%s/api/v1/namespaces/%s/secrets", net.JoinHostPort(host, port), strings.TrimSpace(string(namespace))),
		tokenFile: filepath.Join(dir, "token"),
	}, nil
}

// secret is a Kubernetes Secret with only the fields that this command uses.
type secret struct {
	APIVersion string            `json:"apiVersion,omitempty"`
	Kind       string            `json:"kind,omitempty"`
	Metadata   metadata          `json:"metadata"`
	Type       string            `json:"type,omitempty"`
	Data       map[string][]byte `json:"data"` // in JSON, each value is in base64, as the API requires
}

type metadata struct {
	Name        string            `json:"name,omitempty"`
	Version     string            `json:"resourceVersion,omitempty"`
	Created     string            `json:"creationTimestamp,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// read returns the Secret called name. If the Secret does not exist, read returns nil without an error.
func (k *kubernetes) read(ctx context.Context, name string) (*secret, error) {
	var found secret
	status, err := k.call(ctx, http.MethodGet, k.url+"/"+name, nil, &found)
	switch {
	case status == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read Secret %q: %w", name, err)
	}
	return &found, nil
}

// get returns the data of the Secret called name, or nil if the Secret does not exist. If the Secret has no data, get
// returns an empty map.
func (k *kubernetes) get(ctx context.Context, name string) (map[string][]byte, error) {
	found, err := k.read(ctx, name)
	switch {
	case found == nil || err != nil:
		return nil, err
	case found.Data == nil:
		return map[string][]byte{}, nil
	}
	return found.Data, nil
}

// create creates a Secret called name. If a Secret with this name already exists, create returns errExists and does
// not change that Secret.
func (k *kubernetes) create(ctx context.Context, name string, data map[string][]byte) error {
	status, err := k.call(ctx, http.MethodPost, k.url, secret{
		APIVersion: "v1",
		Kind:       "Secret",
		Metadata:   metadata{Name: name, Labels: map[string]string{"app.kubernetes.io/part-of": "strongroom"}},
		Type:       "Opaque",
		Data:       data,
	}, nil)
	if status == http.StatusConflict {
		return errExists
	}
	if err != nil {
		return fmt.Errorf("create Secret %q: %w", name, err)
	}
	return nil
}

// change writes the entries in data to an existing Secret, and keeps its other entries. The error wraps errConflict if
// another client changes the Secret at the same time.
func (k *kubernetes) change(ctx context.Context, name string, data map[string][]byte) error {
	found, err := k.read(ctx, name)
	if err == nil && found == nil {
		err = fmt.Errorf("change Secret %q: the Secret does not exist", name)
	}
	if err != nil {
		return err
	}
	return k.patch(ctx, *found, nil, data)
}

// patch writes the given annotations and entries to a Secret, and keeps the Secret's other annotations and entries.
// If the Secret has changed since it was read, patch changes nothing and returns an error that wraps errConflict.
func (k *kubernetes) patch(ctx context.Context, of secret, annotations map[string]string, data map[string][]byte) error {
	name := of.Metadata.Name
	// A nil value in data deletes the entry, because encoding/json encodes nil as null, which deletes a member in a
	// JSON merge patch (RFC 7396).
	status, err := k.call(ctx, http.MethodPatch, k.url+"/"+name,
		secret{Metadata: metadata{Version: of.Metadata.Version, Annotations: annotations}, Data: data}, nil)
	if status == http.StatusConflict {
		return fmt.Errorf("change Secret %q: %w", name, errConflict)
	}
	if err != nil {
		return fmt.Errorf("change Secret %q: %w", name, err)
	}
	return nil
}

// call sends one request to the Kubernetes API. Its errors contain the reason from the response, but never the request
// body, which can contain secret values.
func (k *kubernetes) call(ctx context.Context, method, url string, in, out any) (status int, err error) {
	token, err := os.ReadFile(k.tokenFile)
	if err != nil {
		return 0, fmt.Errorf("read service account: %w", err)
	}
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return 0, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, url, &body)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := k.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }() // ignore the error, because the body is only read
	answer, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return response.StatusCode, err
	}
	if response.StatusCode/100 != 2 {
		var reason struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(answer, &reason) // ignore the error, because a proxy's response might not be JSON
		return response.StatusCode, fmt.Errorf("%s: %s", response.Status, reason.Message)
	}
	if out == nil {
		return response.StatusCode, nil
	}
	return response.StatusCode, json.Unmarshal(answer, out)
}
