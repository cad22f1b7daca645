package integration

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestTLS proves that setup connects to MongoDB and RabbitMQ with TLS if SSL_CERT_DIR contains the certificate of their
// CA. If the certificate is not trusted, or if it is for another host, setup ends without waiting, and its last log line
// has the reason. TestExternalStores in test/e2e tests MySQL with TLS.
func TestTLS(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	mongo := servertest.MongoDB(t)
	mongoAdmin := mongo.NewDatabase(t)
	mongoURI := mongo.NewUser(t, mongoAdmin)
	binary := build(t, "setup")
	if log, err := runSetup(t.Context(), binary, "MYSQL_DSN="+dsn, "MYSQL_ADMIN_DSN="+admin, "MONGODB_URI="+mongoURI, "MONGODB_ADMIN_URI="+mongoAdmin); err != nil {
		t.Fatalf("run setup without TLS: %v\n%s", err, log)
	}

	// The certificate of httptest is its own CA. It is valid for 127.0.0.1, and not for localhost.
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	trusted := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(trusted, "ca.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	secure := func(address string) string {
		u := servertest.ParseURL(t, address)
		u.Host = terminateTLS(t, server.TLS.Certificates, u.Host)
		if u.Scheme == "amqp" {
			u.Scheme = "amqps"
		} else {
			query := u.Query()
			query.Set("tls", "true")
			u.RawQuery = query.Encode()
		}
		return u.String()
	}
	mongoTLS, rabbitTLS := secure(mongoURI), secure(servertest.RabbitMQ(t).NewVhost(t).URL)
	named := func(address string) string { return strings.Replace(address, "127.0.0.1", "localhost", 1) }

	for _, test := range []struct {
		name, mongo, rabbit, folder string
		want                        string // in the last line of the log; empty if setup succeeds
	}{
		{"trusted", mongoTLS, rabbitTLS, trusted, ""},
		{"MongoDB is not trusted", mongoTLS, "", t.TempDir(), "set up MongoDB: .*certificate signed by unknown authority"},
		{"MongoDB has another name", named(mongoTLS), "", trusted, "set up MongoDB: .*certificate is valid for .*, not localhost"},
		{"RabbitMQ is not trusted", mongoURI, rabbitTLS, t.TempDir(), "set up RabbitMQ: .*certificate signed by unknown authority"},
		{"RabbitMQ has another name", mongoURI, named(rabbitTLS), trusted, "set up RabbitMQ: .*certificate is valid for .*, not localhost"},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, err := runSetup(t.Context(), binary, "SSL_CERT_DIR="+test.folder, "MYSQL_DSN="+dsn, "MONGODB_URI="+test.mongo, "EVENTS_ADMIN_URL="+test.rabbit)
			if test.want == "" {
				if err != nil {
					t.Errorf("run setup: %v\n%s", err, log)
				}
				return
			}
			last := log[strings.LastIndex(strings.TrimSpace(log), "\n")+1:]
			if err == nil || !regexp.MustCompile(test.want).MatchString(last) {
				t.Errorf("got error %v and the log\n%s\nwant a last line that matches %q", err, log, test.want)
			}
			if strings.Contains(log, `"waiting until`) {
				t.Errorf("setup waited, want an immediate exit:\n%s", log)
			}
		})
	}
}

// terminateTLS starts a TLS server that forwards the decrypted bytes to target. It returns the server's address.
func terminateTLS(t *testing.T, certificates []tls.Certificate, target string) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go forward(client, target)
		}
	}()
	return listener.Addr().String()
}

// forward copies bytes in both directions between client and target, until one of them closes its connection.
func forward(client net.Conn, target string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		wg.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // an error means that a connection is closed
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	wg.Wait()
}
