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

// TestMain watches the whole run: which passwords and tokens are used, what problem documents say, and what every pod
// logs. At its end none of the former may be found in the latter, nor in any manifest.
func TestMain(m *testing.M) {
	secrets := &wiretap{next: http.DefaultTransport, secrets: map[string]string{}}
	http.DefaultTransport = secrets
	ctx, stop := context.WithCancel(context.Background())
	logs := followLogs(ctx)
	code := m.Run()
	time.Sleep(2 * time.Second) // until the last lines have come
	stop()
	if err := audit(secrets, logs.text()); err != nil {
		fmt.Fprintln(os.Stderr, "--- FAIL: the audit of secrets:", err)
		code = 1
	}
	os.Exit(code)
}

// audit looks for secrets where none may be.
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
	fmt.Printf("=== the audit of secrets: %d secrets, %d bytes of logs, %d of problem documents, %d of manifests\n",
		len(w.secrets), len(logs), w.problems.Len(), len(manifests))
	if len(w.secrets) < 10 || len(logs) == 0 || len(manifests) == 0 {
		return fmt.Errorf("it had nothing to look at")
	}
	var found []string
	for secret, what := range w.secrets {
		for place, text := range places {
			if strings.Contains(text, secret) {
				found = append(found, what+" is in "+place)
			}
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("%s", strings.Join(found, "; "))
	}
	return nil
}

// wiretap notes the secrets that requests and answers carry, and the problem documents.
type wiretap struct {
	next http.RoundTripper

	sync.Mutex
	secrets  map[string]string // and what they are
	problems bytes.Buffer
}

// maxAnswer bounds what is read of an answer that may carry a secret, in bytes.
const maxAnswer = 64 << 10

// shortest is the length from which on a string is a secret that can not be anywhere by chance.
const shortest = 8

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
		// The signature: the parts before it may rightly stand elsewhere, such as a header that all tokens share.
		w.add(token[strings.LastIndexByte(token, '.')+1:], "an access token")
	}
	if r.GetBody != nil && r.Header.Get("Content-Type") == "application/json" {
		if body, err := r.GetBody(); err == nil {
			w.addMembers(body, "of a request")
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
			w.addMembers(bytes.NewReader(start), "of an answer")
		}
	}
	return answer, nil
}

// addMembers adds what a JSON object has under names that mean a secret.
func (w *wiretap) addMembers(body io.Reader, whose string) {
	var members map[string]any
	if json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&members) != nil {
		return // a list, or a file that is no JSON
	}
	for _, name := range []string{"password", "current_password", "new_password", "refresh_token", "access_token"} {
		if secret, is := members[name].(string); is {
			w.add(secret[strings.LastIndexByte(secret, '.')+1:], name+" "+whose)
		}
	}
}

// userinfo is the password in a URL or a MySQL DSN.
var userinfo = regexp.MustCompile(`^(?:[a-z+]+://)?[^:/@]+:([^@]+)@`)

// addSecretsOfCluster adds what the Secrets hold, but for what is public in them.
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

// logFollower keeps what the pods of the namespace log, those included that come and go.
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

// followLogs reads the logs of every pod from its beginning until ctx ends.
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
						go func() { _ = follow.Run() }() // ends with the pod, or with ctx
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

// output runs a command that must not take longer than a minute.
func output(name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out, nil
}
