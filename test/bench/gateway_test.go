package bench

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// streamed is the size of one stream, in bytes.
const streamed = 2 << 30

// BenchmarkGateway measures the overhead of the gateway. It sends the same requests to a small server, alternately
// directly and through the gateway. "small" measures the latency of small responses. "up" and "down" measure the
// throughput of streams of 2 GiB, and the peak memory of the gateway.
func BenchmarkGateway(b *testing.B) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upload":
			_, _ = io.Copy(io.Discard, r.Body)
		case "/files/1/content":
			w.Header().Set("Content-Length", strconv.Itoa(streamed))
			for range streamed / len(block) {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}
	}))
	defer backend.Close()
	dir := b.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		b.Fatal(err)
	}
	env := []string{"LOG_LEVEL=warn", "GATEWAY_KEY_FILE=" + key}
	for _, name := range []string{"LOGIN", "VALIDATE", "UPLOAD", "FILES", "ACCOUNTS"} {
		env = append(env, name+"_URL="+backend.URL)
	}
	gateway := startLimited(b, 128<<20, build(b, dir, "gateway"), env)
	b.Logf("the memory limit of 128 MiB is set with %s", gateway.limit)

	// once sends a request and returns the time until the end of the response.
	once := func(b *testing.B, method, url string, body io.Reader, size int64) time.Duration {
		request, err := http.NewRequestWithContext(b.Context(), method, url, body)
		if err != nil {
			b.Fatal(err)
		}
		request.ContentLength = size
		begin := time.Now()
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			b.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
			b.Fatalf("%s %s: got %s, %v, want 200", method, url, response.Status, err)
		}
		return time.Since(begin)
	}
	b.Run("small", func(b *testing.B) {
		var direct, through time.Duration
		for b.Loop() {
			direct += once(b, http.MethodGet, backend.URL+"/files", nil, 0)
			through += once(b, http.MethodGet, gateway.url+"/files", nil, 0)
		}
		each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
		b.ReportMetric(each(direct), "direct-µs")
		b.ReportMetric(each(through), "gateway-µs")
		b.ReportMetric(each(through-direct), "added-µs")
		b.ReportMetric(0, "ns/op")
	})
	stream := func(name string, send func(b *testing.B, base string) time.Duration) {
		b.Run(name, func(b *testing.B) {
			var direct, through time.Duration
			before := gateway.cpu(b)
			for b.Loop() {
				direct += send(b, backend.URL)
				through += send(b, gateway.url)
			}
			rate := func(d time.Duration) float64 { return float64(b.N) * streamed / (1 << 20) / d.Seconds() }
			b.ReportMetric(rate(direct), "direct-MiB/s")
			b.ReportMetric(rate(through), "gateway-MiB/s")
			b.ReportMetric(rate(through)/rate(direct), "ratio")
			b.ReportMetric((gateway.cpu(b)-before).Seconds()/float64(b.N)/(streamed>>30), "cpu-s/GiB")
			b.ReportMetric(float64(gateway.peak(b))/(1<<20), "peak-MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
	stream("up", func(b *testing.B, base string) time.Duration {
		return once(b, http.MethodPost, base+"/upload", io.LimitReader(zeros{}, streamed), streamed)
	})
	stream("down", func(b *testing.B, base string) time.Duration {
		return once(b, http.MethodGet, base+"/files/1/content", nil, 0)
	})
}

// zeros is a request body that never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
