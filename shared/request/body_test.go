package request_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

// readBody returns a handler that reads a small body, and then calls after.
func readBody(after func(r *http.Request)) http.Handler {
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		_, err := request.ReadBody(w, r, 1<<10)
		after(r)
		return err
	})
}

func nothing(*http.Request) {}

func TestReadBodyDoesNotWaitForASlowClient(t *testing.T) {
	for name, handler := range map[string]http.Handler{
		"long time limit":     function.Wrap(readBody(nothing), time.Hour),
		"with EndSmallBodies": function.Wrap(function.EndSmallBodies(readBody(nothing)), time.Hour),
		"shorter time limit": function.Wrap(readBody(func(r *http.Request) {
			if end, _ := r.Context().Deadline(); time.Now().After(end) {
				t.Error("ReadBody returned after the deadline of the request")
			}
		}), time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			functiontest.SlowBodies(t, func(*testing.T) http.Handler { return handler }, http.StatusRequestTimeout, "POST /")
		})
	}
}

func TestReadBodyDoesNotWaitForASlowClientOverHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{DialContext: functiontest.Serve(t, function.Wrap(readBody(nothing), time.Hour)), Protocols: &protocols}
		defer transport.CloseIdleConnections()
		body, writer := io.Pipe()
		defer writer.Close()
		response, err := (&http.Client{Transport: transport}).Post("http://x/", "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.ProtoMajor != 2 || response.StatusCode != http.StatusRequestTimeout {
			t.Errorf("got %s %s, want HTTP/2 and 408", response.Proto, response.Status)
		}
	})
}

// The read deadline that ReadBody sets does not apply after the body. The handler can take longer, and a large body
// of the next request on the connection can take longer, too.
func TestReadBodyRestoresTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mux := http.NewServeMux()
		mux.Handle("/small", function.Wrap(readBody(func(r *http.Request) {
			select {
			case <-r.Context().Done():
				t.Errorf("the context of the request ended while the handler was running: %v", r.Context().Err())
			case <-time.After(time.Minute):
			}
		}), time.Hour))
		mux.Handle("/large", function.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("read the large body: %v", err)
			}
			_, _ = w.Write(body)
		}), time.Hour))
		dial := functiontest.Serve(t, mux)
		client, err := dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		responses := bufio.NewReader(client)
		for range 2 {
			for _, c := range []struct {
				path, body string
				pause      time.Duration // time before the last byte is sent
				want       string
			}{{"/small", "hello", 0, ""}, {"/small", "", 0, ""}, {"/large", "hello", time.Minute, "hello"}} {
				if _, err := fmt.Fprintf(client, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", c.path, len(c.body)); err != nil {
					t.Fatal(err)
				}
				for i := range c.body {
					if i == len(c.body)-1 {
						time.Sleep(c.pause)
					}
					if _, err := io.WriteString(client, c.body[i:i+1]); err != nil {
						t.Fatal(err)
					}
				}
				response, err := http.ReadResponse(responses, nil)
				if err != nil {
					t.Fatalf("%s: read the response: %v", c.path, err)
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || response.StatusCode != http.StatusOK || response.Close || string(body) != c.want {
					t.Errorf("%s: got %s, %q, close %t and error %v, want 200, %q and an open connection", c.path, response.Status, body, response.Close, err, c.want)
				}
				time.Sleep(time.Minute)
			}
		}
	})
}

func TestReadJSON(t *testing.T) {
	const good = `{"name":"ada","on":true}`
	typed := func(contentType, body string) *http.Request {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		return r
	}
	sent := func(body string) *http.Request { return typed("application/json", body) }
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
		want error // nil if the body is valid
	}{
		"valid":                         {sent(good), nil},
		"white space around":            {sent(" \n" + good + "\t"), nil},
		"charset UTF-8":                 {typed(`Application/JSON; charset="UTF-8"`, good), nil},
		"charset utf8":                  {typed("application/json; charset=utf8", good), nil},
		"another charset":               {typed("application/json; charset=ISO-8859-1", good), nil},
		"another charset, not UTF-8":    {typed("application/json; charset=ISO-8859-1", "{\"name\":\"s3cret\xe9\"}"), problem.BadRequest},
		"content encoding identity":     {with(sent(good), "Content-Encoding", "identity"), nil},
		"of the maximum length":         {sent(good + strings.Repeat(" ", 100-len(good))), nil},
		"too long":                      {sent(good + strings.Repeat(" ", 101-len(good))), problem.TooLarge},
		"too long, chunked":             {unsized(sent(good + strings.Repeat(" ", 101-len(good)))), problem.TooLarge},
		"interrupted":                   {breaks, problem.BadRequest},
		"no content type":               {typed("", good), problem.UnsupportedType},
		"form":                          {typed("application/x-www-form-urlencoded", good), problem.UnsupportedType},
		"compressed":                    {with(sent(good), "Content-Encoding", "gzip"), problem.UnsupportedType},
		"empty":                         {sent(""), problem.BadRequest},
		"array":                         {sent("[" + good + "]"), problem.BadRequest},
		"null":                          {sent("null"), problem.BadRequest},
		"cut off":                       {sent(good[:len(good)-1]), problem.BadRequest},
		"cut off in a value":            {sent(good[:len(good)-3]), problem.BadRequest},
		"cut off in a name":             {sent(good[:3]), problem.BadRequest},
		"data after the object":         {sent(good + "x"), problem.BadRequest},
		"two objects":                   {sent(good + good), problem.BadRequest},
		"not UTF-8":                     {sent("{\"name\":\"s3cret\xff\"}"), problem.BadRequest},
		"repeated member":               {sent(`{"name":"s3cret","name":"s3cret"}`), problem.BadRequest},
		"repeated member, escaped":      {sent(`{"name":"s3cret","n\u0061me":"s3cret"}`), problem.BadRequest},
		"unknown member":                {sent(`{"s3cret":1}`), problem.BadRequest},
		"member name in another case":   {sent(`{"Name":"s3cret"}`), problem.BadRequest},
		"null value":                    {sent(`{"name":null}`), problem.BadRequest},
		"value of another type":         {sent(`{"name":{"s3cret":"s3cret"}}`), problem.BadRequest},
		"boolean value of another type": {sent(`{"on":"s3cret"}`), problem.BadRequest},
	} {
		var got struct {
			Name *string `json:"name"`
			On   *bool   `json:"on"`
		}
		err := request.ReadJSON(httptest.NewRecorder(), test.r, 100, &got)
		switch {
		case !errors.Is(err, test.want):
			t.Errorf("%s: got error %v, want %v", name, err, test.want)
		case test.want == nil && (got.Name == nil || *got.Name != "ada" || got.On == nil || !*got.On):
			t.Errorf("%s: got %+v, want name ada and on true", name, got)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: got error %v, want one without a part of the body", name, err)
		}
	}
	var wrong struct {
		On *bool `json:"on"`
	}
	if err := request.DecodeJSON([]byte(`{"on":1}`), &wrong); err == nil || !strings.Contains(err.Error(), "on must be true or false") {
		t.Errorf("got error %v, want one that names the type of on", err)
	}
}
