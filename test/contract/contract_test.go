package contract

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// owners contains the tags of the document. Each tag is the name of the function whose tests cover the operations with
// that tag. The tests of shared/function cover the operations with the tag "health".
var owners = []string{"login", "validate", "upload", "files", "accounts", "gateway", "health", "record", "sweep"}

// open loads the document.
func open(t *testing.T) *document {
	t.Helper()
	d, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDocument proves that the document is a valid OpenAPI document, and that each operation has a unique operation ID
// and exactly one owner. Each exception in elsewhere must be in the document.
func TestDocument(t *testing.T) {
	d := open(t)
	if ok, found := d.validator.ValidateDocument(); !ok {
		t.Error(strings.Join(texts(found), "\n"))
	}
	seen, described := map[string]bool{}, map[string]bool{}
	for _, function := range owners {
		for path, item := range d.items(function) {
			for method, operation := range item.GetOperations().FromOldest() {
				if !tagged(item, function) {
					continue
				}
				if operation.OperationId == "" || seen[operation.OperationId] || !slices.Equal(operation.Tags, []string{function}) {
					t.Errorf("%s %s: got the operation ID %q and the tags %q, want a unique ID and the tag %q",
						method, path, operation.OperationId, operation.Tags, function)
				}
				seen[operation.OperationId] = true
				maps.Copy(described, describedBy(item, operation))
			}
		}
	}
	for path, item := range d.items("gateway") {
		for method, operation := range item.GetOperations().FromOldest() {
			if !seen[operation.OperationId] {
				t.Errorf("%s %s: got the tags %q, want a tag whose function has tests", method, path, operation.Tags)
			}
		}
	}
	for what := range elsewhere {
		if !described[what] {
			t.Errorf("elsewhere contains %q, which is not in the document", what)
		}
	}
}

const id = "0195a3f0-0000-7000-8000-000000000001"

// given is an exchange of a request and a response.
type given struct {
	function, method, target string
	request                  map[string]string // request headers
	sent                     string            // request body
	status                   int
	header                   map[string]string // response headers
	body                     string            // response body
}

// problem returns a problem document.
func problem(status, name string) string {
	return `{"type":"urn:strongroom:problem:` + name + `","title":"x","status":` + status + `,"instance":"r"}`
}

// login returns a successful exchange with login.
func login() given {
	return given{"login", "POST", "/login", map[string]string{"Content-Type": "application/json"}, `{"username":"ada","password":"x"}`, 200,
		map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
		`{"access_token":"x","token_type":"Bearer","expires_in":900,"refresh_token":"x","scope":"","user":{"id":"` + id + `","username":"ada","roles":["user"]}}`}
}

// file returns a successful exchange with files.
func file() given {
	return given{"files", "GET", "/files/" + id, map[string]string{"Authorization": "Bearer x"}, "", 200,
		map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
		`{"id":"` + id + `","owner":"ada","name":"x","size":1,"sha256":"` + strings.Repeat("0", 64) + `","content_type":"a/b","status":"stored","stored_at":"2026-01-01T00:00:00Z"}`}
}

// with applies change to an exchange and returns the result.
func with(of given, change func(*given)) given {
	change(&of)
	return of
}

// recorded returns a successful exchange with record.
func recorded() given {
	return given{function: "record", method: "POST", target: "/", request: map[string]string{"Content-Type": "application/json"}, status: 204,
		sent: `{"id":"` + id + `","owner":"ada","name":"x","size":1,"sha256":"` + strings.Repeat("0", 64) + `","content_type":"a/b","stored_at":"2026-01-01T00:00:00Z"}`}
}

// refused returns an exchange with the request of another exchange and a problem document as the response. header
// contains alternating names and values.
func refused(of given, status int, code, name string, header ...string) given {
	of.status, of.body, of.header = status, problem(code, name), map[string]string{"Content-Type": "application/problem+json"}
	for i := 0; i < len(header); i += 2 {
		of.header[header[i]] = header[i+1]
	}
	return of
}

// TestCheck proves that check finds the faults in a table of exchanges, and no faults in the exchanges that the
// document allows.
func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		given
		want string // a part of the faults, or empty for no faults
	}{
		"login":                      {login(), ""},
		"login at the root":          {with(login(), func(g *given) { g.target = "/" }), ""},
		"login at the root of files": {with(login(), func(g *given) { g.function, g.target = "files", "/" }), "does not describe this path"},
		"form": {with(login(), func(g *given) {
			g.request = map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
			g.sent = "username=ada&password=x"
		}), ""},
		"incomplete form, accepted": {with(login(), func(g *given) {
			g.request = map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
			g.sent = "username=ada"
		}), "function accepted a request"},
		"incomplete body, accepted":                  {with(login(), func(g *given) { g.sent = `{"username":"ada"}` }), "function accepted a request"},
		"unsupported request type, accepted":         {with(login(), func(g *given) { g.request = map[string]string{"Content-Type": "text/plain"} }), "function accepted a request"},
		"no request ID":                              {with(login(), func(g *given) { g.header["X-Request-Id"] = "" }), "no X-Request-Id"},
		"undescribed status":                         {with(login(), func(g *given) { g.status = 201 }), "201"},
		"undescribed content type":                   {with(login(), func(g *given) { g.header["Content-Type"] = "text/plain" }), "text/plain"},
		"header missing":                             {with(login(), func(g *given) { g.header["Cache-Control"] = "" }), "Cache-Control"},
		"header with another value":                  {with(login(), func(g *given) { g.header["Cache-Control"] = "public" }), "cache-control"},
		"body not JSON":                              {with(login(), func(g *given) { g.body = "{" }), "cannot be decoded"},
		"body missing":                               {with(login(), func(g *given) { g.body = "" }), "missing"},
		"member missing":                             {with(login(), func(g *given) { g.body = strings.Replace(g.body, `"scope":"",`, "", 1) }), "scope"},
		"member of another type":                     {with(login(), func(g *given) { g.body = strings.Replace(g.body, "900", `"900"`, 1) }), "expires_in"},
		"unknown member":                             {with(login(), func(g *given) { g.body = strings.Replace(g.body, "{", `{"secret":1,`, 1) }), "$.secret"},
		"unknown nested member":                      {with(login(), func(g *given) { g.body = strings.Replace(g.body, `"id"`, `"secret":1,"id"`, 1) }), "$.user.secret"},
		"value not in the described format":          {with(login(), func(g *given) { g.body = strings.Replace(g.body, id, "1", 1) }), "uuid"},
		"refused":                                    {refused(login(), 401, "401", "bad-credentials", "WWW-Authenticate", "Basic"), ""},
		"refused without a challenge":                {refused(login(), 401, "401", "bad-credentials"), "WWW-Authenticate"},
		"refused, another status":                    {refused(login(), 400, "401", "bad-request"), "does not match the status 400"},
		"refused, another request ID":                {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.header["X-Request-Id"] = "s" }), "request ID"},
		"refused, invalid problem type":              {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.body = strings.Replace(g.body, "urn:", "tag:", 1) }), "type"},
		"refused, not as a problem document":         {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.header["Content-Type"] = "application/json" }), "application/json"},
		"unavailable":                                {refused(login(), 503, "503", "unavailable", "Retry-After", "2"), ""},
		"unavailable, no Retry-After":                {refused(login(), 503, "503", "unavailable"), "Retry-After"},
		"unavailable, Retry-After 0":                 {refused(login(), 503, "503", "unavailable", "Retry-After", "0"), "retry-after"},
		"internal error":                             {refused(login(), 500, "500", "internal"), ""},
		"internal error, not as a problem document":  {with(refused(login(), 500, "500", "internal"), func(g *given) { g.body = `{"error":"Error 1064"}` }), "problem document"},
		"unknown path":                               {with(refused(login(), 404, "404", "not-found"), func(g *given) { g.target = "/nothing" }), ""},
		"unknown path, success":                      {with(login(), func(g *given) { g.target = "/nothing" }), "must be 404"},
		"unknown path, malformed query":              {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.target = "/nothing?x=%" }), ""},
		"unknown path, valid query":                  {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.target = "/nothing?x=1" }), "must be 404"},
		"unknown method, malformed query":            {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.method, g.target, g.sent = "GET", "/login?x=%", "" }), ""},
		"unknown method, valid query":                {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.method, g.sent = "GET", "" }), "must be 405"},
		"unknown method":                             {with(refused(login(), 405, "405", "method-not-allowed", "Allow", "POST"), func(g *given) { g.method, g.sent = "GET", "" }), ""},
		"unknown method, no Allow":                   {with(refused(login(), 405, "405", "method-not-allowed"), func(g *given) { g.method, g.sent = "GET", "" }), "Allow"},
		"unknown method, path with HEAD but not GET": {refused(given{function: "upload", method: "GET", target: "/upload/tus/" + id}, 405, "405", "method-not-allowed", "Allow", "HEAD"), ""},
		"unknown method, success":                    {with(login(), func(g *given) { g.method = "PUT" }), "must be 405"},
		"file":                                       {file(), ""},
		"file, no token, accepted":                   {with(file(), func(g *given) { g.request = nil }), "function accepted a request"},
		"file, HEAD":                                 {with(file(), func(g *given) { g.method, g.body = "HEAD", "" }), ""},
		"file, invalid ID, accepted":                 {with(file(), func(g *given) { g.target = "/files/1" }), "function accepted a request"},
		"files, invalid limit, accepted":             {with(file(), func(g *given) { g.target, g.body = "/files?limit=1000", `{"files":[]}` }), "function accepted a request"},
		"deleted":                                    {with(file(), func(g *given) { g.method, g.status, g.body, g.header = "DELETE", 204, "", map[string]string{} }), ""},
		"deleted, with a body":                       {with(file(), func(g *given) { g.method, g.status, g.header = "DELETE", 204, map[string]string{} }), "the response has a body"},
		"validate, path below":                       {refused(given{function: "validate", method: "PROPFIND", target: "/validate/x/y"}, 401, "401", "unauthenticated", "WWW-Authenticate", "Bearer"), ""},
		"record":                                     {recorded(), ""},
		"record, incomplete event, accepted":         {with(recorded(), func(g *given) { g.sent = "{}" }), "function accepted a request"},
		"record, any path and method":                {refused(given{function: "record", method: "PUT", target: "/files"}, 422, "422", "unprocessable"), ""},
		"record, undescribed status":                 {refused(recorded(), 409, "409", "conflict"), "409"},
		"sweep, incomplete response":                 {given{"sweep", "POST", "/", nil, "", 200, map[string]string{"Content-Type": "application/json"}, `{}`}, "dead_letters"},
		"sweep, another path":                        {refused(given{function: "sweep", method: "POST", target: "/x"}, 404, "404", "not-found"), ""},
		"console":                                    {given{"gateway", "GET", "/", nil, "", 200, map[string]string{"Content-Type": "text/html"}, "<p>"}, ""},
		"function behind the gateway":                {with(login(), func(g *given) { g.function, g.status = "gateway", 201 }), ""},
		"problem behind the gateway":                 {with(refused(login(), 409, "409", "conflict"), func(g *given) { g.function = "gateway" }), "409"},
		"function behind the gateway, unavailable":   {with(refused(login(), 503, "503", "unavailable", "Retry-After", "2"), func(g *given) { g.function, g.method, g.sent = "gateway", "GET", "" }), ""},
		"session, no Set-Cookie":                     {with(login(), func(g *given) { g.function, g.target = "gateway", "/session" }), "Set-Cookie"},
		"HEAD, undescribed content type":             {with(file(), func(g *given) { g.method, g.body, g.header["Content-Type"] = "HEAD", "", "text/plain" }), "text/plain"},
		"problem document with an unknown member":    {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.body = strings.Replace(g.body, "{", `{"trace":"x",`, 1) }), "trace"},
		"health":    {given{"login", "GET", "/healthz", nil, "", 200, map[string]string{"Content-Type": "text/plain; charset=utf-8"}, "ok\n"}, ""},
		"preflight": {given{"gateway", "OPTIONS", "/files", map[string]string{"Access-Control-Request-Method": "GET"}, "", 204, map[string]string{}, ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequest(c.method, c.target, nil)
			for name, value := range c.request {
				request.Header.Set(name, value)
			}
			header := http.Header{"X-Request-Id": {"r"}}
			for name, value := range c.header {
				header.Set(name, value)
				if value == "" {
					header.Del(name)
				}
			}
			got := strings.Join(Of(c.function).check(open(t), exchange{request, []byte(c.sent), c.status, header, []byte(c.body)}), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got the faults %q, want %q", got, c.want)
			}
		})
	}
}

// TestUntried proves that Handler records which responses and request types the tests cover, without changing the
// request or the response. The content type of a request counts only if the request is not refused.
func TestUntried(t *testing.T) {
	d, c := open(t), Of("login")
	all, answer := len(c.untried(d)), given{}
	handler := c.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != answer.sent {
			t.Errorf("read the request body: got %s, %v, want %s", body, err, answer.sent)
		}
		w.Header().Set("X-Request-Id", "r")
		for name, value := range answer.header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(answer.status)
		_, _ = io.WriteString(w, answer.body)
	}))
	for _, step := range []struct {
		answer given
		tried  []string // everything that is covered after this step
	}{
		{refused(login(), 413, "413", "too-large"), []string{"login 413"}},
		{login(), []string{"login 413", "login 200", "login takes application/json"}},
		{login(), []string{"login 413", "login 200", "login takes application/json"}},
		{with(refused(login(), 405, "405", "method-not-allowed", "Allow", "POST"), func(g *given) { g.method = "PUT" }),
			[]string{"login 413", "login 200", "login takes application/json", "login 405"}},
	} {
		answer = step.answer
		w, request := httptest.NewRecorder(), httptest.NewRequest(answer.method, "/login", strings.NewReader(answer.sent))
		request.Header.Set("Content-Type", "application/json")
		handler.ServeHTTP(w, request)
		if w.Code != answer.status || w.Body.String() != answer.body {
			t.Errorf("got %d %s, want the response of the handler, %d %s", w.Code, w.Body, answer.status, answer.body)
		}
		left := c.untried(d)
		if len(left) != all-len(step.tried) {
			t.Errorf("got %d items that no test covers, want %d without %q", len(left), all-len(step.tried), step.tried)
		}
		for _, what := range step.tried {
			if slices.Contains(left, "no test covers: "+what) {
				t.Errorf("got %s as not covered, want it to be covered", what)
			}
		}
	}
}

// TestExcuses proves that an exception in elsewhere is not reported while no test covers it, and is reported as soon as
// a test covers it, so that an unnecessary exception is removed.
func TestExcuses(t *testing.T) {
	d, c := open(t), Of("validate")
	about := func(s string) bool { return strings.HasSuffix(s, " jwks 503") }
	if before := c.untried(d); slices.ContainsFunc(before, about) {
		t.Errorf("before jwks 503 is covered: got %q, want no report about it", before)
	}
	c.note("jwks 503")
	if after := c.untried(d); !slices.ContainsFunc(after, about) {
		t.Errorf("after jwks 503 is covered: got %q, want a report about it", after)
	}
}

// TestHandlerFails proves that a response that the document does not allow fails the test that uses the handler.
func TestHandlerFails(t *testing.T) {
	for status, want := range map[int]bool{http.StatusNoContent: false, http.StatusTeapot: true} {
		spy := &spy{TB: t}
		handler := Of("login").Handler(spy, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("X-Request-Id", "r")
			w.WriteHeader(status)
		}))
		request := httptest.NewRequest("POST", "/logout", strings.NewReader(`{"refresh_token":"x"}`))
		request.Header.Set("Content-Type", "application/json")
		handler.ServeHTTP(httptest.NewRecorder(), request)
		if spy.failed != want {
			t.Errorf("test with a response of status %d: got failed %t, want %t", status, spy.failed, want)
		}
	}
}

// spy is a testing.TB that records whether the test has failed.
type spy struct {
	testing.TB
	failed bool
}

func (s *spy) Errorf(string, ...any) { s.failed = true }
