package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// home is the client address of the requests that a manager sends.
var home = netip.MustParseAddr("192.0.2.1")

// manager is a client of the real login and accounts functions, behind one proxy.
type manager struct {
	t               *testing.T
	login, accounts string // URLs
}

// newManager starts the login and accounts functions with the database dsn.
func newManager(t *testing.T, dsn string) manager {
	t.Helper()
	settings := managerSettings(t, dsn)
	return manager{t, runFunction(t, "login", settings...), runFunction(t, "accounts", settings...)}
}

// managerSettings returns the settings of the login and accounts functions.
func managerSettings(t *testing.T, dsn string) []string {
	t.Helper()
	settings, _ := loginSettings(t, dsn)
	for _, setting := range settings {
		if file, ok := strings.CutPrefix(setting, "TOKEN_SIGNING_KEY_FILE="); ok {
			settings = append(settings, "TOKEN_KEYS_FILE="+filepath.Join(filepath.Dir(file), "jwks.json"))
		}
	}
	return settings
}

// token signs in and returns the access token and the status. The token is empty if the sign-in is refused.
func (m manager) token(username, secret string) (token string, status int) {
	m.t.Helper()
	status, body, _, err := signIn(m.login, home.String(), username, secret)
	if err != nil {
		m.t.Fatal(err)
	}
	token, _ = body["access_token"].(string)
	return token, status
}

// renew signs in, replaces the password with a new password, and returns the access token. The initial password alone
// must not be enough.
func (m manager) renew(username, initial, secret string) (token string) {
	m.t.Helper()
	if token, status := m.token(username, initial); token != "" || status != 403 {
		m.t.Errorf("sign in with a password of another person: got %d and the token %q, want 403 and no token", status, token)
	}
	body, err := json.Marshal(map[string]string{"username": username, "password": initial, "new_password": secret})
	if err != nil {
		m.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(m.t.Context(), "POST", m.login+"/login", strings.NewReader(string(body)))
	if err != nil {
		m.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Forwarded-For", home.String())
	request.Header.Set("X-Request-Id", "manage-1")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != 200 {
		m.t.Fatalf("sign in with a new password: got %d and error %v, want 200", response.StatusCode, err)
	}
	return answer.AccessToken
}

// call sends a request to accounts with a token, and returns the status and the body of the response.
func (m manager) call(token, method, path, body string) (status int, answer map[string]any) {
	m.t.Helper()
	request, err := http.NewRequestWithContext(m.t.Context(), method, m.accounts+path, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("X-Forwarded-For", home.String())
	request.Header.Set("X-Request-Id", "manage-1")
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	if strings.Contains(string(text), "argon2") {
		m.t.Errorf("%s %s: the response contains a password hash: %s", method, path, text)
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			m.t.Fatalf("%s %s: decode the response %d %s: %v", method, path, response.StatusCode, text, err)
		}
	}
	return response.StatusCode, answer
}

// want is like call and checks the status of the response.
func (m manager) want(status int, token, method, path, body string) map[string]any {
	m.t.Helper()
	got, answer := m.call(token, method, path, body)
	if got != status {
		m.t.Fatalf("%s %s %s: got %d %v, want %d", method, path, body, got, answer, status)
	}
	return answer
}

// createAdmin creates a user with the role admin and the password secret.
func createAdmin(t *testing.T, dsn, name, secret string) accounts.User {
	t.Helper()
	hash, err := password.NewHasher(1, time.Minute).Hash(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	u, err := servertest.OpenAccounts(t, dsn).Create(t.Context(), accounts.Setup, accounts.NewUser{Username: name, PasswordHash: hash, Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestManageAccounts proves that an admin can create, change and delete an account through the accounts function, and
// that each change has an immediate effect on sign-in and on existing access tokens. The audit trail records all
// changes.
func TestManageAccounts(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	grace := createAdmin(t, dsn, "grace", "murray-hopper-1906")
	m := newManager(t, dsn)
	admin, _ := m.token("grace", "murray-hopper-1906")

	made := m.want(201, admin, "POST", "/accounts", `{"username":"Ada","password":"initial password","role":"user"}`)
	ada := "/accounts/" + made["id"].(string)
	m.want(409, admin, "POST", "/accounts", `{"username":"ADA","password":"lovelace-1843","role":"user"}`)
	first := m.renew("ada", "initial password", "lovelace-1843")
	if me := m.want(200, first, "GET", "/accounts/me", ""); me["username"] != "ada" || me["id"] != made["id"] {
		t.Errorf("GET /accounts/me: got %v, want ada with the ID %v", me, made["id"])
	}
	m.want(403, first, "GET", "/accounts", "")

	// A request with a wrong current password changes nothing. A password change voids the access token.
	m.want(403, first, "PUT", "/accounts/me/password", `{"current_password":"byron-1843","new_password":"babbage-1822"}`)
	m.want(204, first, "PUT", "/accounts/me/password", `{"current_password":"lovelace-1843","new_password":"babbage-1822"}`)
	m.want(401, first, "GET", "/accounts/me", "")
	if _, status := m.token("ada", "lovelace-1843"); status != 401 {
		t.Errorf("login with the old password: got %d, want 401", status)
	}
	second, _ := m.token("ada", "babbage-1822")
	m.want(200, second, "GET", "/accounts/me", "")

	// A change of the role voids the access token. A demoted admin can no longer manage accounts, not even with the old
	// token.
	m.want(200, admin, "PATCH", ada, `{"role":"admin"}`)
	m.want(401, second, "GET", "/accounts/me", "")
	third, _ := m.token("ada", "babbage-1822")
	m.want(200, third, "GET", "/accounts", "")
	m.want(200, admin, "PATCH", ada, `{"role":"user"}`)
	m.want(401, third, "PATCH", "/accounts/"+grace.ID, `{"role":"user"}`)
	m.want(409, admin, "PATCH", "/accounts/"+grace.ID, `{"role":"user"}`)
	m.want(409, admin, "DELETE", "/accounts/"+grace.ID, "")

	m.want(200, admin, "PATCH", ada, `{"disabled":true,"password":"analytical-engine"}`)
	if _, status := m.token("ada", "analytical-engine"); status != 401 {
		t.Errorf("login of a disabled user: got %d, want 401", status)
	}
	m.want(200, admin, "PATCH", ada, `{"disabled":false}`)
	fourth := m.renew("ada", "analytical-engine", "difference-engine")
	m.want(204, admin, "DELETE", ada, "")
	m.want(404, admin, "GET", ada, "")
	m.want(401, fourth, "GET", "/accounts/me", "")

	entries := m.want(200, admin, "GET", "/accounts/audit?limit=100", "")["entries"].([]any)
	var got []string
	for _, entry := range entries {
		e := entry.(map[string]any)
		if e["action"] == "signin.succeeded" {
			if e["address"] != home.String() || e["request_id"] == nil {
				t.Errorf("audit entry: got %v, want the address %s and a request ID", e, home)
			}
			continue
		}
		got = append(got, fmt.Sprint(e["actor"].(map[string]any)["username"], " ", e["action"], " ", e["account"].(map[string]any)["username"]))
		if e["action"] != "user.created" && (e["address"] != home.String() || e["client_request_id"] != "manage-1" || e["request_id"] == "manage-1") {
			t.Errorf("audit entry: got %v, want the address %s, an own request ID, and the client's ID manage-1", e, home)
		}
	}
	want := "grace user.deleted ada, ada password.changed ada, grace user.enabled ada, grace password.reset ada, grace user.disabled ada, grace role.changed ada, " +
		"grace role.changed ada, ada password.changed ada, ada password.changed ada, grace user.created ada, setup user.created grace"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("audit trail: got\n%s, want\n%s", text, want)
	}
}

// TestGuessesOfTheCurrentPassword proves that a stolen access token does not bypass the lockout. Wrong current
// passwords in a password change and wrong passwords at login increase the same counters.
func TestGuessesOfTheCurrentPassword(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	createAdmin(t, dsn, "grace", "murray-hopper-1906")
	m := newManager(t, dsn)
	stolen, _ := m.token("grace", "murray-hopper-1906")
	for range 4 {
		m.want(403, stolen, "PUT", "/accounts/me/password", `{"current_password":"byron-1788","new_password":"babbage-1822"}`)
	}
	if got := servertest.LoginFailures(t, dsn); got != 4 {
		t.Errorf("got %d counted failures, want 4", got)
	}
	// The fifth failure is recorded with a clock that is an hour ahead, so that its delay does not end during the test.
	ahead := servertest.OpenAccounts(t, dsn, func() time.Time { return time.Now().Add(time.Hour) })
	servertest.Attempt(t, ahead, "grace", home, false)
	m.want(429, stolen, "PUT", "/accounts/me/password", `{"current_password":"murray-hopper-1906","new_password":"babbage-1822"}`)
	if _, status := m.token("grace", "murray-hopper-1906"); status != 429 {
		t.Errorf("login after five failures: got %d, want 429", status)
	}
	m.want(200, stolen, "GET", "/accounts/me", "")
}
