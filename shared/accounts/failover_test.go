package accounts_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// sqlFault describes what a proxy in front of MySQL does with one statement.
type sqlFault struct {
	name string
	// number is the number of the error with which the proxy responds. The server does not execute the statement. If
	// rollsBack is set, or if the statement is COMMIT, the server rolls the transaction back.
	number    uint16
	rollsBack bool
	// executed is set if the server executes the statement before the proxy closes the connection. If number is 0 and
	// executed is false, the proxy closes the connection instead of forwarding the statement.
	executed bool
}

// sqlFaults lists what clients can observe while a MySQL server fails, shuts down or becomes a replica.
var sqlFaults = []sqlFault{
	{name: "the connection ends before the execution"},
	{name: "the connection ends after the execution", executed: true},
	{name: "1053 server shutdown", number: 1053},
	{name: "1205 lock wait timeout", number: 1205},
	{name: "1213 deadlock", number: 1213, rollsBack: true},
	{name: "1290 read-only option", number: 1290},
	{name: "1792 read-only transaction", number: 1792},
	{name: "1836 read-only mode", number: 1836},
	{name: "3100 replication hook", number: 3100, rollsBack: true},
	{name: "3101 rollback during commit", number: 3101, rollsBack: true},
	{name: "3168 server unavailable", number: 3168},
	{name: "3169 session killed", number: 3169, rollsBack: true},
	{name: "4031 idle too long", number: 4031, rollsBack: true},
}

// sqlProxy is a proxy in front of MySQL that applies a fault to one statement.
type sqlProxy struct {
	server string

	mu    sync.Mutex
	fault *sqlFault // nil if no fault is to be applied
	left  int       // the number of statements before the statement that gets the fault
	hit   string    // the statement that got the fault
}

// startSQLProxy starts a proxy in front of the server in dsn, and returns the DSN of the proxy.
func startSQLProxy(t *testing.T, dsn string) (p *sqlProxy, through string) {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p = &sqlProxy{server: cfg.Addr}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	cfg.Addr = listener.Addr().String()
	return p, cfg.FormatDSN()
}

// begin applies the fault to the nth statement from now on, counted from 0.
func (p *sqlProxy) begin(fault *sqlFault, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.left, p.hit = fault, n, ""
}

// end returns the statement that got the fault, or "" if there were too few statements.
func (p *sqlProxy) end() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = nil
	return p.hit
}

// next returns the fault for a packet from the client, or nil.
func (p *sqlProxy) next(packet []byte) *sqlFault {
	const query = 3 // COM_QUERY
	// A command begins a new sequence of packets. Ignore the statement with which the driver sets the session variables.
	if packet[3] != 0 || len(packet) < 6 || packet[4] != query || strings.HasPrefix(string(packet[5:]), "SET ") {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == nil || p.hit != "" {
		return nil
	}
	if p.left--; p.left >= 0 {
		return nil
	}
	p.hit = string(packet[5:])
	return p.fault
}

// serve forwards the packets of one connection.
func (p *sqlProxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	var pending atomic.Pointer[sqlFault] // the fault for the next packet from the server
	go func() {
		defer client.Close()
		for r := bufio.NewReader(server); ; {
			packet, err := readSQLPacket(r)
			if err != nil {
				return
			}
			if fault := pending.Swap(nil); fault != nil {
				if fault.executed {
					return
				}
				packet = sqlError(fault.number)
			}
			if _, err := client.Write(packet); err != nil {
				return
			}
		}
	}()
	for r := bufio.NewReader(client); ; {
		packet, err := readSQLPacket(r)
		if err != nil {
			return
		}
		fault := p.next(packet)
		switch {
		case fault == nil:
		case fault.executed:
			pending.Store(fault)
		case fault.number == 0:
			return
		case fault.rollsBack, string(packet[5:]) == "COMMIT":
			pending.Store(fault) // replaces the response to ROLLBACK
			packet = append([]byte{9, 0, 0, 0, 3}, "ROLLBACK"...)
		default:
			if _, err := client.Write(sqlError(fault.number)); err != nil {
				return
			}
			continue
		}
		if _, err := server.Write(packet); err != nil {
			return
		}
	}
}

// readSQLPacket reads a packet with its header, which consists of the length and the number of the packet.
func readSQLPacket(r *bufio.Reader) ([]byte, error) {
	header, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	packet := make([]byte, 4+int(header[0])+int(header[1])<<8+int(header[2])<<16)
	_, err = io.ReadFull(r, packet)
	return packet, err
}

// sqlError returns an error packet in response to a command.
func sqlError(number uint16) []byte {
	body := append(binary.LittleEndian.AppendUint16([]byte{0xff}, number), "#HY000the test simulates an error"...)
	return append([]byte{byte(len(body)), 0, 0, 1}, body...)
}

// sqlOperation is an operation of the account store.
type sqlOperation struct {
	name string
	// prepare returns the operation, and a function that reports an error unless the operation has had its effect exactly
	// once. direct is a store without a proxy, and store is the store behind the proxy.
	prepare func(t *testing.T, direct, store *accounts.Store, name string) (act func(context.Context) error, check func() error)
}

// audited returns a function that reports an error unless there is exactly one audit entry with the given action and
// user name.
func audited(t *testing.T, direct *accounts.Store, action, name string) func() error {
	return func() error {
		lines := slices.DeleteFunc(servertest.AuditTrail(t, direct), func(line string) bool {
			return !strings.Contains(line+" ", " "+action+" "+name+" ")
		})
		if len(lines) != 1 {
			return fmt.Errorf("got the audit entries %q, want one", lines)
		}
		return nil
	}
}

// nothing is the check of an operation that has no effect.
func nothing() error { return nil }

// sqlOperations contains the operations with which the functions use the account store.
func sqlOperations(admin accounts.User) []sqlOperation {
	return []sqlOperation{
		{"ByUsername", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error { _, err := store.ByUsername(ctx, name); return err }, nothing
		}},
		{"Current", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u := servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error {
				_, err := store.Current(ctx, &token.Claims{Subject: u.ID, Version: u.TokenVersion})
				return err
			}, nothing
		}},
		{"List", func(_ *testing.T, _, store *accounts.Store, _ string) (func(context.Context) error, func() error) {
			return func(ctx context.Context) error { _, _, err := store.List(ctx, 10, ""); return err }, nothing
		}},
		{"Audit", func(_ *testing.T, _, store *accounts.Store, _ string) (func(context.Context) error, func() error) {
			return func(ctx context.Context) error {
				_, _, err := store.Audit(ctx, accounts.AuditFilter{}, 10, "")
				return err
			}, nothing
		}},
		{"Create", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			return func(ctx context.Context) error {
				_, err := store.Create(ctx, actorOf(admin), accounts.NewUser{Username: name, PasswordHash: "hash", Role: "user"})
				return err
			}, audited(t, direct, accounts.ActionCreated, name)
		}},
		{"Update", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u := servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error {
				_, err := store.Update(ctx, actorOf(admin), u.ID, accounts.Patch{Disabled: ptr(true)})
				return err
			}, audited(t, direct, accounts.ActionDisabled, name)
		}},
		{"Delete", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u := servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error { return store.Delete(ctx, actorOf(admin), u.ID) },
				audited(t, direct, accounts.ActionDeleted, name)
		}},
		{"ChangePassword", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u := servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error {
				_, err := store.ChangePassword(ctx, actorOf(u), "new hash")
				return err
			}, audited(t, direct, accounts.ActionPasswordChanged, name)
		}},
		{"ReplaceHash", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u := servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error { return store.ReplaceHash(ctx, u.ID, u.PasswordHash, "new hash") }, func() error {
				if found, err := direct.ByID(t.Context(), u.ID); err != nil || found.PasswordHash != "new hash" {
					return fmt.Errorf("got the password hash %q and error %v, want the new hash", found.PasswordHash, err)
				}
				return nil
			}
		}},
		{"StartSession", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u := servertest.CreateAccount(t, direct, name, "user")
			refresh := ""
			return func(ctx context.Context) (err error) {
					_, refresh, err = store.StartSession(ctx, u, accounts.SignIn{}, lifetimes)
					return err
				},
				func() error { _, _, _, err := direct.Refresh(t.Context(), refresh, lifetimes); return err }
		}},
		{"ChangeAndStartSession", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u := servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error {
					_, _, _, err := store.ChangeAndStartSession(ctx, u, accounts.Changes{PasswordHash: "new hash"}, accounts.SignIn{}, lifetimes)
					return err
				},
				audited(t, direct, accounts.ActionPasswordChanged, name)
		}},
		{"Refresh", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			_, refresh := startSession(t, direct, name)
			next := ""
			return func(ctx context.Context) (err error) {
					_, _, next, err = store.Refresh(ctx, refresh, lifetimes)
					return err
				},
				func() error { _, _, _, err := direct.Refresh(t.Context(), next, lifetimes); return err }
		}},
		{"EndSession", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			u, refresh := startSession(t, direct, name)
			return func(ctx context.Context) error { return store.EndSession(ctx, refresh, false, actorOf(u)) }, func() error {
				if _, _, _, err := direct.Refresh(t.Context(), refresh, lifetimes); !errors.Is(err, problem.SessionEnded) {
					return fmt.Errorf("refresh: got error %v, want %v", err, problem.SessionEnded)
				}
				return nil
			}
		}},
		{"Attempt", func(t *testing.T, direct, store *accounts.Store, name string) (func(context.Context) error, func() error) {
			servertest.CreateAccount(t, direct, name, "user")
			return func(ctx context.Context) error {
				_, err := store.Attempt(ctx, accounts.Attempt{Username: name, Address: home}, right)
				return err
			}, nothing
		}},
	}
}

// TestAccountStoreFailover proves that an operation either succeeds or returns problem.Unavailable if MySQL fails
// during any of its statements, and that the caller can then repeat the operation. The effect of the operation is
// stored exactly once.
func TestAccountStoreFailover(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	direct := servertest.OpenAccounts(t, dsn)
	admin := servertest.CreateAccount(t, direct, "admin", "admin")
	proxy, through := startSQLProxy(t, dsn)
	store := servertest.OpenAccounts(t, through)
	users := 0
	for _, op := range sqlOperations(admin) {
		for _, fault := range sqlFaults {
			t.Run(op.name+"/"+fault.name, func(t *testing.T) {
				for n := 0; ; n++ {
					users++
					act, check := op.prepare(t, direct, store, fmt.Sprintf("user-%d", users))
					proxy.begin(&fault, n)
					err := act(t.Context())
					hit := proxy.end()
					if hit == "" {
						if n == 0 {
							t.Error("the operation has no statements")
						}
						break
					}
					if err != nil && !errors.Is(err, problem.Unavailable) {
						t.Errorf("fault in statement %d (%.60s): got error %v, want none or %v", n, hit, err, problem.Unavailable)
					}
					if err != nil {
						again := act(t.Context())
						// If the first attempt was committed, its effect can make the second attempt fail.
						if again != nil && !(fault.executed && check() == nil) {
							t.Errorf("fault in statement %d (%.60s): repeat: got error %v, want none", n, hit, again)
						}
					}
					if err := check(); err != nil {
						t.Errorf("fault in statement %d (%.60s): %v", n, hit, err)
					}
				}
			})
		}
	}
}
