//go:build audit

package integration

import (
	"encoding/json"
	"html"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// TestAuditUploadedScriptRuns checks security S12: the console's policy does not let an uploaded file run as a script,
// also if somebody can add markup to the page.
func TestAuditUploadedScriptRuns(t *testing.T) {
	const script = "new Image().src = '/icon.svg?uploaded'"
	u := startUpload(t, 0, "")
	s, err := content.Open(u.uri)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "0190-ada", Name: "x.js", ContentType: "text/javascript"}}, strings.NewReader(script), eventOf)
	if err != nil {
		t.Fatal(err)
	}
	files := u.startFiles(t)
	var link struct{ URL string }
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, files+"/files/"+f.ID+"/link", strings.NewReader(`{"expires_in":60}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", u.bearer)
	request.Header.Set("Content-Type", "application/json")
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&link); err != nil || response.StatusCode != http.StatusCreated {
		t.Fatalf("create a link: got status %d and error %v", response.StatusCode, err)
	}
	// The page replaces the console and keeps its headers. When all scripts have run or were refused, it opens the icon.
	page := `<!doctype html><meta http-equiv="refresh" content="0; url=/icon.svg?end"><script>new Image().src = '/icon.svg?inline'</script>
		<script src="` + html.EscapeString(link.URL) + `"></script>`
	gateway := runFunction(t, "gateway", append(gatewaySettings(gatewayKey(t), files), "TRUSTED_HOPS=1")...)
	icons := make(chan string, 100)
	port := startTLS(t, gateway, func(r *http.Response) {
		switch r.Request.URL.Path {
		case "/":
			r.Body = io.NopCloser(strings.NewReader(page))
			r.ContentLength = int64(len(page))
			r.Header.Set("Content-Length", strconv.Itoa(len(page)))
			r.Header.Del("Content-Encoding")
		case "/icon.svg":
			icons <- r.Request.URL.RawQuery
		}
	})
	switch got := browse(t, "https://console.example.test:"+port+"/", icons); got {
	case "end":
	case "uploaded":
		t.Error("got the uploaded file run as a script, want the browser to refuse it")
	default:
		t.Fatalf("got the icon with query %q first, want no inline script to run", got)
	}
}
