//go:build audit

package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

// TestAuditSignInLog checks security S8: the log of a sign-in has the client's address, and the account, the user name or a keyed hash of the user name.
func TestAuditSignInLog(t *testing.T) {
	type credentials struct{ username, password string }
	for name, attempts := range map[string][2]credentials{
		"success":        {{"ada", "lovelace-1843"}, {"grace", "hopper-1906"}},
		"wrong password": {{"ada", "babbage-1822"}, {"grace", "babbage-1822"}},
		"unknown user":   {{"eve", "babbage-1822"}, {"mallory", "babbage-1822"}},
		"locked":         {{"locked", "babbage-1822"}, {"gone", "babbage-1822"}},
	} {
		var logs [2]string
		for i, attempt := range attempts {
			f := newFixture(t, 0)
			f.store.blocked["gone"] = true
			logs[i] = logOf(t, func() {
				f.do(post("application/x-www-form-urlencoded", url.Values{"username": {attempt.username}, "password": {attempt.password}}.Encode()))
			})
		}
		if logs[0] == logs[1] {
			t.Errorf("%s: got the same log for %s and %s: %s", name, attempts[0].username, attempts[1].username, logs[0])
		}
		if !strings.Contains(logs[0], "192.0.2.1") { // the address of httptest's requests
			t.Errorf("%s: got log %s, want 192.0.2.1 in it", name, logs[0])
		}
	}
}

// logOf returns what do logs, without the attributes that differ between two equal requests.
func logOf(t *testing.T, do func()) string {
	t.Helper()
	var log bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	do()
	var kept strings.Builder
	for line := range strings.Lines(log.String()) {
		var attributes map[string]any
		if err := json.Unmarshal([]byte(line), &attributes); err != nil {
			t.Fatalf("decode log line %q: %v", line, err)
		}
		for _, name := range []string{"time", "duration_ms", "bytes"} {
			delete(attributes, name)
		}
		if err := json.NewEncoder(&kept).Encode(attributes); err != nil {
			t.Fatal(err)
		}
	}
	return kept.String()
}
