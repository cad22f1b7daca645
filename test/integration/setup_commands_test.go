package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// setupCommand runs a setup command with no other settings. It returns the standard output and the
// log, which is the standard error.
func setupCommand(t *testing.T, stdin string, settings []string, args ...string) (out, log string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, build(t, "setup"), args...)
	var stdout, stderr strings.Builder
	if command.Env, err = environment(command.Path, settings); err != nil {
		t.Fatal(err)
	}
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err = command.Run()
	return stdout.String(), stderr.String(), err
}

// TestImportedUsersSignIn proves that users who are imported with foreign password hashes can sign in, and that the
// first sign-in replaces the foreign hash by an Argon2id hash. An import changes no existing user and shows no hash.
func TestImportedUsersSignIn(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn)
	ada := createUser(t, dsn, "ada", "lovelace-1843")
	const (
		bcryptHash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"             // U*U
		djangoHash = "pbkdf2_sha256$24000$seasalt$V9DfCAVoweeLwxC/L2mb+7swhzF0XYdyQMqmusZqiTc=" // lètmein
		sha512Hash = "$pbkdf2-sha512$1212$RHY0Fr3IDMSVO/RSZyb5ow$eNLfBK.eVozomMr.1gYa17k9B7KIK25NOEshvhrSX.esqY3s.FvWZViXz4KoLlQI.BzY/YTNJOiKc5gBYFYGww"
	)
	users := `{"username":"Ada","password_hash":"` + bcryptHash + `","role":"admin","disabled":true}
{"username":"Grace","password_hash":"` + djangoHash + `","role":"admin"}
{"username":"eve","password_hash":"` + bcryptHash + `","disabled":true}
{"username":"joan","password_hash":"` + bcryptHash + `"}
{"username":"anita","password_hash":"` + sha512Hash + `"}
`
	file := filepath.Join(t.TempDir(), "users.jsonl")
	if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := []string{"MYSQL_DSN=" + dsn}

	if _, log, err := setupCommand(t, users+`{"username":"last","password_hash":"secret"}`, environment, "users", "import", "-"); err == nil ||
		!strings.Contains(log, "line 6") || strings.Contains(log, "secret") || strings.Contains(log, bcryptHash) {
		t.Errorf("import an invalid line: got error %v, want an error that names line 6 and shows no hash\n%s", err, log)
	}
	if got, want := servertest.AuditTrail(t, store), []string{"setup user.created ada user"}; !slices.Equal(got, want) {
		t.Errorf("audit trail after an invalid line: got %q, want %q", got, want)
	}

	for i, want := range []string{"imported: 4\nalready existed (unchanged): 1\n", "imported: 0\nalready existed (unchanged): 5\n"} {
		from, stdin := file, ""
		if i == 1 {
			from, stdin = "-", users
		}
		out, log, err := setupCommand(t, stdin, environment, "users", "import", from)
		if err != nil || out != "users in the file: 5\n"+want || strings.Contains(out+log, "$") {
			t.Errorf("import: got error %v and output %q, want the output to end with %q and to show no hash\n%s", err, out, want, log)
		}
	}
	if got, want := servertest.AuditTrail(t, store), []string{
		"setup user.created ada user", "setup user.created grace admin", "setup user.created eve user", "setup user.disabled eve",
		"setup user.created joan user", "setup user.created anita user",
	}; !slices.Equal(got, want) {
		t.Errorf("audit trail: got %q, want %q", got, want)
	}
	if user, err := store.ByUsername(t.Context(), "ada"); err != nil || user != ada {
		t.Errorf("existing user: got %+v, %v, want %+v", user, err, ada)
	}

	settings, _ := loginSettings(t, dsn)
	url := runFunction(t, "login", settings...)
	for _, test := range []struct {
		username, password string
		want               int
	}{
		{"ada", "lovelace-1843", 200},
		{"grace", "le\u0300tmein", 401}, // against a Django hash, the password is not normalized, as in Django
		{"grace", "l\u00e8tmein", 200},
		{"grace", "le\u0300tmein", 200}, // against an Argon2id hash, the password is normalized
		{"grace", "l\u00e8tmeinz", 401},
		{"eve", "U*U", 401},
		{"joan", "U*U", 200},
		{"anita", "wrong", 401},
		{"anita", "password", 200},
		{"anita", "password", 200},
	} {
		if status, body, _, err := signIn(url, "192.0.2.1", test.username, test.password); err != nil || status != test.want {
			t.Errorf("%s with %q: got %d %v, %v, want %d", test.username, test.password, status, body, err, test.want)
		}
	}
	for _, name := range []string{"grace", "joan", "anita"} {
		if user, err := store.ByUsername(t.Context(), name); err != nil || !strings.HasPrefix(user.PasswordHash, "$argon2id$v=19$m=19456,t=2,p=1$") {
			t.Errorf("%s: got the hash %s, %v, want an Argon2id hash", name, user.PasswordHash, err)
		}
	}
	if user, err := store.ByUsername(t.Context(), "eve"); err != nil || user.PasswordHash != bcryptHash || !user.Disabled {
		t.Errorf("disabled user: got %+v, %v, want the imported hash", user, err)
	}
}

// TestRedriveCommand proves that `setup redrive` and `setup --redrive` move a dead letter back to the queue.
func TestRedriveCommand(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)
	ch := servertest.Channel(t, broker)
	for _, command := range []string{"redrive", "--redrive"} {
		e, f := servertest.FileStored(t)
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		message, ok, err := ch.Get(events.Queue, false)
		if err != nil || !ok {
			t.Fatalf("get a message: got %t, %v, want true", ok, err)
		}
		if err := message.Nack(false, false); err != nil { // the adapter rejects a message in the same way
			t.Fatal(err)
		}
		servertest.Eventually(t, servertest.Recovery, "the dead-letter queue has one message", func() error {
			if got := servertest.QueueDepth(t, ch, events.DeadQueue); got != 1 {
				return fmt.Errorf("got %d messages", got)
			}
			return nil
		})
		out, log, err := setupCommand(t, "", []string{"EVENTS_ADMIN_URL=" + broker.URL}, command)
		if err != nil || out != "dead letters moved back: 1\n" {
			t.Errorf("setup %s: got error %v and output %q, want 1 dead letter moved back\n%s", command, err, out, log)
		}
		if again := servertest.GetMessage(t, ch, events.Queue); again.MessageId != f.ID {
			t.Errorf("setup %s: got the message %s in the queue, want %s", command, again.MessageId, f.ID)
		}
	}
}

// TestLostCommand proves that `setup lost` prints each file whose event is in the journal and of which MongoDB has no
// trace. It prints neither stored files nor files with a tombstone.
func TestLostCommand(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	uri := servertest.MongoDB(t).NewDatabase(t)
	files, _ := servertest.OpenContent(t, uri)
	p := servertest.Publisher(t, broker.URL)
	stored, _ := servertest.StoreFile(t, uri)
	deleted, _ := servertest.StoreFile(t, uri)
	if err := files.MarkDeleted(t.Context(), deleted.ID()); err != nil {
		t.Fatal(err)
	}
	gone, f := servertest.FileStored(t)
	for _, e := range []event.Event{stored, gone, deleted, gone} {
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"EVENTS_ADMIN_URL=" + broker.URL, "MONGODB_URI=" + uri}
	want := fmt.Sprintf("%s %s owner=%s size=1 name=%q\nlost files: 1\nThe journal has 4 events. The oldest event is of a file stored at %s.\n",
		f.StoredAt.Format(time.RFC3339), f.ID, f.Owner, f.Name, stored.Time().Format(time.RFC3339))
	if out, log, err := setupCommand(t, "", env, "lost"); err != nil || out != want {
		t.Errorf("setup lost: got error %v and output %q, want %q\n%s", err, out, want, log)
	}
	if out, log, err := setupCommand(t, "", env[1:], "lost"); err == nil || !strings.Contains(log, "there is no journal") {
		t.Errorf("setup lost without RabbitMQ: got error %v, output %q and log %q, want the reason", err, out, log)
	}
}
