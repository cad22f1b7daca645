package accounts_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"net"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// countedConn is a connection to MySQL that counts the commands of the client. The driver sends a command in one or
// more packets, and the first packet has the number 0 in its fourth byte. It is the start of a round trip
// (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html).
type countedConn struct {
	net.Conn
	commands *atomic.Int32
}

func (c countedConn) Write(p []byte) (int, error) {
	const quit = 1
	if len(p) > 4 && p[3] == 0 && p[4] != quit {
		c.commands.Add(1)
	}
	return c.Conn.Write(p)
}

// through returns the DSN of a proxy in front of the database that dsn names. The proxy counts the commands of the
// clients.
func through(t *testing.T, dsn string) (proxied string, commands *atomic.Int32) {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	network, address := cfg.Net, cfg.Addr
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	commands = &atomic.Int32{}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial(network, address)
			if err != nil {
				_ = client.Close()
				return
			}
			go forward(client, server)
			go forward(countedConn{server, commands}, client)
		}
	}()
	cfg.Net, cfg.Addr = "tcp", listener.Addr().String()
	return cfg.FormatDSN(), commands
}

// forward copies bytes until a connection is closed. A small command arrives with one read, so that countedConn gets
// each command at the start of a write.
func forward(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if _, err := to.Write(bytes.Clone(buffer[:n])); err != nil {
			return
		}
	}
}

// TestRoundTrips proves that a sign-in takes at most 6 round trips to MySQL. An attempt with an unknown user takes as
// many round trips as an attempt with a wrong password, and a refused attempt takes one. A guessed refresh
// token or passkey also takes one.
func TestRoundTrips(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	now := newClock()
	direct := servertest.OpenAccounts(t, dsn, now.Now)
	ada := servertest.CreateAccount(t, direct, "ada", "user")
	proxied, commands := through(t, dsn)
	store := servertest.OpenAccounts(t, proxied, now.Now)
	store.NeverPurge()
	own := device(t, store, ada)
	signIn := func(from accounts.Attempt) error {
		u, err := store.Attempt(t.Context(), from, right)
		if err == nil {
			_, _, err = store.StartSession(t.Context(), u, accounts.SignIn{}, lifetimes)
		}
		return err
	}
	guess := func(from accounts.Attempt, compare func(context.Context, accounts.User) (bool, error)) error {
		_, err := store.Attempt(t.Context(), from, compare)
		return err
	}
	guessed := base64.RawURLEncoding.EncodeToString(make([]byte, 48)) // a session ID of 16 bytes, and 32 bytes
	if _, err := store.ByUsername(t.Context(), "ada"); err != nil {   // opens the connection
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		do   func() error
		want int32
	}{
		{"wrong password", func() error { return guess(accounts.Attempt{Username: "ada", Address: home}, wrong) }, 3},
		{"unknown user", func() error { return guess(accounts.Attempt{Username: "eve", Address: home}, wrong) }, 3},
		{"sign-in from an unknown address", func() error { return signIn(accounts.Attempt{Username: "ada", Address: home}) }, 6},
		{"sign-in from a known address", func() error { return signIn(accounts.Attempt{Username: "ada", Address: home}) }, 6},
		{"sign-in with a device", func() error { return signIn(accounts.Attempt{Username: "ada", Address: elsewhere, Device: own}) }, 6},
		{"five failures", func() error {
			for range 5 {
				_ = guess(accounts.Attempt{Username: "ada", Address: home}, wrong)
			}
			return nil
		}, 15},
		{"refused", func() error { return guess(accounts.Attempt{Username: "ada", Address: home}, wrong) }, 1},
		{"refresh with a guessed token", func() error {
			_, _, _, err := store.Refresh(t.Context(), guessed, lifetimes)
			return err
		}, 1},
		{"guessed passkey", func() error {
			_, _, err := store.PasskeyOwner(t.Context(), []byte("guessed"))
			return err
		}, 1},
		{"sign-out with a guessed token", func() error { return store.EndSession(t.Context(), guessed, true, accounts.Actor{}) }, 1},
	} {
		before := commands.Load()
		err := test.do()
		if got := commands.Load() - before; got != test.want {
			t.Errorf("%s: got %d round trips and error %v, want %d", test.name, got, err, test.want)
		}
	}
}
