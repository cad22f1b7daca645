package integration

import (
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// startWithoutStores starts all functions with the addresses of stores that do not exist. The functions can then handle
// only requests that need no store. settings are added to the settings of every function. startWithoutStores returns
// the URLs of the functions and the Authorization header line of a user.
func startWithoutStores(t *testing.T, settings ...string) (urls map[string]string, user string) {
	t.Helper()
	signer, keys := newTokenKeys(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"link-key": strings.Repeat("k", 32), "sign-in-key": strings.Repeat("k", 32)})
	signInKey := "SIGN_IN_KEY_FILE=" + filepath.Join(dir, "sign-in-key")
	verifier := []string{"TOKEN_KEYS_FILE=" + keys, "TOKEN_ISSUER=strongroom", "TOKEN_AUDIENCE=strongroom"}
	const mysql, mongo, events = "MYSQL_DSN=u:p@tcp(127.0.0.1:1)/strongroom", "MONGODB_URI=mongodb://127.0.0.1:1/strongroom", "EVENTS_URL=http://127.0.0.1:1/"
	urls = map[string]string{}
	for name, own := range map[string][]string{
		"login":    {mysql, signInKey, "TOKEN_SIGNING_KEY_FILE=" + filepath.Join(filepath.Dir(keys), "key.jwk"), "TOKEN_ISSUER=strongroom", "TOKEN_AUDIENCE=strongroom"},
		"validate": verifier,
		"upload":   append([]string{mongo, events}, verifier...),
		"files":    append([]string{mongo, "LINK_KEY_FILE=" + filepath.Join(dir, "link-key"), "ACCOUNTS_URL=http://127.0.0.1:1"}, verifier...),
		"accounts": append([]string{mysql, signInKey}, verifier...),
		"record":   {mongo},
		"sweep":    {mongo, events},
	} {
		urls[name] = runFunction(t, name, append(own, settings...)...)
	}
	urls["gateway"] = runFunction(t, "gateway", append(settings, gatewayKey(t), "LOGIN_URL="+urls["login"], "VALIDATE_URL="+urls["validate"],
		"UPLOAD_URL="+urls["upload"], "FILES_URL="+urls["files"], "ACCOUNTS_URL="+urls["accounts"])...)
	return urls, bearerOf(t, signer, "0190-ada", "ada", token.RoleUser)
}

// TestQueriesThatCannotBeParsed proves that every function responds with 400 to a malformed query string, directly and
// through the gateway. url.URL.Query would silently ignore the malformed part, such as a scope that the operator
// requires.
func TestQueriesThatCannotBeParsed(t *testing.T) {
	urls, user := startWithoutStores(t)
	const id = "0195a3f0-0000-7000-8000-000000000001"
	endpoints := map[string][]string{ // that docs/openapi.yaml describes only in prose
		"login":    {"POST /"},
		"validate": {"POST /validate", "GET /"},
		"upload":   {"POST /"},
		"files":    nil,
		"accounts": nil,
		"record":   {"POST /"},
		"sweep":    {"POST /"},
		"gateway":  {"GET /", "GET /assets/x.js"},
	}
	for name := range endpoints {
		described := contract.Operations(t, name)
		for i, operation := range described {
			described[i] = strings.Replace(operation, "{id}", id, 1)
		}
		endpoints[name] = append(endpoints[name], described...)
	}
	for _, name := range []string{"login", "validate", "upload", "files", "accounts"} { // the functions behind the gateway
		for _, endpoint := range endpoints[name] {
			if !strings.HasSuffix(endpoint, " /") {
				endpoints["gateway"] = append(endpoints["gateway"], endpoint)
			}
		}
	}
	ask := func(function, endpoint, query string) reply {
		method, path, _ := strings.Cut(endpoint, " ")
		return send(t, strings.TrimPrefix(urls[function], "http://"), method, path+"?"+query, nil, user)
	}
	for _, function := range slices.Sorted(maps.Keys(urls)) {
		t.Run(function, func(t *testing.T) {
			for _, endpoint := range endpoints[function] {
				for _, query := range []string{"scope=accounts:manage;x", "scope=accounts:manage%", "scope=files:read&scope=accounts:manage%zz", "scope=files:read;scope=accounts:manage", "x=1;y=2", "%"} {
					if got := ask(function, endpoint, query); got.status != http.StatusBadRequest || got.header.Get("Content-Type") != "application/problem+json" {
						t.Errorf("%s?%s: got %d %s, want a problem document with status 400", endpoint, query, got.status, got.body)
					}
				}
			}
		})
	}
	// The query string of /validate itself contains the scopes that the operator requires. The query string of a path
	// below /validate/ belongs to the client's request, so validate ignores it.
	for target, want := range map[string]int{
		"/validate?":                 200,
		"/validate?scope=files:read": 200,
		"/validate?scope=files:read&scope=files:write":          200,
		"/validate?scope=accounts:manage":                       403,
		"/validate?%73cope=accounts%3amanage":                   403,
		"/validate?scope=files:read&scope=accounts:manage":      403,
		"/validate?scope=":                                      400,
		"/validate?scope":                                       400,
		"/validate?scope=%20":                                   400,
		"/validate?Scope=accounts:manage":                       400,
		"/validate?scopes=accounts:manage":                      400,
		"/validate/?scope=accounts:manage":                      200,
		"/validate/?scope=accounts:manage;x":                    200,
		"/validate/reports/7?scope=&q=100%;":                    200,
		"/validate%2freports?q=100%":                            200,
		"/validate/../validate?q=100%":                          200,
		"/validatex?scope=accounts:manage":                      404,
		"/Validate?scope=accounts:manage":                       404,
		"/validate;x?scope=accounts:manage":                     404,
		"/validate/%2e%2e/validate?scope=accounts:manage&q=%zz": 200,
	} {
		for _, function := range []string{"validate", "gateway"} {
			headers := []string{user, "X-Forwarded-Uri: /validate/?q=%", "X-Original-Url: /validate/?q=%"}
			got := send(t, strings.TrimPrefix(urls[function], "http://"), "GET", target, nil, headers...)
			if function == "gateway" && want == 404 { // the gateway serves the console at all other paths
				continue
			}
			if got.status != want {
				t.Errorf("%s: %s: got %d %s, want %d", function, target, got.status, got.body, want)
			}
		}
	}
}
