package accounts_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestDumpAndLoad proves that Load restores the rows of a dump, and that it refuses a damaged dump, or a dump of a newer
// version. If the first line is wrong, Load changes nothing. The errors do not quote the dump.
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
	if header != `{"schema":4}` || strings.Count(rows, "\n") < 2 {
		t.Fatalf("got the dump %s, want the version 4 and rows", original)
	}
	for name, test := range map[string]struct {
		dump    string
		want    string
		changes bool
	}{
		"empty":           {"", "EOF", false},
		"no JSON":         {"x", "read the dump", false},
		"newer version":   {`{"schema":5}`, "has version 5 of the tables", false},
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

// TestDumpOtherVersion proves that a dump has the version of the tables, even if the program has other migrations.
func TestDumpOtherVersion(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	table := servertest.DatabaseName(t, dsn) + ".goose_db_version"
	if _, err := servertest.OpenSQL(t, admin).ExecContext(t.Context(), "INSERT INTO "+table+" (version_id, is_applied) VALUES (5, TRUE)"); err != nil {
		t.Fatal(err)
	}
	var dump strings.Builder
	if _, err := accounts.Dump(t.Context(), dsn, &dump); err != nil || !strings.HasPrefix(dump.String(), `{"schema":5}`+"\n") {
		t.Errorf("got error %v and the dump %s, want the version 5", err, dump.String())
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
	older := `{"schema":1}` + "\n"
	for line := range strings.Lines(dump.String()) {
		if strings.Contains(line, `"table":"users"`) {
			older += line
		}
	}
	if n, err := accounts.Load(t.Context(), admin, dsn, strings.NewReader(older)); n != 1 || err != nil {
		t.Fatalf("load the dump: got %d rows and error %v, want 1", n, err)
	}
	if user, err := store.ByUsername(t.Context(), "ada"); err != nil || user.ID != ada.ID {
		t.Errorf("got user %+v and error %v, want the ID %s", user, err, ada.ID)
	}
	for _, table := range []string{"audit", "sessions", "login_attempts"} { // from later migrations
		if n := servertest.CountRows(t, dsn, table); n != 0 {
			t.Errorf("got %d rows in table %s, want 0", n, table)
		}
	}
}
