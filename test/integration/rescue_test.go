package integration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/passkey/passkeytest"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestRescueWithSecondFactor proves that an imported admin can help the only other admin, who needs a second factor and
// has lost all passkeys and recovery codes (docs/operations.md, "No admin can sign in").
func TestRescueWithSecondFactor(t *testing.T) {
	const lost, typed = "lovelace-1843", "a typed password"
	dsn := servertest.AccountsDSN(t)
	store, admin := servertest.OpenAccounts(t, dsn), createAdmin(t, dsn, "admin", lost)
	actor := accounts.Actor{ID: admin.ID, Username: admin.Username, Version: admin.TokenVersion}
	old := accounts.Passkey{CredentialID: []byte("lost"), Credential: []byte("{}"), Party: "localhost", Name: "lost"}
	if _, err := store.AddPasskey(t.Context(), actor, old, accounts.Challenge{Expires: time.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if err := store.SetSecondFactors(t.Context(), actor, []string{"admin"}); err != nil {
		t.Fatal(err)
	}
	settings := append(managerSettings(t, dsn), gatewayKey(t))
	// A passkey requires a domain.
	local := func(url string) string { return strings.Replace(url, "127.0.0.1", "localhost", 1) }
	m := manager{t, local(runFunction(t, "login", settings...)), local(runFunction(t, "accounts", settings...))}
	if token, status := m.token("admin", lost); token != "" || status != 403 {
		t.Fatalf("admin with a lost passkey: got %d and the token %q, want 403", status, token)
	}

	hash, err := bcrypt.GenerateFromPassword([]byte(typed), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	user := `{"username":"rescue","password_hash":"` + string(hash) + `","role":"admin"}`
	if _, log, err := setupCommand(t, user, []string{"MYSQL_DSN=" + dsn}, "users", "import", "-"); err != nil {
		t.Fatalf("import rescue: %v\n%s", err, log)
	}
	token, _ := m.token("rescue", typed)
	m.want(403, token, "DELETE", "/accounts/"+admin.ID+"/passkeys", "")

	a := passkeytest.New(t, m.accounts)
	encode := func(options map[string]any) []byte {
		t.Helper()
		encoded, err := json.Marshal(options)
		if err != nil {
			t.Fatal(err)
		}
		return encoded
	}
	created := a.Create(t, encode(m.want(200, token, "POST", "/accounts/me/passkeys/options", "")))
	m.want(201, token, "POST", "/accounts/me/passkeys", `{"name":"rescue","credential":`+string(created)+`}`)
	a.Origin = m.login
	login := manager{t, m.login, m.login}
	response := a.Get(t, encode(login.want(200, "", "POST", "/login/passkey/options", "")))
	answer := login.want(200, "", "POST", "/login/passkey", `{"credential":`+string(response)+`}`)
	rescue, _ := answer["access_token"].(string)
	m.want(204, rescue, "DELETE", "/accounts/"+admin.ID+"/passkeys", "")

	token, status := m.token("admin", lost)
	if status != 200 {
		t.Fatalf("admin without passkeys: got %d, want 200", status)
	}
	m.want(403, token, "GET", "/accounts", "")
	m.want(200, token, "POST", "/accounts/me/passkeys/options", "")
}
