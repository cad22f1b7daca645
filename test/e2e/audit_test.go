//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMain records the passwords and tokens that the tests use, all problem documents, and the logs of all pods. After
// the tests, no log, problem document or manifest must contain a recorded secret.
func TestMain(m *testing.M) {
	secrets := &wiretap{next: http.DefaultTransport, secrets: map[string]string{}}
	http.DefaultTransport = secrets
	ctx, stop := context.WithCancel(context.Background())
	logs := followLogs(ctx)
	code := m.Run()
	time.Sleep(2 * time.Second) // until the last log lines have arrived
	stop()
	if err := audit(secrets, logs.text()); err != nil {
		fmt.Fprintln(os.Stderr, "--- FAIL: audit of secrets:", err)
		code = 1
	}
	os.Exit(code)
}

// audit returns an error if a log, a problem document or a manifest contains a secret.
func audit(w *wiretap, logs string) error {
	manifests, err := output("kubectl", "get", "-n", namespace, "-o", "yaml",
		"configmaps,pods,services,deployments,statefulsets,jobs,events,serviceaccounts,roles,services.serving.knative.dev,revisions.serving.knative.dev,rabbitmqsources.sources.knative.dev")
	if err != nil {
		return err
	}
	if err := w.addSecretsOfCluster(); err != nil {
		return err
	}
	w.Lock()
	defer w.Unlock()
	places := map[string]string{"a log": logs, "a problem document": w.problems.String(), "a manifest": string(manifests)}
	fmt.Printf("=== audit of secrets: %d secrets, %d bytes of logs, %d bytes of problem documents, %d bytes of manifests\n",
		len(w.secrets), len(logs), w.problems.Len(), len(manifests))
	if len(w.secrets) < 10 || len(logs) == 0 || len(manifests) == 0 {
		return fmt.Errorf("got %d secrets, %d bytes of logs and %d bytes of manifests, which is too little to search",
			len(w.secrets), len(logs), len(manifests))
	}
	var found []string
	for secret, what := range w.secrets {
		for place, text := range places {
			if strings.Contains(text, secret) {
				found = append(found, place+" contains "+what)
			}
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("%s", strings.Join(found, "; "))
	}
	return nil
}

// wiretap is an http.RoundTripper that records the secrets in requests and responses, and the problem documents.
type wiretap struct {
	next http.RoundTripper

	sync.Mutex
	secrets  map[string]string // maps each secret to its description
	problems bytes.Buffer
}

// maxAnswer is the number of bytes that wiretap searches in a request or a response body.
const maxAnswer = 64 << 10

// shortest is the minimum length of a recorded secret, in bytes. A shorter string could be in a log by coincidence.
const shortest = 8

// add records a secret. what describes the secret.
func (w *wiretap) add(secret, what string) {
	if len(secret) >= shortest {
		w.Lock()
		w.secrets[secret] = what
		w.Unlock()
	}
}

// RoundTrip implements http.RoundTripper.
func (w *wiretap) RoundTrip(r *http.Request) (*http.Response, error) {
	if token, bears := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); bears {
		// Record only the signature. The other parts of a token can be elsewhere: all tokens have the same header.
		w.add(token[strings.LastIndexByte(token, '.')+1:], "an access token")
	}
	if r.GetBody != nil && r.Header.Get("Content-Type") == "application/json" {
		if body, err := r.GetBody(); err == nil {
			w.addMembers(body, "in a request")
		}
	}
	answer, err := w.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	for _, cookie := range answer.Cookies() {
		w.add(cookie.Value, "cookie "+cookie.Name)
	}
	if kind := answer.Header.Get("Content-Type"); kind == "application/json" || kind == "application/problem+json" {
		start, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
		if err != nil {
			return nil, err
		}
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(start), answer.Body), answer.Body}
		if kind == "application/problem+json" {
			w.Lock()
			w.problems.Write(start)
			w.Unlock()
		} else {
			w.addMembers(bytes.NewReader(start), "in a response")
		}
	}
	return answer, nil
}

// addMembers records the members of a JSON object whose names indicate a secret. whose describes the body.
func (w *wiretap) addMembers(body io.Reader, whose string) {
	var members map[string]any
	if json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&members) != nil {
		return // the body is a list, or the content of a file that is not JSON
	}
	for _, name := range []string{"password", "current_password", "new_password", "refresh_token", "access_token", "device_token"} {
		if secret, is := members[name].(string); is {
			w.add(secret[strings.LastIndexByte(secret, '.')+1:], name+" "+whose)
		}
	}
}

// userinfo matches the password in a URL or a MySQL DSN.
var userinfo = regexp.MustCompile(`^(?:[a-z+]+://)?[^:/@]+:([^@]+)@`)

// addSecretsOfCluster records the values in the Secrets of the cluster, except public values such as user names and
// public keys.
func (w *wiretap) addSecretsOfCluster() error {
	list, err := output("kubectl", "get", "secrets", "-n", namespace, "-o", "json")
	if err != nil {
		return err
	}
	var secrets struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string][]byte
		}
	}
	if err := json.Unmarshal(list, &secrets); err != nil {
		return err
	}
	for _, secret := range secrets.Items {
		for key, value := range secret.Data {
			what := "Secret " + secret.Metadata.Name + ", " + key
			var private struct{ D string }
			switch {
			case key == "password" || key == "key":
				w.add(string(value), what)
				w.add(base64.StdEncoding.EncodeToString(value), what+" in base64")
				w.add(url.QueryEscape(string(value)), what)
			case json.Unmarshal(value, &private) == nil && private.D != "":
				w.add(private.D, what)
			default:
				if password := userinfo.FindSubmatch(value); password != nil {
					w.add(string(password[1]), what)
				}
			}
		}
	}
	return nil
}

// logFollower collects the logs of all pods in the namespace, including pods that exist only for a part of the run.
type logFollower struct {
	sync.Mutex
	all bytes.Buffer
}

func (f *logFollower) Write(p []byte) (int, error) {
	f.Lock()
	defer f.Unlock()
	return f.all.Write(p)
}

func (f *logFollower) text() string {
	f.Lock()
	defer f.Unlock()
	return f.all.String()
}

// followLogs collects the complete logs of every pod until ctx ends.
func followLogs(ctx context.Context) *logFollower {
	f := &logFollower{}
	go func() {
		followed := map[string]bool{}
		for ctx.Err() == nil {
			list, err := output("kubectl", "get", "pods", "-n", namespace, "--field-selector", "status.phase!=Pending", "-o", "name")
			if err == nil {
				for _, pod := range strings.Fields(string(list)) {
					if !followed[pod] {
						followed[pod] = true
						follow := exec.CommandContext(ctx, "kubectl", "logs", "-n", namespace, "-f", "--all-containers", "--ignore-errors", "--max-log-requests=20", pod)
						follow.Stdout = f
						go func() { _ = follow.Run() }() // ends when the pod ends or ctx ends
					}
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return f
}

// output runs a command, for at most a minute, and returns its standard output.
func output(name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out, nil
}
