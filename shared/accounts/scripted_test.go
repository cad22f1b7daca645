package accounts

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// TestReadOnlyServer proves that an update uses a new connection if the server of its connection has become read-only,
// as the former primary does after a failover. If the new connections also lead to a read-only server, the error is
// problem.Unavailable.
func TestReadOnlyServer(t *testing.T) {
	for _, number := range []uint16{1290, 1792, 1836} {
		for _, test := range []struct {
			readOnly int64 // the number of connections that lead to the read-only server
			want     error
		}{
			{readOnly: 0},
			{readOnly: 1},
			{readOnly: 100, want: problem.Unavailable},
		} {
			t.Run(fmt.Sprintf("error %d on %d connections", number, test.readOnly), func(t *testing.T) {
				address, connections := scriptedMySQL(t, number, test.readOnly)
				store, err := Open("u:p@tcp("+address+")/strongroom", time.Now)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = store.Close() }()
				err = store.ReplaceHash(t.Context(), uuid.NewString(), "old", "new")
				if !errors.Is(err, test.want) {
					t.Errorf("got error %v, want %v", err, test.want)
				}
				if got := connections.Load(); test.want == nil && got != test.readOnly+1 {
					t.Errorf("got %d connections, want %d", got, test.readOnly+1)
				}
			})
		}
	}
}

// scriptedMySQL starts a server with the protocol of MySQL. On its first readOnly connections, the server responds to
// each UPDATE with the error number. It responds to any other statement with OK and one changed row. It counts its
// connections.
func scriptedMySQL(t *testing.T, number uint16, readOnly int64) (address string, connections *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	connections = &atomic.Int64{}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			refuses := connections.Add(1) <= readOnly
			go func() {
				defer func() { _ = conn.Close() }()
				_ = serveMySQL(conn, number, refuses) // an error means that the client has closed the connection
			}()
		}
	}()
	return listener.Addr().String(), connections
}

// greeting is the first packet of a MySQL server without TLS.
const greeting = "\x0a8.4.0\x00\x01\x00\x00\x00saltsalt\x00" +
	"\x08\x82\x21\x02\x00\x08\x00\x15" + // capabilities, character set, status, capabilities, length of the salt
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00saltsaltsalt\x00mysql_native_password\x00"

// serveMySQL accepts any password, and then responds to statements until the client closes the connection
// (https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html).
func serveMySQL(conn net.Conn, number uint16, refuses bool) error {
	const ok = "\x00\x01\x00\x02\x00\x00\x00" // one changed row, autocommit
	if err := writePacket(conn, 0, greeting); err != nil {
		return err
	}
	for {
		header := make([]byte, 4)
		if _, err := io.ReadFull(conn, header); err != nil {
			return err
		}
		sequence := header[3]
		header[3] = 0
		payload := make([]byte, binary.LittleEndian.Uint32(header))
		if _, err := io.ReadFull(conn, payload); err != nil {
			return err
		}
		response := ok
		if refuses && strings.Contains(string(payload), "UPDATE ") {
			response = "\xff" + string(binary.LittleEndian.AppendUint16(nil, number)) + "#HY000the server is read-only"
		}
		if err := writePacket(conn, sequence+1, response); err != nil {
			return err
		}
	}
}

func writePacket(conn net.Conn, sequence byte, payload string) error {
	header := binary.LittleEndian.AppendUint32(nil, uint32(len(payload)))
	header[3] = sequence
	_, err := conn.Write(append(header, payload...))
	return err
}

// TestUntrustedServer proves that an account store without TLS, or with a certificate that is not trusted, is
// unavailable if the DSN requires TLS.
func TestUntrustedServer(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	for name, test := range map[string]struct {
		greeting, want string
	}{
		"no TLS":    {greeting, "server does not support TLS"},
		"untrusted": {strings.Replace(greeting, "\x08\x82", "\x08\x8a", 1), "certificate signed by unknown authority"}, // with CLIENT_SSL
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					request := make([]byte, 4+32) // the client's request for TLS
					if writePacket(conn, 0, test.greeting) == nil {
						if _, err := io.ReadFull(conn, request); err == nil {
							_ = tls.Server(conn, &tls.Config{Certificates: certificate.TLS.Certificates}).Handshake()
						}
					}
					_ = conn.Close()
				}
			}()
			store, err := Open("u:p@tcp("+listener.Addr().String()+")/strongroom?tls=true", time.Now)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = store.Close() }()
			if _, err := store.ByUsername(t.Context(), "ada"); !errors.Is(err, problem.Unavailable) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want problem.Unavailable with %q", err, test.want)
			}
		})
	}
}
