package function

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestReadJSON(t *testing.T) {
	const good = `{"name":"ada","on":true}`
	request := func(contentType, body string) *http.Request {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		return r
	}
	sent := func(body string) *http.Request { return request("application/json", body) }
	with := func(r *http.Request, name, value string) *http.Request {
		r.Header.Set(name, value)
		return r
	}
	unsized := func(r *http.Request) *http.Request {
		r.Body, r.ContentLength = io.NopCloser(struct{ io.Reader }{r.Body}), -1
		return r
	}
	breaks := sent(good)
	breaks.Body = io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF))
	for name, test := range map[string]struct {
		r    *http.Request
		want error // nil: good
	}{
		"good":                    {sent(good), nil},
		"spaces around":           {sent(" \n" + good + "\t"), nil},
		"charset":                 {request(`Application/JSON; charset="UTF-8"`, good), nil},
		"identity":                {with(sent(good), "Content-Encoding", "identity"), nil},
		"as long as may be":       {sent(good + strings.Repeat(" ", 100-len(good))), nil},
		"too long":                {sent(good + strings.Repeat(" ", 101-len(good))), problem.TooLarge},
		"too long, chunked":       {unsized(sent(good + strings.Repeat(" ", 101-len(good)))), problem.TooLarge},
		"breaks off":              {breaks, problem.BadRequest},
		"no type":                 {request("", good), problem.UnsupportedType},
		"form":                    {request("application/x-www-form-urlencoded", good), problem.UnsupportedType},
		"Latin-1":                 {request("application/json; charset=latin1", good), problem.UnsupportedType},
		"compressed":              {with(sent(good), "Content-Encoding", "gzip"), problem.UnsupportedType},
		"empty":                   {sent(""), problem.BadRequest},
		"array":                   {sent("[" + good + "]"), problem.BadRequest},
		"null":                    {sent("null"), problem.BadRequest},
		"cut off":                 {sent(good[:len(good)-1]), problem.BadRequest},
		"cut off in a value":      {sent(good[:len(good)-3]), problem.BadRequest},
		"cut off in a name":       {sent(good[:3]), problem.BadRequest},
		"more":                    {sent(good + "x"), problem.BadRequest},
		"twice":                   {sent(good + good), problem.BadRequest},
		"not UTF-8":               {sent("{\"name\":\"s3cret\xff\"}"), problem.BadRequest},
		"member twice":            {sent(`{"name":"s3cret","name":"s3cret"}`), problem.BadRequest},
		"member twice, escaped":   {sent(`{"name":"s3cret","n\u0061me":"s3cret"}`), problem.BadRequest},
		"member unknown":          {sent(`{"s3cret":1}`), problem.BadRequest},
		"member in another case":  {sent(`{"Name":"s3cret"}`), problem.BadRequest},
		"member null":             {sent(`{"name":null}`), problem.BadRequest},
		"member of another type":  {sent(`{"name":{"s3cret":"s3cret"}}`), problem.BadRequest},
		"boolean of another type": {sent(`{"on":"s3cret"}`), problem.BadRequest},
	} {
		var got struct {
			Name *string `json:"name"`
			On   *bool   `json:"on"`
		}
		err := ReadJSON(httptest.NewRecorder(), test.r, 100, &got)
		switch {
		case !errors.Is(err, test.want):
			t.Errorf("%s: %v, want %v", name, err, test.want)
		case test.want == nil && (got.Name == nil || *got.Name != "ada" || got.On == nil || !*got.On):
			t.Errorf("%s: read %+v", name, got)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: %v repeats what was sent", name, err)
		}
	}
	var wrong struct {
		On *bool `json:"on"`
	}
	if err := DecodeJSON([]byte(`{"on":1}`), &wrong); err == nil || !strings.Contains(err.Error(), "on must be a boolean") {
		t.Errorf("%v, want it to say what on must be", err)
	}
}
