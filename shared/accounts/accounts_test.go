package accounts

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestParseDSN(t *testing.T) {
	cfg, err := parseDSN("u:p@tcp(db.example:3306)/strongroom?readTimeout=9s&multiStatements=true&allowAllFiles=true&loc=Local&sql_mode=%27%27&tls=true&rejectReadOnly=false")
	if err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]struct{ got, want any }{
		"Addr":                     {got: cfg.Addr, want: "db.example:3306"},
		"Timeout":                  {got: cfg.Timeout, want: 3 * time.Second},
		"ReadTimeout, named":       {got: cfg.ReadTimeout, want: 9 * time.Second},
		"WriteTimeout":             {got: cfg.WriteTimeout, want: 5 * time.Second},
		"ParseTime":                {got: cfg.ParseTime, want: true},
		"Loc":                      {got: cfg.Loc, want: time.UTC},
		"InterpolateParams":        {got: cfg.InterpolateParams, want: true},
		"MultiStatements":          {got: cfg.MultiStatements, want: false},
		"AllowAllFiles":            {got: cfg.AllowAllFiles, want: false},
		"TLSConfig, named":         {got: cfg.TLSConfig, want: "true"},
		"TLS server name":          {got: cfg.TLS.ServerName, want: "db.example"},
		"RejectReadOnly":           {got: cfg.RejectReadOnly, want: true},
		"time_zone":                {got: cfg.Params["time_zone"], want: "'+00:00'"},
		"strict sql_mode":          {got: strings.Contains(cfg.Params["sql_mode"], "STRICT_ALL_TABLES"), want: true},
		"innodb_lock_wait_timeout": {got: cfg.Params["innodb_lock_wait_timeout"], want: "3"},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %v, want %v", name, check.got, check.want)
		}
	}
}

func TestOpenRefusesWrongDSN(t *testing.T) {
	for _, dsn := range []string{
		"",
		"strongroom",
		"mysql://u:s3cret@db:3306/strongroom",
		"u:s3cret@tcp(db:3306)",
		"u:s3cret@tcp(db:3306)/",
		"u:s3cret@db:3306/strongroom",
		"u:s3cret@x@(y/strongroom",
		":s3cret@tcp(db:3306)/strongroom",
		"u:s3cret@tcp(db:3306)/strongroom?parseTime=s3cret",
		"u:s3cret@tcp(db:3306)/strongroom?tls=s3cret",
		"u:s3cret@tcp(db:3306)/strongroom?tls=skip-verify",
		"u:s3cret@tcp(db:3306)/strongroom?tls=preferred",
		"u:s3cret@tcp(db:3306)/strongroom?tls=true&allowFallbackToPlaintext=true",
	} {
		store, err := Open(dsn, time.Now)
		if err == nil {
			t.Errorf("Open(%q) = %v, want an error", dsn, store)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("Open(%q): got an error that shows the password: %v", dsn, err)
		}
	}
}

func TestFail(t *testing.T) {
	server := func(number uint16) error { return &mysql.MySQLError{Number: number, Message: "from the server"} }
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, test := range []struct {
		err  error
		want error // nil if the error has no kind
	}{
		{err: server(1040), want: problem.Unavailable},
		{err: server(1020), want: problem.Unavailable},
		{err: server(1044), want: problem.Unavailable},
		{err: server(1045), want: problem.Unavailable},
		{err: server(1049), want: problem.Unavailable},
		{err: server(1053), want: problem.Unavailable},
		{err: server(1146), want: problem.Unavailable},
		{err: server(1205), want: problem.Unavailable},
		{err: server(1213), want: problem.Unavailable},
		{err: server(3100), want: problem.Unavailable},
		{err: server(3101), want: problem.Unavailable},
		{err: server(3168), want: problem.Unavailable},
		{err: server(3169), want: problem.Unavailable},
		{err: server(4031), want: problem.Unavailable},
		{err: server(9004), want: problem.Unavailable},
		{err: server(9007), want: problem.Unavailable},
		{err: server(1062), want: problem.Conflict},
		{err: server(1064)},
		{err: server(9008)},
		{err: refused, want: problem.Unavailable},
		{err: &net.DNSError{Err: "no such host", IsNotFound: true}, want: problem.Unavailable},
		{err: driver.ErrBadConn, want: problem.Unavailable},
		{err: mysql.ErrInvalidConn, want: problem.Unavailable},
		{err: io.ErrUnexpectedEOF, want: problem.Unavailable},
		{err: context.DeadlineExceeded, want: problem.Unavailable},
		{err: problem.NotFound.With("no such user"), want: problem.NotFound},
		{err: context.Canceled},
		{err: errors.New("unknown")},
	} {
		got := fail("do something", fmt.Errorf("wrapped: %w", test.err))
		if !errors.Is(got, test.err) {
			t.Errorf("%v: got %v, want an error that wraps it", test.err, got)
		}
		for _, kind := range []error{problem.Unavailable, problem.Conflict, problem.NotFound} {
			if is, want := errors.Is(got, kind), kind == test.want; is != want {
				t.Errorf("%v: wraps %v: got %v, want %v", test.err, kind, is, want)
			}
		}
	}
	if err := fail("do something", nil); err != nil {
		t.Errorf("fail(nil) = %v, want nil", err)
	}
}

func TestConflicted(t *testing.T) {
	for number, want := range map[uint16]bool{1020: true, 1205: true, 1213: true, 3101: true, 9004: true, 9007: true, 1062: false, 1040: false} {
		if got := conflicted(&mysql.MySQLError{Number: number}); got != want {
			t.Errorf("error %d: got %v, want %v", number, got, want)
		}
	}
	limit := &mysql.MySQLError{Number: 1105, Message: "pessimistic lock retry limit reached"}
	if !conflicted(limit) || !errors.Is(fail("do something", limit), problem.Unavailable) {
		t.Error("TiDB's retry limit: want a conflict and problem.Unavailable")
	}
	if other := (&mysql.MySQLError{Number: 1105, Message: "unknown"}); conflicted(other) || errors.Is(fail("do something", other), problem.Unavailable) {
		t.Error("another TiDB error with the same number: want neither a conflict nor problem.Unavailable")
	}
	if conflicted(mysql.ErrInvalidConn) {
		t.Error("broken connection: got a conflict, want none, because the transaction might have been committed")
	}
}

func TestTimedOut(t *testing.T) {
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if err := fail("do something", timedOut(late, sql.ErrTxDone)); !errors.Is(err, problem.Unavailable) || !errors.Is(err, sql.ErrTxDone) {
		t.Errorf("after the deadline: got %v, want problem.Unavailable", err)
	}
	if err := timedOut(late, nil); err != nil {
		t.Errorf("no error after the deadline: got %v, want nil", err)
	}
	if err := fail("do something", timedOut(t.Context(), sql.ErrTxDone)); errors.Is(err, problem.Unavailable) {
		t.Errorf("before the deadline: got %v, want an error other than problem.Unavailable", err)
	}
}

func TestReadTriesOnceMore(t *testing.T) {
	s := &Store{}
	for _, test := range []struct {
		errs  []error // the results of successive calls
		calls int
		want  error
	}{
		{errs: []error{nil}, calls: 1},
		{errs: []error{mysql.ErrInvalidConn, nil}, calls: 2},
		{errs: []error{driver.ErrBadConn, nil}, calls: 2},
		{errs: []error{mysql.ErrInvalidConn, mysql.ErrInvalidConn, nil}, calls: 2, want: mysql.ErrInvalidConn},
		{errs: []error{io.EOF, nil}, calls: 1, want: io.EOF},
	} {
		calls := 0
		err := s.read(t.Context(), func(context.Context) error {
			calls++
			return test.errs[calls-1]
		})
		if calls != test.calls || !errors.Is(err, test.want) {
			t.Errorf("%v: got %d calls and error %v, want %d and %v", test.errs, calls, err, test.calls, test.want)
		}
	}
}

func TestStoreThatIsAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	dsn := "u:p@tcp(" + address + ")/strongroom"
	s, err := Open(dsn, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const id = "0195a3f0-0000-7000-8000-000000000000"
	refresh, _ := newRefreshToken(uuid.New())
	for name, call := range map[string]func() error{
		"ByUsername": func() error { _, err := s.ByUsername(t.Context(), "ada"); return err },
		"Create": func() error {
			_, err := s.Create(t.Context(), Setup, NewUser{Username: "ada", PasswordHash: "hash", Role: "user"})
			return err
		},
		"ReplaceHash": func() error { return s.ReplaceHash(t.Context(), id, "old", "new") },
		"Attempt": func() error {
			_, err := s.Attempt(t.Context(), Attempt{Username: "ada", Address: netip.MustParseAddr("192.0.2.1")},
				func(context.Context, User) (bool, error) { return true, nil })
			return err
		},
		"Refresh":    func() error { _, _, _, err := s.Refresh(t.Context(), refresh, Lifetimes{}); return err },
		"EndSession": func() error { return s.EndSession(t.Context(), refresh, false, Actor{}) },
		"Migrate":    func() error { return Migrate(t.Context(), dsn) },
		"Provision":  func() error { return Provision(t.Context(), "root:p@tcp("+address+")/", dsn) },
	} {
		if err := call(); !errors.Is(err, problem.Unavailable) {
			t.Errorf("%s: got %v, want problem.Unavailable", name, err)
		}
	}
	if len(s.lockout.gate.doors) != 0 {
		t.Error("the attempt that could not be counted still holds a slot of the gate")
	}
}

func TestCreateRefuses(t *testing.T) {
	s, err := Open("u:p@tcp(127.0.0.1:1)/strongroom", time.Now) // Create validates its arguments before it connects
	if err != nil {
		t.Fatal(err)
	}
	for name, user := range map[string]struct{ name, role string }{
		"name": {name: " ", role: "user"},
		"role": {name: "ada", role: "root"},
	} {
		if _, err := s.Create(t.Context(), Setup, NewUser{Username: user.name, PasswordHash: "hash", Role: user.role}); !errors.Is(err, problem.Unprocessable) {
			t.Errorf("invalid %s: got %v, want problem.Unprocessable", name, err)
		}
	}
	if _, err := s.ByUsername(t.Context(), " "); !errors.Is(err, problem.NotFound) {
		t.Errorf("ByUsername: got %v, want problem.NotFound", err)
	}
}

func TestProvisionRefuses(t *testing.T) {
	const good = "u:s3cret@tcp(127.0.0.1:1)/strongroom"
	for name, dsns := range map[string][2]string{
		"no administrator":           {"", good},
		"malformed administrator":    {"root:s3cret", good},
		"no runtime database":        {"root:s3cret@tcp(127.0.0.1:1)/", "u:s3cret@tcp(127.0.0.1:1)/"},
		"database name with a quote": {"root:s3cret@tcp(127.0.0.1:1)/", "u:s3cret@tcp(127.0.0.1:1)/a`b"},
	} {
		err := Provision(t.Context(), dsns[0], dsns[1])
		if err == nil || errors.Is(err, problem.Unavailable) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want an error that shows no password, before a connection is opened", name, err)
		}
	}
}

func TestAddressKey(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7":             "192.0.2.7",
		"::ffff:192.0.2.7":      "192.0.2.7",
		"2001:db8:1:2:3:4:5:6":  "2001:db8:1:2::/64",
		"fe80::1%eth0":          "fe80::/64",
		"2001:db8:1:2:ffff::99": "2001:db8:1:2::/64",
	} {
		if got := addressKey(netip.MustParseAddr(address)); got != want {
			t.Errorf("addressKey(%s) = %s, want %s", address, got, want)
		}
	}
	if got := addressKey(netip.Addr{}); got == "" {
		t.Error("addressKey of an unknown address is empty, which is the key of all addresses")
	}
}
