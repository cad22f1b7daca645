package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/password"
)

// runSetup runs the setup Job to its end and returns what it logged.
func runSetup(ctx context.Context, binary string, environment ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, binary)
	command.Env = environment
	out, err := command.CombinedOutput()
	return string(out), err
}

func TestSetupTwiceAtOnceAndAgain(t *testing.T) {
	admin, dsn := sharedMySQL(t).newDatabase(t)
	mongo := sharedMongoDB(t)
	mongoAdmin := mongo.newDatabase(t)
	mongoURI := mongo.newUser(t, mongoAdmin)
	binary := build(t, "setup")
	environment := []string{
		"MYSQL_DSN=" + dsn, "MYSQL_ADMIN_DSN=" + admin, "MONGODB_URI=" + mongoURI, "MONGODB_ADMIN_URI=" + mongoAdmin,
		"EVENTS_ADMIN_URL=" + sharedRabbitMQ(t).newVhost(t).URL,
		"ADMIN_USERNAME=Root", "ADMIN_PASSWORD=first password",
		`DEMO_USERS=[{"username":"ada","password":"lovelace-1843","role":"user"}]`,
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			log, err := runSetup(t.Context(), binary, environment...)
			if err != nil {
				t.Errorf("%v\n%s", err, log)
			}
			for _, secret := range []string{"first password", "lovelace", "it's a"} {
				if strings.Contains(log, secret) {
					t.Errorf("the log shows the password %s…:\n%s", secret, log)
				}
			}
		})
	}
	wg.Wait()
	store := openAccounts(t, dsn)
	first, err := store.ByUsername(t.Context(), "root")
	if err != nil || first.Role != "admin" {
		t.Fatalf("the first admin is %+v, %v", first, err)
	}
	ok, _, err := password.NewHasher(1, time.Minute).Verify(t.Context(), first.PasswordHash, "first password")
	if err != nil || !ok {
		t.Errorf("the first admin's password is another; %v", err)
	}
	if ada, err := store.ByUsername(t.Context(), "ada"); err != nil || ada.Role != "user" {
		t.Errorf("the demo user is %+v, %v", ada, err)
	}
	wantIndexes(t, mongoURI, "fs.chunks", 2)
	wantIndexes(t, mongoURI, "catalogue", 3)

	// With another admin password nothing changes: it is the first admin's.
	again := append(environment, "ADMIN_PASSWORD=second password")
	if log, err := runSetup(t.Context(), binary, again...); err != nil {
		t.Errorf("again: %v\n%s", err, log)
	}
	if user, err := store.ByUsername(t.Context(), "root"); err != nil || user != first {
		t.Errorf("again: the first admin is %+v, %v; want %+v", user, err, first)
	}
}

func wantIndexes(t *testing.T, uri, collection string, want int) {
	t.Helper()
	cursor, err := database(t, uri).Collection(collection).Indexes().List(t.Context())
	var indexes []bson.M
	if err == nil {
		err = cursor.All(t.Context(), &indexes)
	}
	if err != nil || len(indexes) != want {
		t.Errorf("%s has indexes %v, %v; want %d", collection, indexes, err, want)
	}
}

func TestSetupWaits(t *testing.T) {
	server := ownMySQL(t)
	admin, dsn := server.newDatabase(t)
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
	command.Env = []string{"MYSQL_DSN=" + dsn, "MYSQL_ADMIN_DSN=" + admin, "MONGODB_URI=" + sharedMongoDB(t).newDatabase(t)}
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
		t.Errorf("%v; it waited: %v\n%s", err, waits, &seen)
	}
	if _, err := openAccounts(t, dsn).Create(t.Context(), "ada", "hash", "user"); err != nil {
		t.Error(err)
	}
}
