//go:build audit

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAuditForgedEvent checks security S3, data A4: an event about a file that does not exist creates no catalogue entry.
func TestAuditForgedEvent(t *testing.T) {
	c := &fakeCatalog{}
	const forged = "0190a5c2-ffff-7c3d-9e4f-0123456789ab"
	// Every pod in the cluster can send this request.
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"specversion":"1.0","id":"`+forged+`","source":"/strongroom/upload",
		"type":"dev.strongroom.file.stored.v1","data":{"id":"`+forged+`","owner":"0190a5c2-0000-7000-8000-000000000001",
		"name":"Your invoice - pay to evil.example.pdf","size":1,"sha256":"`+strings.Repeat("0a", 32)+`",
		"content_type":"application/pdf","stored_at":"2999-01-01T00:00:00Z"}}`))
	r.Header.Set("Content-Type", "application/cloudevents+json")
	res := serve(t, c, r)
	if e, there := c.entries[forged]; there {
		t.Errorf("got status %d and entry %q in the list of user %s, want no entry", res.StatusCode, e.Name, e.Owner)
	}
}
