package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
)

// BenchmarkValidate reports the requests per second of validate and of an empty handler in the same server, over
// persistent loopback connections, and the ratio of both.
func BenchmarkValidate(b *testing.B) {
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(io.Discard, nil)))
	defer slog.SetDefault(old)
	signer, verifier, _ := tokentest.New(b)
	h := newHandler(verifier, nil)
	bearer := "Bearer " + sign(b, signer, token.RoleUser)
	empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	var emptyRate float64
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{{"empty", empty}, {"validate", h}} {
		b.Run(c.name, func(b *testing.B) {
			server := httptest.NewServer(function.Wrap(c.handler, time.Minute))
			defer server.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					request, err := http.NewRequest("GET", server.URL+"/validate", nil)
					if err != nil {
						b.Error(err)
						return
					}
					request.Header.Set("Authorization", bearer)
					resp, err := client.Do(request)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 200 {
						b.Errorf("got status %d, want 200", resp.StatusCode)
						return
					}
				}
			})
			rate := float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "req/s")
			b.ReportMetric(0, "ns/op")
			if c.name == "empty" {
				emptyRate = rate
			} else {
				b.ReportMetric(rate/emptyRate, "×empty")
			}
		})
	}
}
