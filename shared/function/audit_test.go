//go:build audit

package function

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestAuditRequestLineHasAddress checks security S8: the log line of a request has the client's address.
func TestAuditRequestLineHasAddress(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	r := httptest.NewRequest(http.MethodPost, "/files/0195a3f0-0000-7000-8000-000000000001/link", nil)
	r.RemoteAddr = "203.0.113.9:1234"
	Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusCreated) }), time.Minute).
		ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(log.String(), "203.0.113.9") {
		t.Errorf("got log %s, want 203.0.113.9 in it", &log)
	}
}
