//go:build audit

package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// TestAuditUploadedScript checks security S12: a browser that loads an uploaded file as a script does not get a script.
func TestAuditUploadedScript(t *testing.T) {
	f := newFixture(t)
	f.files.Add(content.File{Info: file.Info{ID: storedID, Owner: "ada", Name: "x.js", Size: 20, SHA256: strings.Repeat("0a", 32),
		ContentType: "text/javascript", StoredAt: now}}, "document.title='pwn'")
	link := f.links.address(storedID, now.Add(time.Hour).Unix())
	got := f.send("", http.MethodGet, link, map[string]string{"Sec-Fetch-Dest": "script", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"})
	if kind := got.Header().Get("Content-Type"); got.Code == http.StatusOK && strings.Contains(kind, "javascript") {
		t.Errorf("got status %d and Content-Type %s, want a refusal or another type", got.Code, kind)
	}
}

// TestAuditLogNamesUser checks security S8: the log names the user who downloads, deletes or creates a link to a file.
func TestAuditLogNamesUser(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	f := newFixture(t)
	for _, c := range []struct {
		name string
		do   func() int
		want int
	}{
		{"link", func() int { return f.askLink("root", cataloguedID, `{"expires_in":604800}`).Code }, http.StatusCreated},
		{"download", func() int { return f.send("root", http.MethodGet, "/files/"+cataloguedID+"/content", nil).Code }, http.StatusOK},
		{"deletion", func() int { return f.send("root", http.MethodDelete, "/files/"+cataloguedID, nil).Code }, http.StatusNoContent},
	} {
		log.Reset()
		if got := c.do(); got != c.want {
			t.Fatalf("%s: got status %d, want %d", c.name, got, c.want)
		}
		if !strings.Contains(log.String(), "root") {
			t.Errorf("%s: got log %s, want the user root in it", c.name, &log)
		}
	}
}
