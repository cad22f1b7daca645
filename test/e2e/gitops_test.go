//go:build e2e && gitops

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestGitOps proves that the commands in docs/gitops.md deploy deploy/overlays/production, that applying it again changes
// no object, and that the PodDisruptionBudget protects the gateway. The stores must run, and their Secrets must exist.
// The overlay stays deployed.
func TestGitOps(t *testing.T) {
	dir := copyTree(t)
	runScript(t, dir, "deploy/build-images")
	overlay := filepath.Join(dir, "deploy/overlays/production")
	block := func(start string) {
		t.Helper()
		script, err := commands.Block(root, "docs/gitops.md", "sh", start)
		if err != nil {
			t.Fatal(err)
		}
		runScript(t, dir, script)
	}
	const apply = "kubectl apply --server-side"
	block("kubectl delete job")
	block(apply)
	eventually(t, 2*time.Minute, func() string {
		for name, s := range services(t) {
			if !s.ready() {
				return fmt.Sprintf("the latest revision of %s is not ready", name)
			}
		}
		return ""
	})
	before := applied(t, overlay)
	t.Run("nothing drifts", func(t *testing.T) {
		block(apply)
		after := applied(t, overlay)
		if len(after) < 15 || len(after) != len(before) {
			t.Errorf("got %d objects, and %d objects after the second time, want the same number, and at least 15", len(before), len(after))
		}
		for id, object := range after {
			if !reflect.DeepEqual(before[id], object) {
				t.Errorf("%s: got\n%v\nafter the second time, want\n%v", id, object, before[id])
			}
		}
	})
	t.Run("Flux applies each object once", func(t *testing.T) {
		flux, err := commands.Block(root, "docs/gitops.md", "yaml", "apiVersion: kustomize.toolkit.fluxcd.io/v1")
		if err != nil {
			t.Fatal(err)
		}
		var objects []string
		for i, document := range strings.Split(flux, "\n---\n") {
			var kustomization struct {
				Spec struct {
					Path    string           `json:"path"`
					Patches []map[string]any `json:"patches"`
				} `json:"spec"`
			}
			if err := yaml.Unmarshal([]byte(document), &kustomization); err != nil {
				t.Fatal(err)
			}
			content, err := yaml.Marshal(map[string]any{"resources": []string{"../" + kustomization.Spec.Path}, "patches": kustomization.Spec.Patches})
			if err != nil {
				t.Fatal(err)
			}
			folder := filepath.Join(dir, fmt.Sprintf("flux-%d", i))
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			objects = append(objects, rendered(t, folder)...)
		}
		slices.Sort(objects)
		if all := slices.Sorted(slices.Values(rendered(t, overlay))); !slices.Equal(objects, all) {
			t.Errorf("got the objects %v, want %v", objects, all)
		}
	})
	t.Run("a drain leaves one gateway", func(t *testing.T) {
		var ready []string
		eventually(t, 2*time.Minute, func() string {
			var list struct {
				Items []struct {
					Metadata struct {
						Name              string `json:"name"`
						DeletionTimestamp string `json:"deletionTimestamp"`
					} `json:"metadata"`
					Status struct {
						Conditions []struct {
							Type   string `json:"type"`
							Status string `json:"status"`
						} `json:"conditions"`
					} `json:"status"`
				} `json:"items"`
			}
			get(t, &list, "pods", "--selector", "serving.knative.dev/service=gateway")
			ready = nil
			for _, pod := range list.Items {
				for _, condition := range pod.Status.Conditions {
					if condition.Type == "Ready" && condition.Status == "True" && pod.Metadata.DeletionTimestamp == "" {
						ready = append(ready, pod.Metadata.Name)
					}
				}
			}
			allowed := kubectl(t, "get", "pdb", "gateway", "-o", "jsonpath={.status.disruptionsAllowed}")
			if len(ready) != 2 || allowed != "1" {
				return fmt.Sprintf("got the ready pods %v and %s allowed disruptions, want two pods and 1", ready, allowed)
			}
			return ""
		})
		if out, err := evict(t, ready[0]); err != nil {
			t.Errorf("evict the first of two pods: %v\n%s", err, out)
		}
		if out, err := evict(t, ready[1]); err == nil || !strings.Contains(out, "disruption budget") {
			t.Errorf("evict the last ready pod: got %v and %q, want a refusal because of the disruption budget", err, out)
		}
		kubectl(t, "wait", "ksvc/gateway", "--for=condition=Ready", "--timeout=100s")
	})
}

// runScript runs a script of bash in the directory dir, for at most 15 minutes.
func runScript(t *testing.T, dir, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// rendered returns the kinds and names of the objects in an overlay.
func rendered(t *testing.T, overlay string) []string {
	t.Helper()
	var names []string
	for document := range strings.SplitSeq(run(t, "kubectl", "kustomize", overlay), "\n---\n") {
		var object struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		names = append(names, object.Kind+" "+object.Metadata.Name)
	}
	return names
}

// applied returns the objects of the overlay in the cluster, by kind and name. It omits the values that controllers
// change, and the resource version, which they change as well.
func applied(t *testing.T, overlay string) map[string]map[string]any {
	t.Helper()
	var list struct {
		Items []map[string]any `json:"items"`
	}
	if err := json.Unmarshal([]byte(run(t, "kubectl", "get", "-k", overlay, "-o", "json", "--show-managed-fields")), &list); err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]any{}
	for _, object := range list.Items {
		metadata := object["metadata"].(map[string]any)
		delete(object, "status")
		delete(metadata, "resourceVersion")
		metadata["managedFields"] = slices.DeleteFunc(metadata["managedFields"].([]any), func(entry any) bool {
			return entry.(map[string]any)["subresource"] == "status"
		})
		found[fmt.Sprintf("%s/%s %s", object["apiVersion"], object["kind"], metadata["name"])] = object
	}
	return found
}

// evict evicts a pod, as `kubectl drain` does, and returns the output of kubectl.
func evict(t *testing.T, pod string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, "kubectl", "create", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+"/eviction", "-f", "-")
	command.Stdin = strings.NewReader(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"` + pod + `","namespace":"` + namespace + `"}}`)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	return out.String(), err
}
