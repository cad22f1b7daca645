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

// owners are whose tests try the document, by its tags; "health" is for those of shared/function.
var owners = []string{"login", "validate", "upload", "files", "accounts", "gateway", "health", "record", "sweep"}

func open(t *testing.T) *document {
	t.Helper()
	d, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The document is an OpenAPI document, of which each operation has a name of its own, and one owner.
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
					t.Errorf("%s %s has the id %q and the tags %q", method, path, operation.OperationId, operation.Tags)
				}
				seen[operation.OperationId] = true
				maps.Copy(described, describedBy(item, operation))
			}
		}
	}
	for path, item := range d.items("gateway") {
		for method, operation := range item.GetOperations().FromOldest() {
			if !seen[operation.OperationId] {
				t.Errorf("%s %s has the tags %q: the tests of no function would try it", method, path, operation.Tags)
			}
		}
	}
	for what := range elsewhere {
		if !described[what] {
			t.Errorf("%q is excused, and not in the document", what)
		}
	}
}

const id = "0195a3f0-0000-7000-8000-000000000001"

// given is an exchange that the document allows, and then the exchange as a case changes it.
type given struct {
	function, method, target string
	request                  map[string]string // headers
	sent                     string
	status                   int
	header                   map[string]string
	body                     string
}

func problem(status, name string) string {
	return `{"type":"urn:strongroom:problem:` + name + `","title":"x","status":` + status + `,"instance":"r"}`
}

func login() given {
	return given{"login", "POST", "/login", map[string]string{"Content-Type": "application/json"}, `{"username":"ada","password":"x"}`, 200,
		map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
		`{"access_token":"x","token_type":"Bearer","expires_in":900,"refresh_token":"x","scope":"","user":{"id":"` + id + `","username":"ada","roles":["user"]}}`}
}

func file() given {
	return given{"files", "GET", "/files/" + id, map[string]string{"Authorization": "Bearer x"}, "", 200,
		map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
		`{"id":"` + id + `","owner":"ada","name":"x","size":1,"sha256":"` + strings.Repeat("0", 64) + `","content_type":"a/b","status":"stored","stored_at":"2026-01-01T00:00:00Z"}`}
}

func with(of given, change func(*given)) given {
	change(&of)
	return of
}

func recorded() given {
	return given{function: "record", method: "POST", target: "/", request: map[string]string{"Content-Type": "application/json"}, status: 204,
		sent: `{"id":"` + id + `","owner":"ada","name":"x","size":1,"sha256":"` + strings.Repeat("0", 64) + `","content_type":"a/b","stored_at":"2026-01-01T00:00:00Z"}`}
}

func refused(of given, status int, code, name string, header ...string) given {
	of.status, of.body, of.header = status, problem(code, name), map[string]string{"Content-Type": "application/problem+json"}
	for i := 0; i < len(header); i += 2 {
		of.header[header[i]] = header[i+1]
	}
	return of
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		given
		want string // in the faults; empty if there are none
	}{
		"login":                   {login(), ""},
		"login at the root":       {with(login(), func(g *given) { g.target = "/" }), ""},
		"login at another's root": {with(login(), func(g *given) { g.function, g.target = "files", "/" }), "does not have this path"},
		"form": {with(login(), func(g *given) {
			g.request = map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
			g.sent = "username=ada&password=x"
		}), ""},
		"form, of less": {with(login(), func(g *given) {
			g.request = map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
			g.sent = "username=ada"
		}), "was not refused"},
		"body of less, taken":           {with(login(), func(g *given) { g.sent = `{"username":"ada"}` }), "was not refused"},
		"type that is not taken, taken": {with(login(), func(g *given) { g.request = map[string]string{"Content-Type": "text/plain"} }), "was not refused"},
		"no request id":                 {with(login(), func(g *given) { g.header["X-Request-Id"] = "" }), "is no X-Request-Id"},
		"status":                        {with(login(), func(g *given) { g.status = 201 }), "201"},
		"type of content":               {with(login(), func(g *given) { g.header["Content-Type"] = "text/plain" }), "text/plain"},
		"no header":                     {with(login(), func(g *given) { g.header["Cache-Control"] = "" }), "Cache-Control"},
		"other header":                  {with(login(), func(g *given) { g.header["Cache-Control"] = "public" }), "cache-control"},
		"no JSON":                       {with(login(), func(g *given) { g.body = "{" }), "cannot be decoded"},
		"no body":                       {with(login(), func(g *given) { g.body = "" }), "missing"},
		"member missing":                {with(login(), func(g *given) { g.body = strings.Replace(g.body, `"scope":"",`, "", 1) }), "scope"},
		"member of another type":        {with(login(), func(g *given) { g.body = strings.Replace(g.body, "900", `"900"`, 1) }), "expires_in"},
		"member that is unknown":        {with(login(), func(g *given) { g.body = strings.Replace(g.body, "{", `{"secret":1,`, 1) }), "$.secret"},
		"deep member that is unknown":   {with(login(), func(g *given) { g.body = strings.Replace(g.body, `"id"`, `"secret":1,"id"`, 1) }), "$.user.secret"},
		"format":                        {with(login(), func(g *given) { g.body = strings.Replace(g.body, id, "1", 1) }), "uuid"},
		"refused":                       {refused(login(), 401, "401", "bad-credentials", "WWW-Authenticate", "Basic"), ""},
		"refused without a challenge":   {refused(login(), 401, "401", "bad-credentials"), "WWW-Authenticate"},
		"refused, another status":       {refused(login(), 400, "401", "bad-request"), "not that of a 400"},
		"refused, another id":           {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.header["X-Request-Id"] = "s" }), "request id"},
		"refused, another name":         {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.body = strings.Replace(g.body, "urn:", "tag:", 1) }), "type"},
		"refused in JSON":               {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.header["Content-Type"] = "application/json" }), "application/json"},
		"away":                          {refused(login(), 503, "503", "unavailable", "Retry-After", "2"), ""},
		"away for good":                 {refused(login(), 503, "503", "unavailable"), "Retry-After"},
		"away for nothing":              {refused(login(), 503, "503", "unavailable", "Retry-After", "0"), "retry-after"},
		"fault of a fake":               {refused(login(), 500, "500", "internal"), ""},
		"fault, told":                   {with(refused(login(), 500, "500", "internal"), func(g *given) { g.body = `{"error":"Error 1064"}` }), "problem document"},
		"unknown path":                  {with(refused(login(), 404, "404", "not-found"), func(g *given) { g.target = "/nothing" }), ""},
		"unknown path, answered":        {with(login(), func(g *given) { g.target = "/nothing" }), "want 404"},
		"unknown path, bad query":       {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.target = "/nothing?x=%" }), ""},
		"unknown path, good query":      {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.target = "/nothing?x=1" }), "want 404"},
		"unknown method, bad query":     {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.method, g.target, g.sent = "GET", "/login?x=%", "" }), ""},
		"unknown method, good query":    {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.method, g.sent = "GET", "" }), "want 405"},
		"unknown method":                {with(refused(login(), 405, "405", "method-not-allowed", "Allow", "POST"), func(g *given) { g.method, g.sent = "GET", "" }), ""},
		"unknown method, not told":      {with(refused(login(), 405, "405", "method-not-allowed"), func(g *given) { g.method, g.sent = "GET", "" }), "Allow"},
		"unknown method beside HEAD":    {refused(given{function: "upload", method: "GET", target: "/upload/tus/" + id}, 405, "405", "method-not-allowed", "Allow", "HEAD"), ""},
		"unknown method, answered":      {with(login(), func(g *given) { g.method = "PUT" }), "want 405"},
		"file":                          {file(), ""},
		"file, no token":                {with(file(), func(g *given) { g.request = nil }), "was not refused"},
		"file, HEAD":                    {with(file(), func(g *given) { g.method, g.body = "HEAD", "" }), ""},
		"file, no id":                   {with(file(), func(g *given) { g.target = "/files/1" }), "was not refused"},
		"files, too many":               {with(file(), func(g *given) { g.target, g.body = "/files?limit=1000", `{"files":[]}` }), "was not refused"},
		"deleted":                       {with(file(), func(g *given) { g.method, g.status, g.body, g.header = "DELETE", 204, "", map[string]string{} }), ""},
		"deleted, with a body":          {with(file(), func(g *given) { g.method, g.status, g.header = "DELETE", 204, map[string]string{} }), "there is a body"},
		"validate, below":               {refused(given{function: "validate", method: "PROPFIND", target: "/validate/x/y"}, 401, "401", "unauthenticated", "WWW-Authenticate", "Bearer"), ""},
		"record":                        {recorded(), ""},
		"record, of less":               {with(recorded(), func(g *given) { g.sent = "{}" }), "was not refused"},
		"record, anywhere":              {refused(given{function: "record", method: "PUT", target: "/files"}, 422, "422", "unprocessable"), ""},
		"record, another status":        {refused(recorded(), 409, "409", "conflict"), "409"},
		"sweep":                         {given{"sweep", "POST", "/", nil, "", 200, map[string]string{"Content-Type": "application/json"}, `{}`}, "dead_letters"},
		"sweep, elsewhere":              {refused(given{function: "sweep", method: "POST", target: "/x"}, 404, "404", "not-found"), ""},
		"console":                       {given{"gateway", "GET", "/", nil, "", 200, map[string]string{"Content-Type": "text/html"}, "<p>"}, ""},
		"function behind the gateway":   {with(login(), func(g *given) { g.function, g.status = "gateway", 201 }), ""},
		"problem behind the gateway":    {with(refused(login(), 409, "409", "conflict"), func(g *given) { g.function = "gateway" }), "409"},
		"function that is away":         {with(refused(login(), 503, "503", "unavailable", "Retry-After", "2"), func(g *given) { g.function, g.method, g.sent = "gateway", "GET", "" }), ""},
		"session, no cookie set":        {with(login(), func(g *given) { g.function, g.target = "gateway", "/session" }), "Set-Cookie"},
		"HEAD, type of content":         {with(file(), func(g *given) { g.method, g.body, g.header["Content-Type"] = "HEAD", "", "text/plain" }), "text/plain"},
		"problem of more":               {with(refused(login(), 400, "400", "bad-request"), func(g *given) { g.body = strings.Replace(g.body, "{", `{"trace":"x",`, 1) }), "trace"},
		"health":                        {given{"login", "GET", "/healthz", nil, "", 200, map[string]string{"Content-Type": "text/plain; charset=utf-8"}, "ok\n"}, ""},
		"preflight":                     {given{"gateway", "OPTIONS", "/files", map[string]string{"Access-Control-Request-Method": "GET"}, "", 204, map[string]string{}, ""}, ""},
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

// What is answered is noted, of a handler that notices nothing of being watched; and what a request has, if it was not refused.
func TestUntried(t *testing.T) {
	d, c := open(t), Of("login")
	all, answer := len(c.untried(d)), given{}
	handler := c.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != answer.sent {
			t.Errorf("got %s, want %s: %v", body, answer.sent, err)
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
		tried  []string // of which all before were tried too
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
			t.Errorf("got %d %s, want what the handler answers", w.Code, w.Body)
		}
		left := c.untried(d)
		if len(left) != all-len(step.tried) {
			t.Errorf("%d are untried, want %d less %q", len(left), all, step.tried)
		}
		for _, what := range step.tried {
			if slices.Contains(left, "no test tries: "+what) {
				t.Errorf("%s is untried", what)
			}
		}
	}
}

// What is excused must not be tried, or the excuse stays when its reason is gone.
func TestExcuses(t *testing.T) {
	d, c := open(t), Of("validate")
	about := func(s string) bool { return strings.HasSuffix(s, " jwks 503") }
	if before := c.untried(d); slices.ContainsFunc(before, about) {
		t.Errorf("what is excused is asked for: %q", before)
	}
	c.note("jwks 503")
	if after := c.untried(d); !slices.ContainsFunc(after, about) {
		t.Errorf("what is excused was tried, and only this is told: %q", after)
	}
}

// An answer that is not allowed fails the test whose handler gives it.
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
			t.Errorf("%d failed the test: %t, want %t", status, spy.failed, want)
		}
	}
}

// spy is a test of which it shows whether it failed.
type spy struct {
	testing.TB
	failed bool
}

func (s *spy) Errorf(string, ...any) { s.failed = true }
