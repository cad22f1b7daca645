package integration

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// runSetup runs the setup binary until it exits, for at most 2 minutes, and returns its output.
func runSetup(ctx context.Context, binary string, settings ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, binary)
	var err error
	if command.Env, err = environment(binary, settings); err != nil {
		return "", err
	}
	out, err := command.CombinedOutput()
	return string(out), err
}

// TestSetupTwiceAtOnceAndAgain proves that two setup processes can run at the same time, that setup logs no password,
// and that a later run with another ADMIN_PASSWORD_FILE does not change the first admin.
func TestSetupTwiceAtOnceAndAgain(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	mongo := servertest.MongoDB(t)
	mongoAdmin := mongo.NewDatabase(t)
	mongoURI := mongo.NewUser(t, mongoAdmin)
	binary := build(t, "setup")
	settings := []string{
		"MYSQL_DSN=" + dsn, "MYSQL_ADMIN_DSN=" + admin, "MONGODB_URI=" + mongoURI, "MONGODB_ADMIN_URI=" + mongoAdmin,
		"EVENTS_ADMIN_URL=" + servertest.RabbitMQ(t).NewVhost(t).URL,
		"ADMIN_USERNAME=Root", "ADMIN_PASSWORD=first password",
		`DEMO_USERS=[{"username":"ada","password":"lovelace-1843","role":"user"}]`,
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			log, err := runSetup(t.Context(), binary, settings...)
			if err != nil {
				t.Errorf("run setup: %v\n%s", err, log)
			}
			for _, secret := range []string{"first password", "lovelace", "it's a"} {
				if strings.Contains(log, secret) {
					t.Errorf("the log contains %q, which is part of a password:\n%s", secret, log)
				}
			}
		})
	}
	wg.Wait()
	store := servertest.OpenAccounts(t, dsn)
	first, err := store.ByUsername(t.Context(), "root")
	if err != nil || first.Role != "admin" {
		t.Fatalf("first admin: got %+v, %v, want the role admin", first, err)
	}
	ok, _, err := password.NewHasher(1, time.Minute).Verify(t.Context(), first.PasswordHash, "first password")
	if err != nil || !ok {
		t.Errorf("verify the first admin's password: got %t, %v, want true", ok, err)
	}
	if ada, err := store.ByUsername(t.Context(), "ada"); err != nil || ada.Role != "user" {
		t.Errorf("demo user: got %+v, %v, want the role user", ada, err)
	}
	wantIndexes(t, mongoURI, "fs.chunks", 2)
	wantIndexes(t, mongoURI, "catalogue", 6)

	// ADMIN_PASSWORD_FILE is only the initial password: for an admin that exists, setup ignores it.
	again := append(settings, "ADMIN_PASSWORD=second password")
	if log, err := runSetup(t.Context(), binary, again...); err != nil {
		t.Errorf("run setup again: %v\n%s", err, log)
	}
	if user, err := store.ByUsername(t.Context(), "root"); err != nil || user != first {
		t.Errorf("first admin after another setup: got %+v, %v, want %+v", user, err, first)
	}
}

// wantIndexes checks the number of indexes of a collection.
func wantIndexes(t *testing.T, uri, collection string, want int) {
	t.Helper()
	cursor, err := servertest.Database(t, uri).Collection(collection).Indexes().List(t.Context())
	var indexes []bson.M
	if err == nil {
		err = cursor.All(t.Context(), &indexes)
	}
	if err != nil || len(indexes) != want {
		t.Errorf("indexes of %s: got %v, %v, want %d indexes", collection, indexes, err, want)
	}
}

// TestSetupWaits proves that setup waits for an unreachable MySQL server and completes after the server has started.
func TestSetupWaits(t *testing.T) {
	server := servertest.OwnMySQL(t)
	admin, dsn := server.NewDatabase(t)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	binary := build(t, "setup")
	log, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	command := exec.CommandContext(t.Context(), binary)
	if command.Env, err = environment(binary, []string{"MYSQL_DSN=" + dsn, "MYSQL_ADMIN_DSN=" + admin, "MONGODB_URI=" + servertest.MongoDB(t).NewDatabase(t)}); err != nil {
		t.Fatal(err)
	}
	command.Stderr = write
	err = errors.Join(command.Start(), write.Close())
	if err != nil {
		t.Fatal(err)
	}
	if err := log.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	waits := false
	for buf := make([]byte, 4096); ; {
		n, err := log.Read(buf)
		seen.Write(buf[:n])
		if !waits && strings.Contains(seen.String(), `"for":"MySQL"`) {
			waits = true
			if err := server.Restart(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err != nil {
			break
		}
	}
	if err := command.Wait(); err != nil || !waits {
		t.Errorf("run setup: got error %v, waited %t, want success after waiting for MySQL\n%s", err, waits, &seen)
	}
	servertest.CreateAccount(t, servertest.OpenAccounts(t, dsn), "ada", "user")
}

// TestIndexesWithoutTimeLimit proves that the commands that create indexes have no time limit on the server, even if
// the context has a deadline. MongoDB aborts the build of an index that exceeds the time limit.
func TestIndexesWithoutTimeLimit(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	var mu sync.Mutex
	limits := map[string]string{} // by command; empty for no limit
	w := newWire(t, host(t, uri), func() (fromClient, fromServer parser) {
		client, server := mongoMessages()
		return func(r *bufio.Reader) ([]byte, string, error) {
			message, what, err := client(r)
			if err == nil && strings.HasPrefix(what, "createIndexes ") {
				document := bson.Raw(message[16+4+1:]) // after the header, the flags and the kind of the section
				mu.Lock()
				defer mu.Unlock()
				limits[what] = document[:binary.LittleEndian.Uint32(document)].Lookup("maxTimeMS").String()
			}
			return message, what, err
		}, server
	}, func(moment) bool { return false })
	s, err := content.Open(w.through(t, uri))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = errors.Join(s.EnsureIndexes(ctx), catalog.New(s.Database()).EnsureIndexes(ctx))
	mu.Lock()
	defer mu.Unlock()
	if err != nil || len(limits) < 6 {
		t.Fatalf("got indexes on %d collections and error %v, want at least 6", len(limits), err)
	}
	for command, limit := range limits {
		if limit != "" {
			t.Errorf("%s: got maxTimeMS %s, want no limit", command, limit)
		}
	}
}
