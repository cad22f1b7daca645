package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestBroadcast(t *testing.T) {
	for name, tc := range map[string]struct {
		statuses []int
		want     int
		calls    int
	}{
		"one function accepts the event":  {[]int{204}, 204, 1},
		"all functions accept the event":  {[]int{200, 202, 204}, 204, 3},
		"the first one rejects the event": {[]int{422, 204}, 503, 1},
		"the last one is unavailable":     {[]int{204, 503}, 503, 2},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			var b broadcast
			for _, status := range tc.statuses {
				b = append(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					calls++
					if body, err := io.ReadAll(r.Body); err != nil || string(body) != "the event" || r.Header.Get("Ce-Id") != "1" {
						t.Errorf("got the body %q, %v and the headers %v, want those of the event", body, err, r.Header)
					}
					w.WriteHeader(http.StatusProcessing)
					w.WriteHeader(status)
				}))
			}
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("the event"))
			r.Header.Set("Ce-Id", "1")
			w := httptest.NewRecorder()
			b.ServeHTTP(w, r)
			if w.Code != tc.want || calls != tc.calls {
				t.Errorf("got status %d after %d calls, want %d after %d", w.Code, calls, tc.want, tc.calls)
			}
		})
	}
}
