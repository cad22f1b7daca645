// Package bench measures the figures in docs/benchmarks.md. Run it with `make bench`.
package bench

import (
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// functions contains the names of all functions that serve requests. It does not contain setup, which is a Job.
var functions = []string{"login", "validate", "upload", "record", "files", "accounts", "sweep", "gateway"}

// BenchmarkStart measures the time from the exec system call to the first response of each function. All stores are
// unavailable, because the start of a function must not wait for a store. BenchmarkStart also prints the size of the
// binary, which is built as by ko and compressed as in a registry.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	env := settings(b, dir)
	for _, name := range functions {
		binary := build(b, dir, name)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				startOnce(b, binary, env)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "ms/start")
			b.ReportMetric(compressed(b, binary)/1e6, "image-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// build builds a function with the same options as ko, and returns the path of the binary in dir.
func build(b testing.TB, dir, name string) string {
	binary := filepath.Join(dir, name)
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "github.com/strongroom-dev/strongroom/functions/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return binary
}

// startOnce starts the binary and waits for its first response. Only this time counts for the benchmark.
func startOnce(b *testing.B, binary string, env []string) {
	b.StopTimer()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	cmd := exec.Command(binary)
	if cmd.Env, err = servertest.Environment(b.TempDir(), env); err != nil {
		b.Fatal(err)
	}
	cmd.Env = append([]string{"HOST=127.0.0.1", "PORT=" + strconv.Itoa(port)}, cmd.Env...)
	url := "http://127.0.0.1:" + strconv.Itoa(port) + "/healthz"
	b.StartTimer()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s did not respond within 10 s: %v", filepath.Base(binary), err)
		}
		time.Sleep(200 * time.Microsecond)
	}
	b.StopTimer()
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // returns an error, because the process was killed
	b.StartTimer()
}

// settings writes key files to dir and returns the settings of all functions. The addresses of the stores and functions
// in the settings have no server.
func settings(b testing.TB, dir string) []string {
	private, jwks, err := token.GenerateKey()
	if err != nil {
		b.Fatal(err)
	}
	for name, data := range map[string][]byte{"key.jwk": private, "jwks.json": jwks, "gateway-key": []byte(strings.Repeat("k", 32))} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return []string{
		"TOKEN_ISSUER=bench", "TOKEN_AUDIENCE=bench",
		"TOKEN_SIGNING_KEY_FILE=" + filepath.Join(dir, "key.jwk"), "TOKEN_KEYS_FILE=" + filepath.Join(dir, "jwks.json"),
		"LINK_KEY_FILE=" + filepath.Join(dir, "key.jwk"), // any file that is long enough
		"MYSQL_DSN=u:p@tcp(127.0.0.1:1)/strongroom", "MONGODB_URI=mongodb://127.0.0.1:1/strongroom", "EVENTS_URL=amqp://u:p@127.0.0.1:1/",
		"GATEWAY_KEY_FILE=" + filepath.Join(dir, "gateway-key"), "SIGN_IN_KEY_FILE=" + filepath.Join(dir, "gateway-key"),
		"LOGIN_URL=http://127.0.0.1:1", "VALIDATE_URL=http://127.0.0.1:1", "UPLOAD_URL=http://127.0.0.1:1",
		"FILES_URL=http://127.0.0.1:1", "ACCOUNTS_URL=http://127.0.0.1:1",
	}
}

// compressed returns the size of a file after compression with gzip, in bytes.
func compressed(b *testing.B, path string) float64 {
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var size counter
	zip := gzip.NewWriter(&size)
	if _, err := io.Copy(zip, file); err != nil {
		b.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		b.Fatal(err)
	}
	return float64(size)
}

// counter is an io.Writer that counts the written bytes.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
