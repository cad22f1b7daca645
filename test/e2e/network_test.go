//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/events"
	fileinfo "github.com/strongroom-dev/strongroom/shared/file"
)

// neighbor is the namespace of a pod that does not belong to Strongroom. The pod has the image of MySQL, because the
// cluster can pull this image, and because the image contains bash.
type neighbor string

// newNeighbor starts a neighbor, which exists until the test ends.
func newNeighbor(t *testing.T) neighbor {
	t.Helper()
	n := neighbor(fmt.Sprintf("strongroom-neighbor-%d", time.Now().UnixNano()))
	image := kubectl(t, "get", "statefulset", "mysql", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	run(t, "kubectl", "create", "namespace", string(n))
	t.Cleanup(func() { run(t, "kubectl", "delete", "namespace", string(n), "--wait=false") })
	run(t, "kubectl", "run", "neighbor", "--namespace", string(n), "--image", image, "--restart=Never",
		"--overrides", `{"spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false}}`, "--command", "--", "sleep", "3600")
	run(t, "kubectl", "wait", "pod/neighbor", "--namespace", string(n), "--for=condition=Ready", "--timeout=100s")
	return n
}

// inPod runs a bash script in a pod, with the given input and arguments, and returns its output.
func inPod(t *testing.T, in, pod, input, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	command := exec.CommandContext(ctx, "kubectl", append([]string{"exec", "--stdin", pod, "--namespace", in, "--", "bash", "-c", script}, args...)...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("run a script in the pod %s: %v\n%s", pod, err, stderr.String())
	}
	return stdout.String()
}

// post sends a POST request to the cluster-internal URL of a function, and returns the response.
func (n neighbor) post(t *testing.T, function string, body []byte, contentType string) answer {
	t.Helper()
	host := function + "." + namespace + clusterSuffix
	request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: close\r\n", host, len(body))
	if contentType != "" {
		request += "Content-Type: " + contentType + "\r\n"
	}
	raw := inPod(t, string(n), "neighbor", request+"\r\n"+string(body), `exec 3<>"/dev/tcp/$0/80" && cat >&3 && timeout 100 cat <&3`, host)
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
	if err != nil {
		t.Fatalf("POST http://%s/: read the response %q: %v", host, raw, err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("POST http://%s/: read the body of the response %q: %v", host, raw, err)
	}
	return answer{response.StatusCode, response.Header, content}
}

// reached returns those of the given addresses, which have the form "HOST PORT", to which a pod can connect. It tries all
// addresses at the same time, for at most 3 s.
func reached(t *testing.T, in, pod string, addresses []string) []string {
	t.Helper()
	const script = `while read -r host port; do
  (timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$port" 2>/dev/null && echo "$host $port") &
done
wait`
	open := strings.Split(strings.TrimSpace(inPod(t, in, pod, strings.Join(addresses, "\n")+"\n", script)), "\n")
	return slices.DeleteFunc(slices.Clone(addresses), func(address string) bool { return !slices.Contains(open, address) })
}

// policyLimit is the maximum time until a new or deleted network policy takes effect.
const policyLimit = 20 * time.Second

// newPolicy creates a network policy, and returns a function that deletes it. The policy is also deleted when the test
// ends.
func newPolicy(t *testing.T, in, spec string) (remove func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	policy := `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "e2e"}, "spec": ` + spec + `}`
	if err := os.WriteFile(path, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	remove = func() { run(t, "kubectl", "delete", "networkpolicy", "e2e", "--namespace", in, "--ignore-not-found") }
	t.Cleanup(remove)
	run(t, "kubectl", "apply", "--namespace", in, "--filename", path)
	return remove
}

// enforces skips the test if the cluster does not enforce network policies. The test then cannot say anything about the
// policies of Strongroom. With CI=true, the cluster must enforce them.
func (n neighbor) enforces(t *testing.T) {
	t.Helper()
	api := []string{run(t, "kubectl", "get", "service", "kubernetes", "--namespace", "default", "-o", "jsonpath={.spec.clusterIP} 443")}
	remove := newPolicy(t, string(n), `{"podSelector": {}, "policyTypes": ["Egress"]}`)
	for end := time.Now().Add(policyLimit); len(reached(t, string(n), "neighbor", api)) > 0; time.Sleep(time.Second) {
		if time.Now().After(end) {
			const reason = "the network plugin of this cluster does not enforce network policies"
			if os.Getenv("CI") == "true" {
				t.Fatal(reason)
			}
			t.Skip("SKIPPED: " + reason)
		}
	}
	remove()
	eventually(t, policyLimit, func() string {
		if len(reached(t, string(n), "neighbor", api)) == 0 {
			return "the pod of another namespace cannot connect to the Kubernetes API"
		}
		return ""
	})
}

// listening are the ports on which the pods of Strongroom listen: those of the stores, and those of a function (8080 and
// 9464) and of its queue-proxy. By default, queue-proxy does not listen on 8112 and 9091.
var listening = map[string][]string{
	"mysql": {"3306"}, "mongodb": {"27017"}, "rabbitmq": {"5672", "15672"},
	"": {"8012", "8022", "8080", "9090", "9464"},
}

// TestNetworkPolicies proves that a pod of another namespace can connect to no port of Strongroom's pods, and that a store
// can open no connection. The same connections succeed while another policy allows all connections.
func TestNetworkPolicies(t *testing.T) {
	s := open(t)
	outside := newNeighbor(t)
	outside.enforces(t)

	// Start all functions.
	s.signedIn(t)
	for function, path := range map[string]string{"validate": "/validate", "files": "/files", "accounts": "/accounts/me", "upload": "/upload"} {
		s.call(t, http.MethodGet, function, path, s.token, nil, nil)
	}
	outside.post(t, "record", nil, "")
	outside.post(t, "sweep", nil, "")
	var list struct {
		Items []struct {
			Metadata struct {
				Labels            map[string]string `json:"labels"`
				DeletionTimestamp string            `json:"deletionTimestamp"`
			} `json:"metadata"`
			Status struct {
				PodIP string `json:"podIP"`
			} `json:"status"`
		} `json:"items"`
	}
	get(t, &list, "pods", "--selector", "app.kubernetes.io/component in (function, store)", "--field-selector", "status.phase=Running")
	var addresses, stores []string
	found := map[string]bool{}
	for _, pod := range list.Items {
		if pod.Metadata.DeletionTimestamp != "" {
			continue
		}
		name := pod.Metadata.Labels["app.kubernetes.io/name"]
		found[name] = true
		ports, isStore := listening[name]
		if !isStore {
			ports = listening[""]
		}
		for _, port := range ports {
			addresses = append(addresses, pod.Status.PodIP+" "+port)
			if isStore && name != "mysql" {
				stores = append(stores, pod.Status.PodIP+" "+port)
			}
		}
	}
	for name := range services(t) {
		if !found[name] {
			t.Errorf("the function %s has no running pod", name)
		}
	}
	stores = append(stores, "record."+namespace+clusterSuffix+" 80", "kubernetes.default"+clusterSuffix+" 443")

	// await waits until both pods can connect to all addresses, or to none of them.
	await := func(all bool) {
		t.Helper()
		eventually(t, policyLimit, func() string {
			for pod, targets := range map[[2]string][]string{{string(outside), "neighbor"}: addresses, {namespace, "mysql-0"}: stores} {
				got := reached(t, pod[0], pod[1], targets)
				if all && len(got) < len(targets) || !all && len(got) > 0 {
					return fmt.Sprintf("the pod %s can connect to %q of %q; want all: %t", pod[1], got, targets, all)
				}
			}
			return ""
		})
	}
	remove := newPolicy(t, namespace, `{"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}`)
	await(true)
	remove()
	await(false)
	s.throughGateway().responds(t)
}

// TestForgedEvents proves that record, which does not authenticate its callers, neither adds an entry for a file that
// does not exist nor changes an entry.
func TestForgedEvents(t *testing.T) {
	s := open(t)
	outside := newNeighbor(t)
	f := newFile("forged.bin", 1<<10)
	s.upload(t, f)
	s.catalogued(t, f, 2*time.Minute)
	before := s.call(t, http.MethodGet, "files", "/files/"+f.id, s.signedIn(t), nil, nil)
	missing := uuid.Must(uuid.NewV7()).String()
	for name, id := range map[string]string{"a file that does not exist": missing, "a file of another owner": f.id} {
		event, err := events.Encode(t.Context(), fileinfo.Info{ID: id, Owner: uuid.Must(uuid.NewV7()).String(), Name: "forged", Size: 1,
			SHA256: strings.Repeat("0", 64), ContentType: "text/html", StoredAt: time.Now().UTC()})
		if err != nil {
			t.Fatal(err)
		}
		if got := outside.post(t, "record", event, "application/cloudevents+json"); got.status != http.StatusNoContent {
			t.Errorf("event for %s: got %s, want 204", name, got)
		}
	}
	if got := s.call(t, http.MethodGet, "files", "/files/"+f.id, s.signedIn(t), nil, nil); !bytes.Equal(got.body, before.body) {
		t.Errorf("got the entry %s, want the entry as before, %s", got, before)
	}
	if got := s.call(t, http.MethodGet, "files", "/files/"+missing, s.signedIn(t), nil, nil); got.status != http.StatusNotFound {
		t.Errorf("get the file that does not exist: got %s, want 404", got)
	}
	var page struct{ Files []json.RawMessage }
	s.call(t, http.MethodGet, "files", "/files?name=forged&limit=100", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &page)
	for _, entry := range page.Files {
		if bytes.Contains(entry, []byte(missing)) {
			t.Errorf("got the entry %s of a file that does not exist", entry)
		}
	}
}
