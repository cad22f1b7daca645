//go:build e2e

// Package e2e tries the deployed system as its users see it: through the URLs of its functions, in the cluster of the
// current kubectl context. It needs kubectl, kn and ko, and leaves the cluster as it found it, but for the files that it
// handed in and for the signing key, which it replaces.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const namespace = "strongroom"

// run runs a command and returns its output. Whatever it is, it must not take longer than two minutes.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "kubectl", append([]string{"--namespace", namespace}, args...)...)
}

// get reads an object or a list as JSON.
func get(t *testing.T, into any, args ...string) {
	t.Helper()
	output := kubectl(t, append(append([]string{"get"}, args...), "-o", "json")...)
	if err := json.Unmarshal([]byte(output), into); err != nil {
		t.Fatalf("kubectl get %s: %v", strings.Join(args, " "), err)
	}
}

// eventually calls condition until it returns "", and fails with what it returned last when limit is over.
func eventually(t *testing.T, limit time.Duration, condition func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		missing := condition()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", limit, missing)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// service is what matters here of a Knative Service.
type service struct {
	Metadata struct {
		Name       string `json:"name"`
		Generation int64  `json:"generation"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Spec struct {
				Containers []struct {
					Env []map[string]any `json:"env"`
				} `json:"containers"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
	Status struct {
		URL                string `json:"url"`
		ObservedGeneration int64  `json:"observedGeneration"`
		LatestCreated      string `json:"latestCreatedRevisionName"`
		LatestReady        string `json:"latestReadyRevisionName"`
		Conditions         []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

// ready tells whether the newest revision of the Service serves.
func (s service) ready() bool {
	if s.Status.ObservedGeneration != s.Metadata.Generation || s.Status.LatestCreated != s.Status.LatestReady {
		return false
	}
	for _, condition := range s.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True"
		}
	}
	return false
}

// services returns the deployed functions by name.
func services(t *testing.T) map[string]service {
	t.Helper()
	var list struct {
		Items []service `json:"items"`
	}
	get(t, &list, "ksvc")
	found := map[string]service{}
	for _, s := range list.Items {
		found[s.Metadata.Name] = s
	}
	return found
}

// pods returns the pods of the functions, and how often a container of each was restarted.
func pods(t *testing.T) map[string]int {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Status struct {
				ContainerStatuses []struct {
					RestartCount int `json:"restartCount"`
				} `json:"containerStatuses"`
			} `json:"status"`
		} `json:"items"`
	}
	get(t, &list, "pods", "--selector", "serving.knative.dev/service")
	found := map[string]int{}
	for _, pod := range list.Items {
		found[pod.Metadata.Name] = 0
		for _, container := range pod.Status.ContainerStatuses {
			found[pod.Metadata.Name] += container.RestartCount
		}
	}
	return found
}

// stopStore takes a store away and returns what brings it back; the test's end does too.
func stopStore(t *testing.T, name string) (start func()) {
	t.Helper()
	running := true
	start = func() {
		t.Helper()
		if !running {
			kubectl(t, "scale", "statefulset", name, "--replicas=1")
			kubectl(t, "rollout", "status", "statefulset/"+name, "--timeout=100s")
			running = true
		}
	}
	t.Cleanup(start)
	running = false
	kubectl(t, "scale", "statefulset", name, "--replicas=0")
	return start
}
