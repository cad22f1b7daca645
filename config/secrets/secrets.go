package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/token"
)

// Where config/backing puts the stores.
const (
	mysqlAddress    = "mysql.strongroom.svc:3306"
	mongodbAddress  = "mongodb.strongroom.svc:27017"
	rabbitmqAddress = "rabbitmq.strongroom.svc"
	database        = "strongroom"
)

// values are the data of Secrets by Secret name and key.
type values map[string]map[string][]byte

// source is a Secret that is generated from nothing but randomness.
type source struct {
	name     string
	generate func() (map[string][]byte, error)
}

// group is a set of Secrets that belong together: the sources, and possibly one Secret that is derived from them.
type group struct {
	sources []source
	derived string
	derive  func(values) (map[string][]byte, error)
	// follows says that the derived Secret is derived again whenever its sources or the code of derive have changed. Without
	// it, the derived Secret never changes here, and no source is generated while the derived Secret exists.
	follows bool
}

// groups returns all Secrets that Strongroom needs.
func groups() []group {
	return []group{
		{
			sources: []source{{"token-signing-key", signingKey}},
			derived: "token-keys",
			derive:  publicKeys,
		},
		// The runtime user's password is not the administrator's secret: setup gives the user whatever password is here.
		{sources: []source{{"mysql-admin", func() (map[string][]byte, error) {
			password := newPassword()
			return text("password", password, "dsn", fmt.Sprintf("root:%s@tcp(%s)/%s", password, mysqlAddress, database)), nil
		}}}},
		{sources: []source{{"mysql", func() (map[string][]byte, error) {
			return text("dsn", fmt.Sprintf("strongroom:%s@tcp(%s)/%s", newPassword(), mysqlAddress, database)), nil
		}}}},
		{sources: []source{{"mongodb-admin", func() (map[string][]byte, error) {
			password := newPassword()
			return text("username", "root", "password", password,
				"uri", fmt.Sprintf("mongodb://root:%s@%s/%s?authSource=admin", password, mongodbAddress, database)), nil
		}}}},
		{sources: []source{{"mongodb", func() (map[string][]byte, error) {
			return text("uri", fmt.Sprintf("mongodb://strongroom:%s@%s/%s?authSource=%[3]s", newPassword(), mongodbAddress, database)), nil
		}}}},
		{
			sources: []source{
				{"rabbitmq-setup", func() (map[string][]byte, error) { return rabbitUser("setup"), nil }},
				{"rabbitmq-upload", func() (map[string][]byte, error) { return rabbitUser("upload"), nil }},
				{"rabbitmq-sweep", func() (map[string][]byte, error) { return rabbitUser("sweep"), nil }},
				{"rabbitmq-source", func() (map[string][]byte, error) { return rabbitConnection("source"), nil }},
			},
			derived: "rabbitmq-definitions",
			derive:  definitions,
			follows: true, // `make deploy` restarts RabbitMQ after a change
		},
		// The gateway signs with it who called it; login and accounts verify that.
		{sources: []source{{"gateway-key", func() (map[string][]byte, error) {
			return text("key", newKey()), nil
		}}}},
		// Files signs with it the links that are good without a token.
		{sources: []source{{"link-key", func() (map[string][]byte, error) {
			return text("key", newKey()), nil
		}}}},
		{sources: []source{{"first-admin", func() (map[string][]byte, error) {
			return text("username", "admin", "password", newPassword()), nil
		}}}},
	}
}

// newPassword returns 192 random bits. They are URL-safe, because the RabbitMQ source puts them into a URL as they are.
func newPassword() string {
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	return base64.RawURLEncoding.EncodeToString(random)
}

// newKey returns a key for HMAC-SHA-256: 256 random bits, as text.
func newKey() string {
	random := make([]byte, sha256.Size)
	_, _ = rand.Read(random) // never fails
	return base64.RawURLEncoding.EncodeToString(random)
}

// text makes a Secret's data of key, value, key, value ….
func text(pairs ...string) map[string][]byte {
	data := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		data[pairs[i]] = []byte(pairs[i+1])
	}
	return data
}

func signingKey() (map[string][]byte, error) {
	private, _, err := token.GenerateKey()
	return map[string][]byte{"key.jwk": private}, err
}

// publicKeys is the Secret of the signing key's public half.
func publicKeys(from values) (map[string][]byte, error) {
	set, err := publicSet(from["token-signing-key"]["key.jwk"])
	if err != nil {
		return nil, fmt.Errorf("its key.jwk %w", err)
	}
	return map[string][]byte{"jwks.json": set}, nil
}

// publicSet is the JWK Set of a private key: the same key without its private part.
func publicSet(private []byte) ([]byte, error) {
	var key map[string]any
	if err := json.Unmarshal(private, &key); err != nil {
		return nil, errors.New("is no JSON object") // the cause may quote the key
	}
	delete(key, "d")
	set, err := json.Marshal(map[string]any{"keys": []any{key}})
	if err != nil {
		return nil, err
	}
	if _, err := token.ParseKeys(set); err != nil {
		return nil, fmt.Errorf("is no signing key: %w", err)
	}
	return set, nil
}

func rabbitUser(name string) map[string][]byte {
	password := newPassword()
	return text("username", name, "password", password, "url", fmt.Sprintf("amqp://%s:%s@%s:5672", name, password, rabbitmqAddress))
}

// rabbitConnection has the keys that the RabbitMQ source reads: the management address, of which it takes the host, and
// the AMQP port.
func rabbitConnection(name string) map[string][]byte {
	return text("username", name, "password", newPassword(), "uri", fmt.Sprintf("http://%s:15672", rabbitmqAddress), "port", "5672")
}

// definitions returns what RabbitMQ loads whenever it starts (rabbitmq.com/docs/definitions): the virtual host, and one
// user for each client, with the permissions that this client needs. RabbitMQ creates no default user if it loads
// definitions. The result depends only on the passwords, so that it can be compared with what is stored.
func definitions(from values) (map[string][]byte, error) {
	type user struct {
		Name      string   `json:"name"`
		Hash      string   `json:"password_hash"`
		Algorithm string   `json:"hashing_algorithm"`
		Tags      []string `json:"tags"`
	}
	type permission struct {
		User      string `json:"user"`
		Vhost     string `json:"vhost"`
		Configure string `json:"configure"`
		Write     string `json:"write"`
		Read      string `json:"read"`
	}
	type vhost struct {
		Name string `json:"name"`
	}
	var all struct {
		Users       []user       `json:"users"`
		Vhosts      []vhost      `json:"vhosts"`
		Permissions []permission `json:"permissions"`
	}
	const nothing = "^$"
	all.Vhosts = []vhost{{"/"}}
	for _, may := range []struct{ secret, configure, write, read string }{
		{"rabbitmq-setup", `^strongroom\..*`, `^strongroom\..*`, `^strongroom\..*`},
		{"rabbitmq-upload", nothing, `^strongroom\.events$`, nothing},
		// sweep publishes, and counts the messages in the queues by passive declares. RabbitMQ 4.2.7 and later accept a passive
		// declare only from a user with configure or write permission on the queue. Write permission on a queue alone allows
		// nothing else: a binding also needs read permission on the exchange, and only the default exchange publishes to a queue.
		{"rabbitmq-sweep", nothing, `^strongroom\.(events|files|files\.dead)$`, nothing},
		{"rabbitmq-source", nothing, nothing, `^strongroom\.files$`},
	} {
		name, password := string(from[may.secret]["username"]), string(from[may.secret]["password"])
		if name == "" || password == "" {
			return nil, fmt.Errorf("%s has no username or no password", may.secret)
		}
		all.Users = append(all.Users, user{name, passwordHash(password), "rabbit_password_hashing_sha256", []string{}})
		all.Permissions = append(all.Permissions, permission{name, "/", may.configure, may.write, may.read})
	}
	document, err := json.MarshalIndent(all, "", "  ")
	return map[string][]byte{"definitions.json": document}, err
}

// passwordHash hashes a password as RabbitMQ stores it: a salt of 32 bits, and the SHA-256 of the salt and the password
// (rabbitmq.com/docs/passwords). A fast hash is enough for passwords of 192 random bits. For the same reason, the salt need
// not be random: it is derived from the password, so that equal passwords have equal hashes.
func passwordHash(password string) string {
	derived := sha256.Sum256([]byte("salt" + password))
	salt := derived[:4]
	sum := sha256.Sum256(append(salt[:4:4], password...))
	return base64.StdEncoding.EncodeToString(append(salt[:4:4], sum[:]...))
}

// store is where Secrets are kept.
type store interface {
	get(ctx context.Context, name string) (map[string][]byte, error)
	create(ctx context.Context, name string, data map[string][]byte) error
	change(ctx context.Context, name string, data map[string][]byte) error
}

// ensureAll makes what is absent. It tries every group, so that one message tells all that is wrong.
func ensureAll(ctx context.Context, api store, groups []group) error {
	var errs []error
	for _, g := range groups {
		errs = append(errs, g.ensure(ctx, api))
	}
	return errors.Join(errs...)
}

// ensure creates the Secrets of the group that are absent, and updates the derived Secret if it follows its sources. The
// derived Secret is derived from the sources as they are stored, so that two concurrent runs agree.
func (g group) ensure(ctx context.Context, api store) error {
	// The derived Secret is read first: a run that has created it had created its sources before.
	var derived map[string][]byte
	if g.derived != "" {
		var err error
		if derived, err = api.get(ctx, g.derived); err != nil {
			return err
		}
	}
	stored := values{}
	for _, s := range g.sources {
		data, err := api.get(ctx, s.name)
		if err != nil {
			return err
		}
		if data == nil {
			if derived != nil && !g.follows {
				return fmt.Errorf("the Secret %q is there, but %q, which it was made from, is not: restore that, or delete them all and run this again (kubectl delete secret -n strongroom --ignore-not-found %s)",
					g.derived, s.name, strings.Join(g.names(), " "))
			}
			if data, err = ensureSource(ctx, api, s); err != nil {
				return err
			}
		}
		stored[s.name] = data
	}
	if g.derived == "" || derived != nil && !g.follows {
		return nil
	}
	data, err := g.derive(stored)
	if err != nil {
		return fmt.Errorf("derive Secret %q: %w", g.derived, err)
	}
	switch {
	case derived == nil:
		if err := api.create(ctx, g.derived, data); err != nil && !errors.Is(err, errExists) {
			return err
		}
		slog.InfoContext(ctx, "created", "secret", g.derived)
	case !maps.EqualFunc(derived, data, bytes.Equal):
		if err := api.change(ctx, g.derived, data); err != nil {
			return err
		}
		slog.InfoContext(ctx, "updated", "secret", g.derived)
	}
	return nil
}

// ensureSource makes a Secret and returns what is stored under its name, which is somebody else's if that came first.
func ensureSource(ctx context.Context, api store, s source) (map[string][]byte, error) {
	data, err := s.generate()
	if err != nil {
		return nil, fmt.Errorf("generate Secret %q: %w", s.name, err)
	}
	err = api.create(ctx, s.name, data)
	if errors.Is(err, errExists) {
		return api.get(ctx, s.name)
	}
	if err != nil {
		return nil, err
	}
	slog.InfoContext(ctx, "created", "secret", s.name)
	return data, nil
}

// names lists the group's Secrets.
func (g group) names() []string {
	var names []string
	for _, s := range g.sources {
		names = append(names, s.name)
	}
	if g.derived != "" {
		names = append(names, g.derived)
	}
	return names
}
