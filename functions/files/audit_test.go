//go:build audit

package main

import (
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
