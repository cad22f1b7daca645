package accounts_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestDatabaseContainsNoSecrets proves that no column contains a refresh token, a recovery code or a device token, so
// that a reader of the database, or of a backup, cannot sign in.
func TestDatabaseContainsNoSecrets(t *testing.T) {
	clock, dsn := newClock(), servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn, clock.Now)
	ada, refresh := startSession(t, store, "ada")
	addPasskey(t, store, clock.Now(), ada, 1)
	codes, err := store.ReplaceRecoveryCodes(t.Context(), actorOf(ada))
	if err != nil {
		t.Fatal(err)
	}
	device, err := store.DeviceToken(ada, "")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(refresh)
	if err != nil {
		t.Fatal(err)
	}
	const key = 16 // bytes of the session's primary key, at the beginning of a refresh token
	secrets := []string{string(raw[key:]), refresh[len(refresh)-20:], codes[0], strings.ReplaceAll(codes[0], "-", ""), device}
	var dump bytes.Buffer
	if rows, err := accounts.Dump(t.Context(), dsn, &dump); err != nil || rows < 13 { // 10 of them are codes
		t.Fatalf("got %d rows, %v, want at least 13", rows, err)
	}
	for line := range bytes.Lines(dump.Bytes()) {
		var row struct{ Values map[string][]byte }
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		for column, value := range row.Values {
			for _, secret := range secrets {
				if bytes.Contains(value, []byte(secret)) {
					t.Errorf("got the secret %q in the column %s", secret, column)
				}
			}
		}
	}
}

// TestDumpAndLoad proves that Load restores the rows of a dump, and that it refuses a damaged dump, or a dump of a
// newer version. If the first line is wrong, Load changes nothing. The errors do not quote the dump.
func TestDumpAndLoad(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	store := servertest.OpenAccounts(t, dsn)
	servertest.CreateAccount(t, store, "größe", token.RoleAdmin)
	dump := func() string {
		var out bytes.Buffer
		if _, err := accounts.Dump(t.Context(), dsn, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	original := dump()
	header, rows, _ := strings.Cut(original, "\n")
	latest := latestVersion(t)
	if header != fmt.Sprintf(`{"schema":%d}`, latest) || strings.Count(rows, "\n") < 2 {
		t.Fatalf("got the dump %s, want the version %d and rows", original, latest)
	}
	for name, test := range map[string]struct {
		dump    string
		want    string
		changes bool
	}{
		"empty":           {"", "EOF", false},
		"no JSON":         {"x", "read the dump", false},
		"newer version":   {fmt.Sprintf(`{"schema":%d}`, latest+1), fmt.Sprintf("has version %d of the tables", latest+1), false},
		"no version":      {`{}`, "has version 0 of the tables", false},
		"long line":       {header + "\n" + strings.Repeat("x", 1<<20), "token too long", true},
		"truncated row":   {header + "\n" + rows[:20], "read the dump", true},
		"unknown table":   {header + "\n" + `{"table":"x","values":{"id":""}}`, "load a dump", true},
		"row has nothing": {header + "\n" + `{"table":"users","values":{}}`, "no values", true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := accounts.Load(t.Context(), admin, dsn, strings.NewReader(test.dump))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
			if !test.changes && dump() != original {
				t.Error("the refused dump has changed the rows")
			}
			n, err := accounts.Load(t.Context(), admin, dsn, strings.NewReader(original))
			if err != nil || n != strings.Count(rows, "\n") {
				t.Fatalf("load the dump: got %d rows and error %v, want %d", n, err, strings.Count(rows, "\n"))
			}
			if got := dump(); got != original {
				t.Errorf("got the dump\n%s\nwant\n%s", got, original)
			}
		})
	}
}

// latestVersion returns the version of the last migration.
func latestVersion(t *testing.T) (version int) {
	t.Helper()
	files, err := filepath.Glob("migrations/*.sql")
	if err == nil && len(files) > 0 {
		_, err = fmt.Sscanf(filepath.Base(slices.Max(files)), "%d_", &version)
	}
	if err != nil || version == 0 {
		t.Fatalf("read the version of the last migration: got %d and error %v", version, err)
	}
	return version
}

// TestDumpOtherVersion proves that a dump has the version of the tables, even if the program has other migrations.
func TestDumpOtherVersion(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	table := servertest.DatabaseName(t, dsn) + ".goose_db_version"
	if _, err := servertest.OpenSQL(t, admin).ExecContext(t.Context(), "INSERT INTO "+table+" (version_id, is_applied) VALUES (9999, TRUE)"); err != nil {
		t.Fatal(err)
	}
	var dump strings.Builder
	if _, err := accounts.Dump(t.Context(), dsn, &dump); err != nil || !strings.HasPrefix(dump.String(), `{"schema":9999}`+"\n") {
		t.Errorf("got error %v and the dump %s, want the version 9999", err, dump.String())
	}
}

// TestLoadOlderVersion proves that Load runs the migrations that are newer than the dump.
func TestLoadOlderVersion(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	store := servertest.OpenAccounts(t, dsn)
	ada := servertest.CreateAccount(t, store, "ada", token.RoleUser)
	var dump bytes.Buffer
	if _, err := accounts.Dump(t.Context(), dsn, &dump); err != nil {
		t.Fatal(err)
	}
	older, newer := `{"schema":1}`+"\n", regexp.MustCompile(`"(must_change_password|password_expires_at)":("[^"]*"|null),`) // columns of a later migration
	for line := range strings.Lines(dump.String()) {
		if strings.Contains(line, `"table":"users"`) {
			older += newer.ReplaceAllString(line, "")
		}
	}
	if n, err := accounts.Load(t.Context(), admin, dsn, strings.NewReader(older)); n != 1 || err != nil {
		t.Fatalf("load the dump: got %d rows and error %v, want 1", n, err)
	}
	if user, err := store.ByUsername(t.Context(), "ada"); err != nil || user.ID != ada.ID {
		t.Errorf("got user %+v and error %v, want the ID %s", user, err, ada.ID)
	}
	for _, table := range []string{"audit", "sessions", "login_attempts", "attempt_counters"} { // from later migrations
		if n := servertest.CountRows(t, dsn, table); n != 0 {
			t.Errorf("got %d rows in table %s, want 0", n, table)
		}
	}
}
