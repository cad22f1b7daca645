package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
)

// TestEvents checks that the log names who had access to which file, and from where. The reads of an owner are not
// recorded.
func TestEvents(t *testing.T) {
	const content, link = "/content", "/link"
	for name, c := range map[string]struct {
		user, method, target string
		status               int
		event, file, owner   string // an empty event stands for none
	}{
		"admin lists all files":               {"root", "GET", "/files", 200, eventListed, "", ""},
		"admin lists a user's files":          {"root", "GET", "/files?owner=ada", 200, eventListed, "", "ada"},
		"admin reads a description":           {"root", "GET", "/files/" + cataloguedID, 200, eventRead, cataloguedID, "ada"},
		"admin downloads":                     {"root", "GET", "/files/" + cataloguedID + content, 200, eventDownloaded, cataloguedID, "ada"},
		"admin creates a link":                {"root", "POST", "/files/" + cataloguedID + link, 201, eventLinked, cataloguedID, "ada"},
		"admin deletes":                       {"root", "DELETE", "/files/" + cataloguedID, 204, eventDeleted, cataloguedID, "ada"},
		"owner creates a link":                {"ada", "POST", "/files/" + cataloguedID + link, 201, eventLinked, cataloguedID, "ada"},
		"owner deletes":                       {"ada", "DELETE", "/files/" + cataloguedID, 204, eventDeleted, cataloguedID, "ada"},
		"owner lists":                         {"ada", "GET", "/files", 200, "", "", ""},
		"owner reads":                         {"ada", "GET", "/files/" + cataloguedID, 200, "", "", ""},
		"owner downloads":                     {"ada", "GET", "/files/" + cataloguedID + content, 200, "", "", ""},
		"another user reads":                  {"grace", "GET", "/files/" + cataloguedID, 404, eventRefused, cataloguedID, "ada"},
		"another user downloads":              {"grace", "GET", "/files/" + cataloguedID + content, 404, eventRefused, cataloguedID, "ada"},
		"another user creates a link":         {"grace", "POST", "/files/" + cataloguedID + link, 404, eventRefused, cataloguedID, "ada"},
		"another user deletes":                {"grace", "DELETE", "/files/" + cataloguedID, 404, eventRefused, cataloguedID, "ada"},
		"user reads a file that is not there": {"grace", "GET", "/files/" + noID, 404, "", "", ""},
	} {
		f := newFixture(t)
		var log bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
		answer := f.send(c.user, c.method, c.target, nil)
		slog.SetDefault(before)
		if answer.Code != c.status {
			t.Errorf("%s: got status %d, want %d", name, answer.Code, c.status)
		}
		if strings.Contains(log.String(), "notes") {
			t.Errorf("%s: got log %s, want no name of a file in it", name, &log)
		}
		type line struct {
			Event   string `json:"event"`
			User    string `json:"user_id"`
			Owner   string `json:"owner_id"`
			File    string `json:"file_id"`
			Address string `json:"address"`
			Message string `json:"msg"`
		}
		var got line
		for text := range bytes.Lines(log.Bytes()) {
			var one line
			if err := json.Unmarshal(text, &one); err != nil {
				t.Fatalf("decode log line %s: %v", text, err)
			}
			if one.Event != "" {
				got = one
			}
			if one.Message == "request" && (one.User != c.user || one.Address != "203.0.113.9") {
				t.Errorf("%s: got log line %s, want the user %s and the address 203.0.113.9", name, text, c.user)
			}
		}
		want := line{Event: c.event, User: c.user, Owner: c.owner, File: c.file, Address: "203.0.113.9", Message: got.Message}
		if c.event == "" {
			want = line{}
		}
		if got != want {
			t.Errorf("%s: got event %+v, want %+v", name, got, want)
		}
	}
}

// TestEventOfInterruptedDeletion checks that a deletion is recorded if it has begun, because sweep completes it.
func TestEventOfInterruptedDeletion(t *testing.T) {
	for name, recorded := range map[string]bool{"MarkDeleted": false, "Delete": true} {
		f := newFixture(t)
		f.files.Before = contenttest.Fail(errAway, name)
		var log bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
		answer := f.send("ada", http.MethodDelete, "/files/"+cataloguedID, nil)
		slog.SetDefault(before)
		if got := bytes.Contains(log.Bytes(), []byte(eventDeleted)); got != recorded || answer.Code < 500 {
			t.Errorf("%s fails: got status %d and log %s, want an error, and the event: %t", name, answer.Code, &log, recorded)
		}
	}
}
