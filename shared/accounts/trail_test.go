package accounts_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestTrailOfSignIns checks that the audit trail has an entry for each successful sign-in and each lockout of an
// account, and none for the lockout of a user name that does not exist, because such a name can be a mistyped password.
// A response does not wait for the entry of a lockout, which would reveal that the user exists.
func TestTrailOfSignIns(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	cfg, err := mysql.ParseDSN(dsn)
	if err := errors.Join(err, accounts.Provision(t.Context(), admin, dsn)); err != nil {
		t.Fatal(err)
	}
	now := newClock()
	store := servertest.OpenAccounts(t, dsn, now.Now)
	ada := servertest.CreateAccount(t, store, "ada", "user")
	ctx := request.WithOrigin(t.Context(), &request.Origin{ID: "request-1", ClientID: "client-1", Address: home})
	if _, _, err := store.StartSession(ctx, ada, accounts.SignIn{Method: accounts.MethodPasskey}, lifetimes); err != nil {
		t.Fatal(err)
	}
	other, err := servertest.OpenSQL(t, admin).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.ExecContext(t.Context(), "LOCK TABLES "+cfg.DBName+".audit WRITE"); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	for _, name := range []string{"hunter2", "ada"} {
		for i := range 100 {
			a := accounts.Attempt{Username: name, Address: netip.AddrFrom4([4]byte{198, 51, 100, byte(i / 5)})}
			if _, err := store.Attempt(ctx, a, wrong); !errors.Is(err, accounts.ErrBadCredentials) {
				t.Fatalf("attempt %d: got error %v, want %v", i, err, accounts.ErrBadCredentials)
			}
		}
	}
	_, err = other.ExecContext(t.Context(), "UNLOCK TABLES")
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	// An attempt that waits for the entry continues only after the timeout of the statement.
	if strings.Contains(log.String(), "could not add") {
		t.Errorf("an attempt waited for the entry: got log %s", &log)
	}
	entries, _, err := servertest.OpenAccounts(t, dsn, now.Now).Audit(ctx, accounts.AuditFilter{}, 100, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%s %s: %q %s from %q, %q %q", e.Action, e.Detail, e.ActorName, e.Username, e.Address, e.RequestID, e.ClientRequestID))
	}
	want := []string{
		`account.locked : "" ada from "198.51.100.19", "request-1" "client-1"`,
		`signin.succeeded passkey: "ada" ada from "192.0.2.1", "request-1" "client-1"`,
		`user.created : "setup" ada from "", "" ""`,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got the audit trail\n%q, want\n%q", got, want)
	}
}

// TestAuditFilter checks which entries each filter selects, and that each query of a page reads few rows of a large trail.
func TestAuditFilter(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn)
	start := time.Now()
	ada := servertest.CreateAccount(t, store, "ada", "user")
	signIn(t, store, ada, "")
	servertest.CreateAccount(t, store, "eve", "user")
	db := servertest.OpenSQL(t, dsn)
	// Add 5000 older entries of other users with another action.
	if _, err := db.ExecContext(t.Context(), `INSERT INTO audit (id, made_at, action, actor_name, user_id, username, address, request_id)
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000), m (j) AS (SELECT 1 UNION ALL SELECT j + 1 FROM m WHERE j < 5)
		SELECT UNHEX(LPAD(HEX(1000 * j + i), 32, '0')), '2020-01-01', 'user.deleted', 'setup', UNHEX(REPEAT('0', 32)), CONCAT('user-', i), '', '' FROM n, m`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `ANALYZE TABLE audit`); err != nil {
		t.Fatal(err)
	}
	const created, signedIn = "user.created ", "signin.succeeded "
	for name, test := range map[string]struct {
		filter accounts.AuditFilter
		want   []string
		key    string // the index that the query uses
	}{
		"time":             {accounts.AuditFilter{From: start}, []string{created + "eve", signedIn + "ada", created + "ada"}, "PRIMARY"},
		"no entry later":   {accounts.AuditFilter{From: time.Now().Add(time.Minute)}, nil, "PRIMARY"},
		"no entry earlier": {accounts.AuditFilter{From: start.Add(-time.Hour), To: start}, nil, "PRIMARY"},
		"user name":        {accounts.AuditFilter{Username: "ADA"}, []string{signedIn + "ada", created + "ada"}, "audit_username"},
		"action":           {accounts.AuditFilter{Action: "user.created"}, []string{created + "eve", created + "ada"}, "audit_action"},
		"all":              {accounts.AuditFilter{"ada", "user.created", start, time.Now().Add(time.Minute)}, []string{created + "ada"}, ""},
	} {
		entries, next, err := store.Audit(t.Context(), test.filter, 100, "")
		var got []string
		for _, e := range entries {
			got = append(got, e.Action+" "+e.Username)
		}
		if err != nil || next != "" || !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, the cursor %q and error %v, want %q", name, got, next, err, test.want)
		}
		statement, args, err := test.filter.Query(100)
		if err != nil {
			t.Fatal(err)
		}
		plan := explain(t, db, statement, args)
		if rows, err := strconv.Atoi(plan["rows"]); err != nil || rows > 100 || test.key != "" && plan["key"] != test.key || strings.Contains(plan["Extra"], "filesort") {
			t.Errorf("%s: got the plan %q, want at most 100 rows from the index %q without a sort", name, plan, test.key)
		}
	}
	for name, filter := range map[string]accounts.AuditFilter{"user name": {Username: strings.Repeat("a", 65)}, "action": {Action: "user.create"}} {
		if _, _, err := store.Audit(t.Context(), filter, 100, ""); !errors.Is(err, problem.BadRequest) {
			t.Errorf("invalid %s: got error %v, want %v", name, err, problem.BadRequest)
		}
	}
}

// explain returns the columns of the only row of the query plan. MySQL has more columns than MariaDB.
func explain(t *testing.T, db *sql.DB, statement string, args []any) map[string]string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN FORMAT=TRADITIONAL "+statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil || !rows.Next() {
		t.Fatalf("got no row of the plan: %v, %v", err, rows.Err())
	}
	values, targets := make([]sql.NullString, len(columns)), make([]any, len(columns))
	for i := range values {
		targets[i] = &values[i]
	}
	if err := rows.Scan(targets...); err != nil {
		t.Fatal(err)
	}
	plan := map[string]string{}
	for i, column := range columns {
		plan[column] = values[i].String
	}
	return plan
}

// TestTrailOfPreviousVersion checks that functions of the previous version can still add entries, which lack the
// client's request ID.
func TestTrailOfPreviousVersion(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn)
	servertest.CreateAccount(t, store, "ada", "user")
	if _, err := servertest.OpenSQL(t, dsn).ExecContext(t.Context(), `INSERT INTO audit
		(id, made_at, action, actor_id, actor_name, user_id, username, role, address, request_id)
		SELECT REVERSE(id), made_at, action, actor_id, actor_name, user_id, username, role, address, 'old' FROM audit`); err != nil {
		t.Fatal(err)
	}
	entries, _, err := store.Audit(t.Context(), accounts.AuditFilter{}, 100, "")
	if err != nil || len(entries) != 2 {
		t.Fatalf("got entries %+v and error %v, want 2 entries", entries, err)
	}
	for _, e := range entries {
		if e.Username != "ada" || e.ClientRequestID != "" {
			t.Errorf("got entry %+v, want ada and no client request ID", e)
		}
	}
}
