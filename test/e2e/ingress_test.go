//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// ingress describes where the ingress of the cluster runs.
type ingress struct {
	name       string
	namespace  string
	service    string // the Service for requests from outside the cluster
	deployment string
}

// ingresses has the ingresses that these tests support, by the ingress class in the ConfigMap config-network.
var ingresses = map[string]ingress{
	"kourier.ingress.networking.knative.dev": {"Kourier", "kourier-system", "kourier", "3scale-kourier-gateway"},
	"traefik.ingress.networking.knative.dev": {"Traefik", "traefik", "traefik", "traefik"},
}

// findIngress returns the ingress of the cluster. It skips the test if these tests do not support the ingress.
func findIngress(t *testing.T) ingress {
	t.Helper()
	var network struct {
		Data map[string]string
	}
	get(t, &network, "configmap", "config-network", "--namespace=knative-serving")
	class := network.Data["ingress-class"]
	if class == "" {
		class = network.Data["ingress.class"] // the old name of the key
	}
	found, ok := ingresses[strings.TrimSpace(class)]
	if !ok {
		t.Skipf("SKIPPED: the ingress class is %q; this test supports only Kourier and Traefik", class)
	}
	t.Logf("the ingress is %s", found.name)
	return found
}

// forwarding matches the output of `kubectl port-forward` when the port is open.
var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:([0-9]+)`)

// forward opens a local port that kubectl forwards to a port of a pod or Service until the test ends. It returns the
// local address.
func forward(t *testing.T, in, target, port string) string {
	t.Helper()
	command := exec.Command("kubectl", "--namespace", in, "port-forward", "--address", "127.0.0.1", target, ":"+port)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // returns an error, because the process was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	found := forwarding.FindStringSubmatch(line)
	if err != nil || found == nil {
		t.Fatalf("kubectl port-forward %s: got the output %q (%v), want the port", target, line, err)
	}
	return "127.0.0.1:" + found[1]
}

// zeros is a body of size zeros. It counts the bytes that were read.
type zeros struct {
	size int64
	read atomic.Int64
}

func (z *zeros) Read(p []byte) (int, error) {
	n := min(int64(len(p)), z.size-z.read.Load())
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	z.read.Add(n)
	return int(n), nil
}

// TestTooLargeUpload proves that an upload whose declared length is over the limit is refused before the client has sent
// as many bytes as the limit. The client gets the problem document through all proxies.
func TestTooLargeUpload(t *testing.T) {
	const limit = 1 << 30 // UPLOAD_MAX_SIZE in config/120-settings.yaml
	s := open(t)
	s.client = expecting
	for _, function := range []string{"upload", "gateway"} {
		for name, expect := range map[string]map[string]string{"no Expect": nil, "Expect": {"Expect": "100-continue"}} {
			t.Run(function+"/"+name, func(t *testing.T) {
				body := &zeros{size: 8 * limit}
				got, err := s.stream(http.MethodPost, function, "/upload?name=too-large.bin", s.signedIn(t), expect, body, body.size)
				if err != nil {
					t.Fatal(err)
				}
				if got.status != http.StatusRequestEntityTooLarge || got.problem() != "too-large" {
					t.Errorf("got %s, want 413 too-large", got)
				}
				if sent := body.read.Load(); sent >= limit {
					t.Errorf("got the response after %d bytes, want it before %d bytes", sent, limit)
				}
			})
		}
	}
}

// expecting is a client that waits for 100 (Continue) if a request has an Expect header.
var expecting = &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 20 * time.Second}, Timeout: requestLimit}

// TestExpectContinue proves that a client that sends Expect: 100-continue can upload a file.
func TestExpectContinue(t *testing.T) {
	s := open(t)
	s.client = expecting
	in := findIngress(t)
	for _, function := range []string{"upload", "gateway"} {
		t.Run(function, func(t *testing.T) {
			f := newFile("expect.bin", 1<<20)
			got, err := s.stream(http.MethodPost, function, "/upload?name="+f.name, s.signedIn(t),
				map[string]string{"Expect": "100-continue"}, bytes.NewReader(f.content), int64(len(f.content)))
			if err != nil {
				t.Fatal(err)
			}
			// Traefik forwards the header. Knative 1.23 then replaces the status with 200 (docs/ingress.md). Kourier
			// responds to the header itself.
			want := http.StatusAccepted
			if in.name == "Traefik" {
				want = http.StatusOK
			}
			var stored struct{ ID string }
			if err := json.Unmarshal(got.body, &stored); got.status != want || err != nil || stored.ID == "" {
				t.Fatalf("got %s, want %d with the file", got, want)
			}
			f.id = stored.ID
			s.download(t, f)
		})
	}
}
