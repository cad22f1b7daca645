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
)

// requestTimeout bounds one call of the Kubernetes API.
const requestTimeout = 15 * time.Second

var (
	// errExists says that a Secret of that name is there already.
	errExists = errors.New("the Secret exists")
	// errConflict says that somebody else has changed the Secret since it was read.
	errConflict = errors.New("the Secret has changed")
)

// kubernetes reads, creates and changes Secrets of one namespace through the Kubernetes API.
type kubernetes struct {
	client    *http.Client
	url       string // of the namespace's Secrets
	tokenFile string // read at each call: the kubelet renews it
}

// newKubernetes finds the API's address, certificate authority and token as every pod does.
func newKubernetes(host, port, dir string) (*kubernetes, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the service account: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s/ca.crt holds no certificate", dir)
	}
	namespace, err := os.ReadFile(filepath.Join(dir, "namespace"))
	if err != nil {
		return nil, fmt.Errorf("read the service account: %w", err)
	}
	return &kubernetes{
		client: &http.Client{
			Timeout:   requestTimeout,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		},
		url:       fmt.Sprintf("https://%s/api/v1/namespaces/%s/secrets", net.JoinHostPort(host, port), strings.TrimSpace(string(namespace))),
		tokenFile: filepath.Join(dir, "token"),
	}, nil
}

// secret is the part of a Kubernetes Secret that matters here. Data is base64 in JSON, as Go writes byte slices.
type secret struct {
	APIVersion string            `json:"apiVersion,omitempty"`
	Kind       string            `json:"kind,omitempty"`
	Metadata   metadata          `json:"metadata"`
	Type       string            `json:"type,omitempty"`
	Data       map[string][]byte `json:"data"`
}

type metadata struct {
	Name        string            `json:"name,omitempty"`
	Version     string            `json:"resourceVersion,omitempty"`
	Created     string            `json:"creationTimestamp,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// read returns a Secret, nil where there is none of that name.
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

// get returns the data of a Secret, nil where there is no such Secret.
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

// create makes a Secret. It returns errExists where one of that name is there, which then stays as it is.
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

// change replaces the data under the keys of a Secret that exists. It returns errConflict if somebody else changes that
// Secret at the same time.
func (k *kubernetes) change(ctx context.Context, name string, data map[string][]byte) error {
	found, err := k.read(ctx, name)
	if err == nil && found == nil {
		err = fmt.Errorf("change Secret %q: it does not exist", name)
	}
	if err != nil {
		return err
	}
	return k.patch(ctx, *found, nil, data)
}

// patch changes keys and annotations of a Secret, and leaves the others as they are. A key whose data is nil goes. It
// returns errConflict where the Secret is not as it was read any more, which then stays as it is.
func (k *kubernetes) patch(ctx context.Context, of secret, annotations map[string]string, data map[string][]byte) error {
	name := of.Metadata.Name
	// A JSON merge patch (RFC 7396), in which null takes a key away; Go writes a nil slice so.
	status, err := k.call(ctx, http.MethodPatch, k.url+"/"+name,
		secret{Metadata: metadata{Version: of.Metadata.Version, Annotations: annotations}, Data: data}, nil)
	if status == http.StatusConflict {
		return errConflict
	}
	if err != nil {
		return fmt.Errorf("change Secret %q: %w", name, err)
	}
	return nil
}

// call sends one request. The error names the API's reason and never what was sent.
func (k *kubernetes) call(ctx context.Context, method, url string, in, out any) (status int, err error) {
	token, err := os.ReadFile(k.tokenFile)
	if err != nil {
		return 0, fmt.Errorf("read the service account: %w", err)
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
	defer func() { _ = response.Body.Close() }() // only read from
	answer, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return response.StatusCode, err
	}
	if response.StatusCode/100 != 2 {
		var reason struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(answer, &reason) // whatever is between us and the API may not speak JSON; the status says enough
		return response.StatusCode, fmt.Errorf("%s: %s", response.Status, reason.Message)
	}
	if out == nil {
		return response.StatusCode, nil
	}
	return response.StatusCode, json.Unmarshal(answer, out)
}
