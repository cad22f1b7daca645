package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/strongroom-dev/strongroom/shared/token"
)

// want lists the Secrets that the manifests refer to, with their keys.
var want = map[string][]string{
	"token-signing-key":    {"key.jwk"},
	"token-keys":           {"jwks.json"},
	"mysql":                {"dsn"},
	"mysql-admin":          {"dsn", "password"},
	"mongodb":              {"uri"},
	"mongodb-admin":        {"password", "uri", "username"},
	"rabbitmq-setup":       {"password", "url", "username"},
	"rabbitmq-upload":      {"password", "url", "username"},
	"rabbitmq-sweep":       {"password", "url", "username"},
	"rabbitmq-source":      {"password", "port", "uri", "username"},
	"rabbitmq-definitions": {"definitions.json"},
	"first-admin":          {"password", "username"},
	"gateway-key":          {"key"},
	"link-key":             {"key"},
	"sign-in-key":          {"key"},
}

func TestMakesAllThatIsNeeded(t *testing.T) {
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for name, data := range c.secrets {
		got[name] = slices.Sorted(maps.Keys(data))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Secrets and keys (-want +got):\n%s", diff)
	}
	first := maps.Clone(c.secrets)

	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatalf("second run: %v", err)
	}
	if diff := cmp.Diff(first, c.secrets); diff != "" {
		t.Error("a second run changed a Secret")
	}
	if got, want := len(c.created), len(want); got != want {
		t.Errorf("got %d created Secrets in two runs, want %d", got, want)
	}
}

// TestExternalStores proves that the Job creates no Secret with the address or the password of a development store if
// the stores are external, and that it does not change the Secrets of the operator.
func TestExternalStores(t *testing.T) {
	c, cfg := start(t)
	cfg.Stores = "external"
	operator := map[string][]byte{"url": []byte("amqps://upload:secret@rabbitmq.example")}
	c.secrets["rabbitmq-upload"] = operator
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"first-admin", "gateway-key", "link-key", "rabbitmq-upload", "sign-in-key", "token-keys", "token-signing-key"}
	if got := slices.Sorted(maps.Keys(c.secrets)); !slices.Equal(got, want) {
		t.Errorf("got the Secrets %v, want %v", got, want)
	}
	if diff := cmp.Diff(operator, c.secrets["rabbitmq-upload"]); diff != "" {
		t.Errorf("Secret of the operator (-want +got):\n%s", diff)
	}
	cfg.Stores = "managed"
	if err := run(context.Background(), cfg, nil); err == nil || !strings.HasPrefix(err.Error(), "STORES: ") {
		t.Errorf("STORES=managed: got error %v, want one that names STORES", err)
	}
}

// rabbitCommand matches the rabbitmqctl commands in docs/production.md that set permissions.
var rabbitCommand = regexp.MustCompile(`rabbitmqctl set_permissions (\S+) '(.*)' '(.*)' '(.*)'`)

// TestDocumentedRabbitMQPermissions proves that docs/production.md gives the RabbitMQ users the same permissions as the
// definitions of the development store.
func TestDocumentedRabbitMQPermissions(t *testing.T) {
	secrets := values{}
	for _, user := range []string{"setup", "upload", "sweep", "source"} {
		secrets["rabbitmq-"+user] = text("username", user, "password", "p")
	}
	document, err := definitions(secrets)
	if err != nil {
		t.Fatal(err)
	}
	type permission struct{ User, Configure, Write, Read string }
	var want struct{ Permissions []permission }
	if err := json.Unmarshal(document["definitions.json"], &want); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/production.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []permission
	for _, command := range rabbitCommand.FindAllStringSubmatch(string(page), -1) {
		got = append(got, permission{command[1], command[2], command[3], command[4]})
	}
	if diff := cmp.Diff(want.Permissions, got); diff != "" {
		t.Errorf("permissions in docs/production.md (-want +got):\n%s", diff)
	}
}

func TestPasswordsAreLongURLSafeAndNeverTheSame(t *testing.T) {
	safe := regexp.MustCompile(`^[A-Za-z0-9_-]{32}$`)
	seen := map[string]bool{}
	for range 2 {
		c, cfg := start(t)
		if err := run(context.Background(), cfg, nil); err != nil {
			t.Fatal(err)
		}
		passwords := []string{}
		for name := range want {
			switch {
			case c.secrets[name]["password"] != nil:
				passwords = append(passwords, string(c.secrets[name]["password"]))
			case name == "mysql":
				dsn, err := mysql.ParseDSN(string(c.secrets[name]["dsn"]))
				if err != nil {
					t.Fatal(err)
				}
				passwords = append(passwords, dsn.Passwd)
			case name == "mongodb":
				uri, err := url.Parse(string(c.secrets[name]["uri"]))
				if err != nil {
					t.Fatal(err)
				}
				password, _ := uri.User.Password()
				passwords = append(passwords, password)
			}
		}
		if got, want := len(passwords), 9; got != want {
			t.Fatalf("got %d passwords, want %d", got, want)
		}
		for _, password := range passwords {
			if !safe.MatchString(password) {
				t.Errorf("got a password of %d bytes, want 32 URL-safe characters", len(password))
			}
			if seen[password] {
				t.Error("got the same password twice")
			}
			seen[password] = true
		}
	}
}

func TestAddressesCarryTheirCredentials(t *testing.T) {
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	value := func(name, key string) string { return string(c.secrets[name][key]) }
	for name, user := range map[string]string{"mysql": "strongroom", "mysql-admin": "root"} {
		dsn, err := mysql.ParseDSN(value(name, "dsn"))
		if err != nil {
			t.Fatal(err)
		}
		if dsn.User != user || dsn.Addr != "mysql.strongroom.svc:3306" || dsn.DBName != "strongroom" {
			t.Errorf("%s: got user %s at %s/%s, want %s at mysql.strongroom.svc:3306/strongroom", name, dsn.User, dsn.Addr, dsn.DBName, user)
		}
		if password := value(name, "password"); password != "" && dsn.Passwd != password {
			t.Errorf("%s: the passwords in the DSN and in the Secret differ", name)
		}
	}
	for _, u := range []struct{ secret, key, user, rest string }{
		{secret: "mongodb", key: "uri", user: "strongroom", rest: "mongodb://mongodb.strongroom.svc:27017/strongroom?authSource=strongroom"},
		{secret: "mongodb-admin", key: "uri", user: "root", rest: "mongodb://mongodb.strongroom.svc:27017/strongroom?authSource=admin"},
		{secret: "rabbitmq-setup", key: "url", user: "setup", rest: "amqp://rabbitmq.strongroom.svc:5672"},
		{secret: "rabbitmq-upload", key: "url", user: "upload", rest: "amqp://rabbitmq.strongroom.svc:5672"},
		{secret: "rabbitmq-sweep", key: "url", user: "sweep", rest: "amqp://rabbitmq.strongroom.svc:5672"},
	} {
		parsed, err := url.Parse(value(u.secret, u.key))
		if err != nil {
			t.Fatal(err)
		}
		password, _ := parsed.User.Password()
		if got := parsed.User.Username(); got != u.user {
			t.Errorf("%s: got user %q, want %q", u.secret, got, u.user)
		}
		if stored := value(u.secret, "password"); stored != "" && stored != password {
			t.Errorf("%s: the passwords in the URL and in the Secret differ", u.secret)
		}
		if parsed.User = nil; parsed.String() != u.rest {
			t.Errorf("%s: got URL %s, want %s", u.secret, parsed, u.rest)
		}
	}
	if got, want := value("rabbitmq-source", "uri"), "http://rabbitmq.strongroom.svc:15672"; got != want {
		t.Errorf("rabbitmq-source: got URL %s, want %s", got, want)
	}
}

func TestTokenKeysBelongTogether(t *testing.T) {
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	verify := func() {
		t.Helper()
		dir := t.TempDir()
		write(t, dir, "key.jwk", string(c.secrets["token-signing-key"]["key.jwk"]))
		signer, err := token.LoadSigner(filepath.Join(dir, "key.jwk"), "issuer", "audience", time.Minute, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		raw, _, err := signer.Sign(token.Subject{ID: "1", Username: "ada", Roles: []string{"user"}})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := token.ParseKeys(c.secrets["token-keys"]["jwks.json"])
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := token.NewVerifier(keys, "issuer", "audience")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.Verify(raw); err != nil {
			t.Errorf("verify a token from the signing key: %v", err)
		}
	}
	verify()
	// A run creates the public keys again if they have been deleted.
	delete(c.secrets, "token-keys")
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	verify()
}

func TestRabbitMQDefinitions(t *testing.T) {
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Users []struct {
			Name             string
			PasswordHash     string `json:"password_hash"`
			HashingAlgorithm string `json:"hashing_algorithm"`
			Tags             []string
		}
		Vhosts      []struct{ Name string }
		Permissions []struct{ User, Vhost, Configure, Write, Read string }
	}
	document := c.secrets["rabbitmq-definitions"]["definitions.json"]
	if err := json.Unmarshal(document, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Vhosts) != 1 || got.Vhosts[0].Name != "/" {
		t.Errorf("got virtual hosts %v, want only /", got.Vhosts)
	}
	if got, want := len(got.Users), 4; got != want {
		t.Fatalf("got %d users, want %d", got, want)
	}
	for i, name := range []string{"setup", "upload", "sweep", "source"} {
		user := got.Users[i]
		if user.Name != name || user.HashingAlgorithm != "rabbit_password_hashing_sha256" || user.Tags == nil || len(user.Tags) != 0 {
			t.Errorf("got user %d %s, hashing algorithm %s, tags %v; want %s, rabbit_password_hashing_sha256, []", i, user.Name, user.HashingAlgorithm, user.Tags, name)
		}
		hash, err := base64.StdEncoding.DecodeString(user.PasswordHash)
		if err != nil || len(hash) != 4+sha256.Size {
			t.Fatalf("%s: got a password hash of %d bytes, error %v; want %d bytes", name, len(hash), err, 4+sha256.Size)
		}
		sum := sha256.Sum256(append(hash[:4:4], c.secrets["rabbitmq-"+name]["password"]...))
		if string(sum[:]) != string(hash[4:]) {
			t.Errorf("%s: the hash does not match the password in the Secret", name)
		}
	}
	for _, may := range []struct {
		user, on               string
		configure, write, read bool
	}{
		{user: "setup", on: "strongroom.events", configure: true, write: true, read: true},
		{user: "setup", on: "strongroom.files.dead", configure: true, write: true, read: true},
		{user: "setup", on: "amq.topic"},
		{user: "upload", on: "strongroom.events", write: true},
		{user: "upload", on: "strongroom.files"},
		{user: "upload", on: "strongroom.dead"},
		{user: "upload", on: "strongroomXevents"},
		{user: "sweep", on: "strongroom.events", write: true},
		{user: "sweep", on: "strongroom.files", write: true},
		{user: "sweep", on: "strongroom.files.dead", write: true},
		{user: "sweep", on: "strongroom.dead"},
		{user: "sweep", on: "strongroom.files.deader"},
		{user: "source", on: "strongroom.files", read: true},
		{user: "source", on: "strongroom.files.dead"},
		{user: "source", on: "strongroom.events"},
	} {
		for _, p := range got.Permissions {
			if p.User != may.user {
				continue
			}
			for what, is := range map[string][2]bool{
				"configure": {regexp.MustCompile(p.Configure).MatchString(may.on), may.configure},
				"write":     {regexp.MustCompile(p.Write).MatchString(may.on), may.write},
				"read":      {regexp.MustCompile(p.Read).MatchString(may.on), may.read},
			} {
				if is[0] != is[1] {
					t.Errorf("%s: got %s permission on %s %t, want %t", may.user, what, may.on, is[0], is[1])
				}
			}
		}
	}
	if got, want := len(got.Permissions), 4; got != want {
		t.Errorf("got %d permissions, want %d", got, want)
	}
}

// A run must not create a missing signing key while the public keys exist, because the new key would not match them.
func TestRefusesToMakeMismatchedSecrets(t *testing.T) {
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	delete(c.secrets, "token-signing-key")
	delete(c.secrets, "mysql")
	err := run(context.Background(), cfg, nil)
	if err == nil || !strings.Contains(err.Error(), "token-signing-key") || !strings.Contains(err.Error(), "token-keys") {
		t.Errorf("got error %v, want an error that names token-signing-key and token-keys", err)
	}
	if _, created := c.secrets["token-signing-key"]; created {
		t.Error("token-signing-key was created again")
	}
	if _, created := c.secrets["mysql"]; !created {
		t.Error("the unrelated Secret mysql was not created")
	}
}

// A run must update the definitions if they differ from the other RabbitMQ Secrets, for whatever reason. If they do not
// differ, the run must not write them.
func TestDefinitionsFollowTheUsers(t *testing.T) {
	for name, disturb := range map[string]func(c *cluster){
		"no change":            func(*cluster) {},
		"missing definitions":  func(c *cluster) { delete(c.secrets, "rabbitmq-definitions") },
		"outdated definitions": func(c *cluster) { c.secrets["rabbitmq-definitions"] = text("definitions.json", `{"users":[]}`) },
		"new user":             func(c *cluster) { delete(c.secrets, "rabbitmq-sweep") },
		"new password":         func(c *cluster) { delete(c.secrets, "rabbitmq-source") },
	} {
		t.Run(name, func(t *testing.T) {
			c, cfg := start(t)
			if err := run(context.Background(), cfg, nil); err != nil {
				t.Fatal(err)
			}
			upload := string(c.secrets["rabbitmq-upload"]["password"])
			disturb(c)
			if err := run(context.Background(), cfg, nil); err != nil {
				t.Fatal(err)
			}
			want, err := definitions(c.secrets)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, c.secrets["rabbitmq-definitions"]); diff != "" {
				t.Errorf("definitions (-want +got):\n%s", diff)
			}
			if got := string(c.secrets["rabbitmq-upload"]["password"]); got != upload {
				t.Error("the run changed the password of another user")
			}
			version, created := c.versions["rabbitmq-definitions"], len(c.created)
			if err := run(context.Background(), cfg, nil); err != nil {
				t.Fatal(err)
			}
			if c.versions["rabbitmq-definitions"] != version || len(c.created) != created {
				t.Error("a run with nothing to do wrote a Secret")
			}
		})
	}
}

// TestUsersOfRabbitMQCluster proves that the users in deploy/overlays/rabbitmq-cluster have the same permissions as the
// users in the definitions.
func TestUsersOfRabbitMQCluster(t *testing.T) {
	manifest, err := os.ReadFile("../../deploy/overlays/rabbitmq-cluster/users.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type permissions struct{ Configure, Write, Read string }
	got, secrets := map[string]permissions{}, map[string]bool{}
	for _, document := range strings.Split(string(manifest), "\n---\n") {
		var object struct {
			Kind string
			Spec struct {
				ImportCredentialsSecret struct{ Name string }
				UserReference           struct{ Name string }
				Permissions             permissions
			}
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		switch object.Kind {
		case "User":
			secrets[object.Spec.ImportCredentialsSecret.Name] = true
		case "Permission":
			got[object.Spec.UserReference.Name] = object.Spec.Permissions
		default:
			t.Errorf("got the kind %q, want User or Permission", object.Kind)
		}
	}
	from := values{}
	for name := range got {
		from[name] = text("username", name, "password", "password")
		if !secrets[name] {
			t.Errorf("got a permission for the user of the Secret %s, but no such user", name)
		}
	}
	document, err := definitions(from)
	if err != nil {
		t.Fatal(err)
	}
	var defined struct {
		Permissions []struct {
			User string
			permissions
		}
	}
	if err := json.Unmarshal(document["definitions.json"], &defined); err != nil {
		t.Fatal(err)
	}
	want := map[string]permissions{}
	for _, p := range defined.Permissions {
		want[p.User] = p.permissions
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("permissions (-want +got):\n%s", diff)
	}
}

func TestDerivesFromWhatIsThere(t *testing.T) {
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	upload := string(c.secrets["rabbitmq-upload"]["password"])
	delete(c.secrets, "rabbitmq-definitions")
	delete(c.secrets, "rabbitmq-setup")
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	if got := string(c.secrets["rabbitmq-upload"]["password"]); got != upload {
		t.Error("the run changed an existing Secret")
	}
	if c.secrets["rabbitmq-definitions"] == nil || c.secrets["rabbitmq-setup"] == nil {
		t.Error("the run did not create the missing Secrets")
	}
}

// Of two concurrent runs, the second run uses the signing key that the first run has created in the meantime.
func TestTakesWhatSomebodyElseMadeMeanwhile(t *testing.T) {
	c, cfg := start(t)
	theirs, _, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	c.race = func(name string) {
		if name == "token-signing-key" {
			c.Lock()
			c.secrets[name] = map[string][]byte{"key.jwk": theirs}
			c.Unlock()
		}
	}
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	public, err := publicKeys(values{"token-signing-key": {"key.jwk": theirs}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(c.secrets["token-keys"]["jwks.json"]), string(public["jwks.json"]); got != want {
		t.Errorf("got public keys %s, want those of the stored signing key: %s", got, want)
	}
}

func TestSaysWhyItFailed(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(c *cluster, cfg *config)
		want  string
	}{
		"create forbidden": {spoil: func(c *cluster, _ *config) { c.refuse["POST mysql"] = 403 }, want: `create Secret "mysql": 403 Forbidden: refused for the test`},
		"read forbidden":   {spoil: func(c *cluster, _ *config) { c.refuse["GET mysql"] = 403 }, want: `read Secret "mysql": 403 Forbidden`},
		"read fails":       {spoil: func(c *cluster, _ *config) { c.refuse["GET token-keys"] = 500 }, want: `read Secret "token-keys": 500`},
		"create fails":     {spoil: func(c *cluster, _ *config) { c.refuse["POST token-keys"] = 422 }, want: `create Secret "token-keys": 422`},
		"no token":         {spoil: func(_ *cluster, cfg *config) { _ = os.Remove(filepath.Join(cfg.ServiceAccount, "token")) }, want: "read service account"},
		"no certificate":   {spoil: func(_ *cluster, cfg *config) { _ = os.Remove(filepath.Join(cfg.ServiceAccount, "ca.crt")) }, want: "ca.crt"},
		"no namespace":     {spoil: func(_ *cluster, cfg *config) { _ = os.Remove(filepath.Join(cfg.ServiceAccount, "namespace")) }, want: "namespace"},
		"API down":         {spoil: func(_ *cluster, cfg *config) { cfg.Port = "1" }, want: "connect"},
		"key is not JSON":  {spoil: func(c *cluster, _ *config) { c.secrets["token-signing-key"] = text("key.jwk", "not JSON") }, want: `derive Secret "token-keys"`},
		"not a key":        {spoil: func(c *cluster, _ *config) { c.secrets["token-signing-key"] = text("key.jwk", `{"kty":"oct"}`) }, want: "not a signing key"},
		"no password":      {spoil: func(c *cluster, _ *config) { c.secrets["rabbitmq-upload"] = text() }, want: `"rabbitmq-upload" must contain a username`},
		"no data":          {spoil: func(c *cluster, _ *config) { c.secrets["rabbitmq-upload"] = nil }, want: `"rabbitmq-upload" must contain a username`},
		"change forbidden": {spoil: func(c *cluster, _ *config) {
			c.secrets["rabbitmq-definitions"] = text("definitions.json", "{}")
			c.refuse["PATCH rabbitmq-definitions"] = 403
		}, want: `change Secret "rabbitmq-definitions": 403 Forbidden`},
	} {
		t.Run(name, func(t *testing.T) {
			c, cfg := start(t)
			tc.spoil(c, &cfg)
			if err := run(context.Background(), cfg, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one that contains %q", err, tc.want)
			}
		})
	}
	t.Run("invalid certificate", func(t *testing.T) {
		_, cfg := start(t)
		write(t, cfg.ServiceAccount, "ca.crt", "nothing")
		if err := run(context.Background(), cfg, nil); err == nil || !strings.Contains(err.Error(), "contains no certificate") {
			t.Errorf("got error %v, want one about the certificate", err)
		}
	})
	t.Run("canceled", func(t *testing.T) {
		_, cfg := start(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := run(ctx, cfg, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want %v", err, context.Canceled)
		}
	})
}
