//go:build e2e

// Package e2e tests the deployed system in the cluster of the current kubectl context, through the URLs of the
// functions. It needs kubectl, kn and ko. The tests restore the state of the cluster, with two exceptions: the uploaded
// files remain, and the signing key is replaced.
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

// run runs a command, for at most two minutes, and returns its standard output. The command must succeed.
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

// kubectl runs kubectl in the namespace of Strongroom and returns its standard output.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "kubectl", append([]string{"--namespace", namespace}, args...)...)
}

// get decodes the output of `kubectl get`, which is an object or a list.
func get(t *testing.T, into any, args ...string) {
	t.Helper()
	output := kubectl(t, append(append([]string{"get"}, args...), "-o", "json")...)
	if err := json.Unmarshal([]byte(output), into); err != nil {
		t.Fatalf("decode the output of kubectl get %s: %v", strings.Join(args, " "), err)
	}
}

// eventually calls condition until it returns "". If that takes longer than limit, eventually fails the test with the
// last result of condition, which describes the difference from the expected state.
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

// service contains the fields of a Knative Service that the tests use.
type service struct {
	Metadata struct {
		Name       string `json:"name"`
		Generation int64  `json:"generation"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Metadata struct {
				Annotations map[string]string `json:"annotations"`
			} `json:"metadata"`
			Spec struct {
				Containers []struct {
					Env []map[string]any `json:"env"`
				} `json:"containers"`
				Volumes []map[string]any `json:"volumes"`
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

// ready reports whether the latest revision of the Service is ready.
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

// services returns the Services of the deployed functions, by name.
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

// pods returns the number of container restarts of each pod of the functions, by pod name.
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

// stopStore stops a store and returns a function that starts the store again. The store is also started when the test
// ends.
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
