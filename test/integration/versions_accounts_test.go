package integration

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// dumpedRow is a row of the account store. A value is nil (NULL) or a string in base64.
type dumpedRow struct {
	Table  string
	Values map[string]any
}

// dumpAccounts returns a dump of the account store, and its rows.
func dumpAccounts(t *testing.T, dsn string) (dump []byte, rows []dumpedRow) {
	t.Helper()
	var out bytes.Buffer
	if _, err := accounts.Dump(t.Context(), dsn, &out); err != nil {
		t.Fatal(err)
	}
	_, lines, _ := strings.Cut(out.String(), "\n") // without the version of the tables
	for line := range strings.Lines(lines) {
		var row dumpedRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return out.Bytes(), rows
}

// wantRows checks that each of the rows in before is also in after. A row in after can have more columns.
func wantRows(t *testing.T, before, after []dumpedRow) {
	t.Helper()
	for _, old := range before {
		if !slices.ContainsFunc(after, func(row dumpedRow) bool {
			for column, value := range old.Values {
				if got, ok := row.Values[column]; !ok || got != value {
					return false
				}
			}
			return row.Table == old.Table
		}) {
			t.Errorf("got no row of table %s with the values %v, want the row of the previous version", old.Table, old.Values)
		}
	}
}

// refresh exchanges a refresh token at the login function, and returns the new access token and the new refresh token.
func (m manager) refresh(token string) (access, next string) {
	m.t.Helper()
	response, err := http.Post(m.login+"/refresh", "application/json", strings.NewReader(`{"refresh_token":"`+token+`"}`))
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != 200 {
		m.t.Fatalf("refresh a session: got %d and error %v, want 200", response.StatusCode, err)
	}
	return answer.AccessToken, answer.RefreshToken
}

// TestUpgradeOfAccounts proves that an upgrade loses no data of the account store. All rows that the previous version
// has written are in the new tables, and users, sessions and audit entries can be used. Functions of the previous
// version work with the new tables. A dump of the previous version can be loaded.
func TestUpgradeOfAccounts(t *testing.T) {
	previousFunctions(t, "setup", "login", "accounts")
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	asAdmin, err := mysql.ParseDSN(admin)
	if err != nil {
		t.Fatal(err)
	}
	asAdmin.DBName = servertest.DatabaseName(t, dsn) // the previous version's runtime user cannot read the version of the tables
	environment := []string{"MYSQL_DSN=" + dsn, "MYSQL_ADMIN_DSN=" + admin, "MONGODB_URI=" + servertest.MongoDB(t).NewDatabase(t),
		"ADMIN_USERNAME=grace", "ADMIN_PASSWORD=hopper-1906"}
	prepare := func(setup string) {
		t.Helper()
		if log, err := runSetup(t.Context(), build(t, setup), environment...); err != nil {
			t.Fatalf("%s: %v\n%s", setup, err, log)
		}
	}
	settings := managerSettings(t, dsn)
	prepare("previous-setup")
	previous := manager{t, runFunction(t, "previous-login", settings...), runFunction(t, "previous-accounts", settings...)}

	// This version would reject the passwords of both users, because they are too short.
	root, _ := previous.token("grace", "hopper-1906")
	previous.want(201, root, "POST", "/accounts", `{"username":"ada","password":"lovelace","role":"user"}`)
	gone := previous.want(201, root, "POST", "/accounts", `{"username":"gone","password":"lovelace","role":"user"}`)
	previous.want(204, root, "DELETE", "/accounts/"+gone["id"].(string), "")
	if _, status := previous.token("ada", "wrong"); status != 401 {
		t.Errorf("sign in with a wrong password: got %d, want 401", status)
	}
	status, session, _, err := signIn(previous.login, home.String(), "ada", "lovelace")
	if err != nil || status != 200 {
		t.Fatalf("sign in: got %d and error %v, want 200", status, err)
	}
	refreshToken := session["refresh_token"].(string)
	dump, before := dumpAccounts(t, asAdmin.FormatDSN())
	for _, table := range []string{"users", "login_attempts", "audit", "sessions", "refresh_tokens"} {
		if !slices.ContainsFunc(before, func(row dumpedRow) bool { return row.Table == table }) {
			t.Errorf("got no row in the table %s, want at least 1", table)
		}
	}

	for range 2 { // setup can run again
		prepare("setup")
		_, after := dumpAccounts(t, asAdmin.FormatDSN())
		wantRows(t, before, after)
	}
	current := manager{t, runFunction(t, "login", settings...), runFunction(t, "accounts", settings...)}
	usable := func() {
		t.Helper()
		access, next := current.refresh(refreshToken)
		if me := current.want(200, access, "GET", "/accounts/me", ""); me["username"] != "ada" {
			t.Errorf("GET /accounts/me: got %v, want ada", me)
		}
		if sessions := current.want(200, access, "GET", "/sessions", "")["sessions"].([]any); len(sessions) == 0 {
			t.Error("GET /sessions: got no session, want the session of the previous version")
		}
		current.refresh(next)
		root, _ := current.token("grace", "hopper-1906")
		var actions []string
		for _, entry := range current.want(200, root, "GET", "/accounts/audit?limit=100", "")["entries"].([]any) {
			e := entry.(map[string]any)
			actions = append(actions, e["action"].(string)+" "+e["account"].(map[string]any)["username"].(string))
		}
		for _, want := range []string{"user.created grace", "user.created ada", "user.created gone", "user.deleted gone"} {
			if !slices.Contains(actions, want) {
				t.Errorf("audit trail: got %q, want %q", actions, want)
			}
		}
	}
	usable()

	// During an upgrade, functions of both versions run. A session can alternate between them.
	status, session, _, err = signIn(current.login, home.String(), "ada", "lovelace")
	if err != nil || status != 200 {
		t.Fatalf("sign in: got %d and error %v, want 200", status, err)
	}
	token := session["refresh_token"].(string)
	for _, m := range []manager{previous, current, previous} {
		_, token = m.refresh(token)
	}
	for name, m := range map[string]manager{"previous": previous, "this": current} {
		root, _ := m.token("grace", "hopper-1906")
		user := "/accounts/" + m.want(201, root, "POST", "/accounts", `{"username":"version","password":"initial password","role":"user"}`)["id"].(string)
		if _, status := previous.token("version", "initial password"); status != 200 {
			t.Errorf("sign in to the previous version as a user of %s version: got %d, want 200", name, status)
		}
		m.want(200, root, "PATCH", user, `{"role":"admin"}`)
		m.want(204, root, "DELETE", user, "")
	}
	// A token of the previous version does not contain the time of the sign-in.
	root, _ = previous.token("grace", "hopper-1906")
	current.want(401, root, "POST", "/accounts", `{"username":"alan","password":"initial password","role":"user"}`)

	if rows, err := accounts.Load(t.Context(), admin, dsn, bytes.NewReader(dump)); err != nil || rows != len(before) {
		t.Fatalf("load the dump of the previous version: got %d rows and error %v, want %d", rows, err, len(before))
	}
	_, after := dumpAccounts(t, asAdmin.FormatDSN())
	wantRows(t, before, after)
	usable()
}
