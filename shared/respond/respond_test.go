package respond

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestJSON(t *testing.T) {
	answer := httptest.NewRecorder()
	if err := JSON(answer, http.StatusAccepted, map[string]int{"n": 1}); err != nil {
		t.Fatal(err)
	}
	if got, want := answer.Body.String(), "{\"n\":1}\n"; answer.Code != 202 || got != want {
		t.Errorf("got %d %q, want 202 %q", answer.Code, got, want)
	}
	if !json.Valid(answer.Body.Bytes()) || answer.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got body %q and headers %v, want valid JSON with Cache-Control no-store", answer.Body, answer.Header())
	}
	if err := JSON(httptest.NewRecorder(), 200, func() {}); err == nil {
		t.Error("encode a func: got no error, want one")
	}
}

func TestNoContent(t *testing.T) {
	answer := httptest.NewRecorder()
	if err := NoContent(answer); err != nil {
		t.Fatal(err)
	}
	if got := answer.Header().Get("Cache-Control"); answer.Code != 204 || answer.Body.Len() != 0 || got != "no-store" {
		t.Errorf("got %d %q with Cache-Control %q, want 204 with no body and no-store", answer.Code, answer.Body, got)
	}
}
