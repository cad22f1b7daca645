package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// No server listens at the addresses in the valid settings. setup must report an invalid setting before it waits for
// a server.
func TestWrongSettings(t *testing.T) {
	good := config{
		DSN:            "u:s3cret-1@tcp(127.0.0.1:1)/strongroom",
		AdminDSN:       "root:s3cret-1@tcp(127.0.0.1:1)/",
		MongoURI:       "mongodb://u:s3cret-1@127.0.0.1:1/strongroom",
		AdminUsername:  "root",
		AdminPassword:  "s3cret-1",
		PolicySettings: password.PolicySettings{MinLength: 12},
	}
	for name, test := range map[string]struct {
		change func(*config)
		args   []string
		want   string
	}{
		"arguments":             {change: func(*config) {}, args: []string{"--help"}, want: "usage: setup"},
		"a command's arguments": {change: func(*config) {}, args: []string{"redrive", "now"}, want: "usage: setup"},
		"import of nothing":     {change: func(*config) {}, args: []string{"users", "import"}, want: "usage: setup"},
		"import of two files":   {change: func(*config) {}, args: []string{"users", "import", "a", "b"}, want: "usage: setup"},
		"export":                {change: func(*config) {}, args: []string{"users", "export", "a"}, want: "usage: setup"},
		"no MySQL":              {change: func(c *config) { c.DSN = "" }, want: "MYSQL_DSN_FILE"},
		"no MongoDB":            {change: func(c *config) { c.MongoURI = "" }, want: "MONGODB_URI_FILE"},
		"no RabbitMQ, redrive":  {change: func(*config) {}, args: []string{"redrive"}, want: "EVENTS_ADMIN_URL_FILE"},
		"RabbitMQ, redrive":     {change: func(c *config) { c.EventsURL = "http://u:s3cret-1@127.0.0.1:1" }, args: []string{"--redrive"}, want: "EVENTS_ADMIN_URL_FILE"},
		"removed command":       {change: func(*config) {}, args: []string{"recatalogue"}, want: "usage: setup"},
		"fsck's arguments":      {change: func(*config) {}, args: []string{"fsck", "--force"}, want: "usage: setup"},
		"scrub's arguments":     {change: func(*config) {}, args: []string{"scrub", "a", "b"}, want: "usage: setup"},
		"no MongoDB, fsck":      {change: func(c *config) { c.MongoURI = "" }, args: []string{"fsck"}, want: "MONGODB_URI_FILE"},
		"MongoDB, fsck":         {change: func(c *config) { c.MongoURI = "s3cret-1" }, args: []string{"fsck"}, want: "MONGODB_URI_FILE"},
		"no MongoDB, scrub":     {change: func(c *config) { c.MongoURI = "" }, args: []string{"scrub"}, want: "MONGODB_URI_FILE"},
		"MongoDB, scrub":        {change: func(c *config) { c.MongoURI = "s3cret-1" }, args: []string{"scrub", "a"}, want: "MONGODB_URI_FILE"},
		"no MySQL, import":      {change: func(c *config) { c.DSN = "" }, args: []string{"users", "import", "-"}, want: "MYSQL_DSN_FILE"},
		"MySQL, import":         {change: func(c *config) { c.DSN = "u:s3cret-1" }, args: []string{"users", "import", "-"}, want: "MYSQL_DSN_FILE"},
		"import of no file":     {change: func(*config) {}, args: []string{"users", "import", "no/such/file"}, want: "no/such/file"},
		"MySQL":                 {change: func(c *config) { c.DSN = "u:s3cret-1" }, want: "MYSQL_DSN_FILE"},
		"MySQL administrator":   {change: func(c *config) { c.AdminDSN = "root:s3cret-1" }, want: "MYSQL_ADMIN_DSN_FILE"},
		"MongoDB":               {change: func(c *config) { c.MongoURI = "mongodb://u:s3cret-1@h:port/x" }, want: "MONGODB_URI_FILE"},
		"MongoDB, no database":  {change: func(c *config) { c.MongoURI = "mongodb://u:s3cret-1@h" }, want: "MONGODB_URI_FILE"},
		"MongoDB administrator": {change: func(c *config) { c.MongoAdminURI = "s3cret-1" }, want: "MONGODB_ADMIN_URI_FILE"},
		"MySQL, unverified":     {change: func(c *config) { c.DSN += "?tls=skip-verify" }, want: "MYSQL_DSN_FILE: invalid DSN: it must not contain tls=skip-verify"},
		"MySQL administrator, unverified": {
			change: func(c *config) { c.AdminDSN += "?tls=preferred" }, want: "MYSQL_ADMIN_DSN_FILE: invalid DSN: it must not contain tls=skip-verify, tls=preferred"},
		"MongoDB, unverified": {change: func(c *config) { c.MongoURI += "?tlsInsecure=true" }, want: "MONGODB_URI_FILE: the MongoDB URI must not contain tlsInsecure"},
		"MongoDB administrator, unverified": {
			change: func(c *config) {
				c.MongoAdminURI = "mongodb://u:s3cret-1@127.0.0.1:1/strongroom?tls=true&tlsAllowInvalidCertificates=true"
			}, want: "MONGODB_ADMIN_URI_FILE: the MongoDB URI must not contain"},
		"MongoDB, no such name": {change: func(c *config) { c.MongoURI = "mongodb+srv://u:s3cret-1@strongroom.invalid/x" }, want: "lookup _mongodb._tcp.strongroom.invalid"},
		"RabbitMQ, unverified": {
			change: func(c *config) { c.EventsURL = "amqps://u:s3cret-1@127.0.0.1:1?verify=verify_none" }, want: "EVENTS_ADMIN_URL_FILE: the parameter verify"},
		"RabbitMQ":              {change: func(c *config) { c.EventsURL = "http://u:s3cret-1@127.0.0.1:1" }, want: "EVENTS_ADMIN_URL_FILE"},
		"admin's name only":     {change: func(c *config) { c.AdminPassword = "" }, want: "ADMIN_PASSWORD_FILE"},
		"admin's password only": {change: func(c *config) { c.AdminUsername = "" }, want: "ADMIN_USERNAME_FILE"},
		"admin's name":          {change: func(c *config) { c.AdminUsername = " " }, want: "ADMIN_USERNAME_FILE"},
		"minimum length":        {change: func(c *config) { c.MinLength = 7 }, want: "PASSWORD_MIN_LENGTH"},
		"demo user's role":      {change: func(c *config) { c.DemoUsers = seeds{{"ada", "s3cret-1", "root"}} }, want: "DEMO_USERS_FILE: user 1"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			test.change(&cfg)
			// With a canceled context, a step that waits for its store ends immediately.
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := setup(ctx, cfg, test.args)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got error %v, want %s in it and no password", err, test.want)
			}
		})
	}
}

func TestStoresThatDoNotComeUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), firstPause)
	defer cancel()
	err := setup(ctx, config{
		DSN:            "u:p@tcp(127.0.0.1:1)/strongroom",
		MongoURI:       "mongodb://127.0.0.1:1/strongroom",
		EventsURL:      "amqp://u:p@127.0.0.1:1",
		PolicySettings: password.PolicySettings{MinLength: 12},
	}, nil)
	if !errors.Is(err, problem.Unavailable) {
		t.Errorf("got error %v, want problem.Unavailable", err)
	}
	for _, store := range []string{"MySQL", "MongoDB", "RabbitMQ"} {
		if !strings.Contains(err.Error(), "set up "+store) {
			t.Errorf("got error %v, want %s in it", err, store)
		}
	}
}

func TestSettingsFromTheEnvironment(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	parse := func(content string) (cfg config, err error) {
		if err := os.WriteFile(users, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return cfg, function.Parse(&cfg)
	}
	t.Setenv("DEMO_USERS_FILE", users)
	t.Setenv("MYSQL_ADMIN_DSN_FILE", filepath.Join(t.TempDir(), "deleted")) // as after the deletion of the optional Secret
	cfg, err := parse(`[{"username":"ada","password":"lovelace-1843","role":"user"}]`)
	if err != nil || cfg.MinLength != 12 || len(cfg.DemoUsers) != 1 || cfg.DemoUsers[0] != (seed{"ada", "lovelace-1843", "user"}) {
		t.Errorf("got users %+v, minimum length %d and error %v, want ada and 12", cfg.DemoUsers, cfg.MinLength, err)
	}
	for _, wrong := range []string{"s3cret", `{"username":"s3cret"}`, `[{"user":"s3cret"}]`, `[] "s3cret"`, `["s3cret"]`} {
		_, err := parse(wrong)
		if err == nil || !strings.Contains(err.Error(), "DEMO_USERS_FILE") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got error %v, want DEMO_USERS_FILE in it and no secret", wrong, err)
		}
	}
}

func TestAwait(t *testing.T) {
	away := problem.Unavailable.With("the store is unavailable")
	broken := errors.New("broken")
	noTLS := problem.Unavailable.Because(mysql.ErrNoTLS, "the store is unavailable")
	untrustedStore := problem.Unavailable.Because(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, "the store is unavailable")
	for name, test := range map[string]struct {
		errs  []error // errors of the successive calls
		want  error
		calls int
	}{
		"available":    {errs: []error{nil}, calls: 1},
		"late":         {errs: []error{away, away, nil}, calls: 3},
		"broken":       {errs: []error{broken}, want: broken, calls: 1},
		"untrusted":    {errs: []error{untrustedStore}, want: untrustedStore, calls: 1},
		"no TLS":       {errs: []error{noTLS}, want: noTLS, calls: 1},
		"late, broken": {errs: []error{away, broken}, want: broken, calls: 2},
	} {
		calls := 0
		err := await(t.Context(), "store", func(context.Context) error {
			calls++
			return test.errs[calls-1]
		})
		if !errors.Is(err, test.want) || calls != test.calls {
			t.Errorf("%s: got error %v after %d calls, want %v after %d", name, err, calls, test.want, test.calls)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := await(ended, "store", func(context.Context) error { return away }); !errors.Is(err, problem.Unavailable) {
		t.Errorf("canceled: got error %v, want problem.Unavailable", err)
	}
}

// TestIndexThatIsNotComplete proves that setup names the index if MongoDB has not completed the index in time, and that
// the next run waits for the same index and then completes.
func TestIndexThatIsNotComplete(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	release := make(chan struct{})
	var mu sync.Mutex
	created := map[string]int{} // the number of createIndexes commands, by collection
	uri := servertest.NullMongoDB(t, func(command, collection string) bson.D {
		switch command {
		case "createIndexes":
			mu.Lock()
			created[collection]++
			mu.Unlock()
			if collection == "fs.files" {
				cancel() // the time limit of the first run has passed
				<-release
			}
		case "update": // the upgrade stores that it is done
			return bson.D{{Key: "ok", Value: 1.0}, {Key: "n", Value: int32(1)}}
		}
		return nil
	})
	run := func(ctx context.Context) error {
		return await(ctx, "MongoDB", func(ctx context.Context) error { return setUpMongoDB(ctx, config{MongoURI: function.Secret(uri)}) })
	}
	err := run(ctx)
	for _, want := range []string{"set up MongoDB", "create the index (metadata.owner) on fs.files", "continues", "db.currentOp()"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q in it", err, want)
		}
	}
	close(release)
	if err := run(t.Context()); err != nil {
		t.Errorf("second run: got error %v, want none", err)
	}
	if created["fs.files"] != 2 || created["catalogue"] == 0 {
		t.Errorf("got the commands %v, want two for fs.files and some for catalogue", created)
	}
}
