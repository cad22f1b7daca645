package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestDelete(t *testing.T) {
	for user, ids := range map[string][]string{"ada": {cataloguedID, storedID}, "root": {cataloguedID, gracesID}} {
		for _, id := range ids {
			f := newFixture(t)
			if answer := f.send(user, "DELETE", "/files/"+id, nil); answer.Code != 204 || answer.Body.Len() != 0 {
				t.Errorf("%s, %s: got %d %s, want 204", user, id, answer.Code, answer.Body)
			}
			if _, err := f.files.Get(t.Context(), id); !errors.Is(err, problem.NotFound) {
				t.Errorf("%s, %s: the content still exists", user, id)
			}
			for _, e := range f.entries.entries {
				if e.ID == id {
					t.Errorf("%s, %s: the catalog entry still exists", user, id)
				}
			}
			wantProblem(t, f.send(user, "DELETE", "/files/"+id, nil), 404, "not-found")
		}
	}
}

// TestDeleteInterrupted checks that all requests for a file fail as soon as its deletion has begun, even if a later
// step of the deletion fails.
func TestDeleteInterrupted(t *testing.T) {
	f := newFixture(t)
	f.files.Before = contenttest.Fail(errAway, "Delete")
	wantProblem(t, f.send("ada", "DELETE", "/files/"+cataloguedID, nil), 503, "unavailable")
	if len(f.entries.entries) != 1 {
		t.Error("the catalog entry still exists, although the content might be deleted")
	}
	for _, request := range [][2]string{{"GET", ""}, {"GET", "/content"}, {"POST", "/link"}, {"DELETE", ""}} {
		wantProblem(t, f.send("ada", request[0], "/files/"+cataloguedID+request[1], nil), 404, "not-found")
	}
	// The file must be deleted even if the client disconnects after the deletion has begun.
	f = newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.files.Before = func(method, _ string) error {
		if method == "MarkDeleted" {
			cancel()
		}
		return nil
	}
	request := httptest.NewRequestWithContext(ctx, "DELETE", "/files/"+cataloguedID, nil)
	request.Header.Set("Authorization", "Bearer "+f.tokens["ada"])
	f.handler.ServeHTTP(httptest.NewRecorder(), request)
	if len(f.files.Files()) != 2 {
		t.Error("the file still exists")
	}
}

// askLink requests a link. If body is empty, the request has no body.
func (f *fixture) askLink(user, id, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest("POST", "/files/"+id+"/link", strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+f.tokens[user])
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	answer := httptest.NewRecorder()
	f.handler.ServeHTTP(answer, request)
	return answer
}

func TestLink(t *testing.T) {
	f := newFixture(t)
	for body, life := range map[string]time.Duration{
		"": time.Hour, "{}": time.Hour, `{"expires_in":60}`: time.Minute, `{"expires_in":604800}`: 7 * 24 * time.Hour,
	} {
		for _, user := range []string{"ada", "root"} {
			answer := f.askLink(user, cataloguedID, body)
			var got linkAnswer
			if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil || answer.Code != 201 {
				t.Fatalf("%s: got %d %s", body, answer.Code, answer.Body)
			}
			if want := now.Truncate(time.Second).Add(life); !got.ExpiresAt.Equal(want) {
				t.Errorf("%s: the link expires at %v, want %v", body, got.ExpiresAt, want)
			}
			if answer := f.send("", "GET", got.URL, nil); answer.Code != 200 || answer.Body.String() != "hello world" || answer.Header().Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%s: got %d %s", got.URL, answer.Code, answer.Body)
			}
		}
	}
	for _, body := range []string{`{"expires_in":59}`, `{"expires_in":604801}`, `{"expires_in":"1h"}`, `{"expires_in":null}`, `{"expire":60}`, "x"} {
		wantProblem(t, f.askLink("ada", cataloguedID, body), 400, "bad-request")
	}
	wantProblem(t, f.askLink("ada", cataloguedID, `{"expires_in":60}`+strings.Repeat(" ", 1<<20)), 413, "too-large")
	request := httptest.NewRequest("POST", "/files/"+cataloguedID+"/link", strings.NewReader(`{}`))
	request.Header.Set("Authorization", "Bearer "+f.tokens["ada"])
	request.Header.Set("Content-Type", "text/plain")
	answer := httptest.NewRecorder()
	f.handler.ServeHTTP(answer, request)
	wantProblem(t, answer, 415, "unsupported-media-type")
}

func TestLinkedContent(t *testing.T) {
	f := newFixture(t)
	good := f.links.address(cataloguedID, now.Add(time.Minute).Unix())
	if answer := f.send("", "HEAD", good, nil); answer.Code != 200 || answer.Header().Get("Content-Length") != "11" {
		t.Errorf("got %d %v", answer.Code, answer.Header())
	}
	if answer := f.send("", "GET", good, map[string]string{"Range": "bytes=6-"}); answer.Code != 206 || answer.Body.String() != "world" {
		t.Errorf("got %d %s, want 206 and the range", answer.Code, answer.Body)
	}
	wantProblem(t, f.send("", "POST", good, nil), 405, "method-not-allowed")
	for name, target := range map[string]string{
		"expired":               f.links.address(cataloguedID, now.Unix()),
		"later expiration":      strings.Replace(good, "expires=1", "expires=2", 1),
		"another file":          strings.Replace(good, cataloguedID, storedID, 1),
		"another signature":     good[:len(good)-3] + "AAA",
		"empty signature":       strings.Split(good, "&")[0] + "&signature=",
		"repeated parameter":    good + "&expires=1",
		"additional parameter":  good + "&x=1",
		"padded signature":      good + "=",
		"malformed expiration":  strings.Replace(good, "expires=", "expires=x", 1),
		"signed by another key": (&links{key: []byte("x")}).address(cataloguedID, now.Add(time.Minute).Unix()),
	} {
		answer := f.send("", "GET", target, nil)
		if answer.Code != 403 || !strings.Contains(answer.Body.String(), "bad-link") {
			t.Errorf("%s: got %d %s, want 403 bad-link", name, answer.Code, answer.Body)
		}
	}
	if answer := f.send("ada", "DELETE", "/files/"+cataloguedID, nil); answer.Code != 204 {
		t.Fatal(answer.Body)
	}
	wantProblem(t, f.send("", "GET", good, nil), 404, "not-found")
}

func TestLoadLinks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for content, want := range map[string]string{
		strings.Repeat("k", 31) + "\n": "LINK_KEY_FILE: the key must have at least 32 bytes, but has 31",
		strings.Repeat("k", 32) + "\n": "",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadLinks(file); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := loadLinks(file + ".not"); err == nil || !strings.HasPrefix(err.Error(), "LINK_KEY_FILE: ") {
		t.Errorf("got %v, want an error that names LINK_KEY_FILE", err)
	}
}

func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler {
		f := newFixture(t)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+f.tokens["ada"])
			f.handler.ServeHTTP(w, r)
		})
	}, http.StatusRequestTimeout, "POST /files/"+cataloguedID+"/link\nContent-Type: application/json")
}
