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

// The addresses of the stores that the manifests in config/backing deploy, and the name of the database in MySQL and
// MongoDB.
const (
	mysqlAddress    = "mysql.strongroom.svc:3306"
	mongodbAddress  = "mongodb.strongroom.svc:27017"
	rabbitmqAddress = "rabbitmq.strongroom.svc"
	database        = "strongroom"
)

// values contains the entries of several Secrets, indexed by Secret name and then by entry name.
type values map[string]map[string][]byte

// source is a Secret whose passwords and keys are generated at random, not derived from other Secrets.
type source struct {
	name string
	data map[string][]byte // used only if the Secret does not exist
}

// group consists of one or more source Secrets and, optionally, a Secret that is derived from them.
type group struct {
	sources []source
	derived string
	derive  func(values) (map[string][]byte, error)
	// follows reports whether the ensure method updates an existing derived Secret if the derive function returns
	// different data. If follows is false, ensure never changes an existing derived Secret.
	follows bool
	// development reports whether the Secrets belong to the stores in config/backing.
	development bool
}

// groups returns all Secrets that Strongroom needs, with new passwords and keys.
func groups() ([]group, error) {
	signingKey, _, err := token.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("generate Secret %q: %w", signingSecret, err)
	}
	mysqlRoot, mongodbRoot := newPassword(), newPassword()
	return []group{
		{
			sources: []source{{signingSecret, map[string][]byte{currentKey: signingKey}}},
			derived: verifyingSecret,
			derive:  publicKeys,
		},
		// The mysql-admin and mysql Secrets can be generated independently of each other, because the setup Job
		// sets the runtime user's password to the password in the mysql Secret.
		development("mysql-admin", "password", mysqlRoot, "dsn", fmt.Sprintf("root:%s@tcp(%s)/%s", mysqlRoot, mysqlAddress, database)),
		development("mysql", "dsn", fmt.Sprintf("strongroom:%s@tcp(%s)/%s", newPassword(), mysqlAddress, database)),
		development("mongodb-admin", "username", "root", "password", mongodbRoot,
			"uri", fmt.Sprintf("mongodb://root:%s@%s/%s?authSource=admin", mongodbRoot, mongodbAddress, database)),
		development("mongodb",
			"uri", fmt.Sprintf("mongodb://strongroom:%s@%s/%s?authSource=%[3]s", newPassword(), mongodbAddress, database)),
		{
			sources: []source{
				{"rabbitmq-setup", rabbitUser("setup")},
				{"rabbitmq-upload", rabbitUser("upload")},
				{"rabbitmq-sweep", rabbitUser("sweep")},
				{"rabbitmq-source", rabbitConnection("source")},
			},
			derived:     "rabbitmq-definitions",
			derive:      definitions,
			follows:     true, // the only Secret that ensure updates; after an update, `make deploy` restarts RabbitMQ
			development: true,
		},
		// The gateway signs the client's IP address with this key. The login and accounts functions verify the
		// signature with the same key.
		single("gateway-key", "key", newKey()),
		// The files function signs download links with this key, so that a link works without an access token.
		single("link-key", "key", newKey()),
		// The login and accounts functions sign device tokens and hash user names with this key, so that failed sign-ins
		// are counted.
		single("sign-in-key", "key", newKey()),
		single("first-admin", "username", "admin", "password", newPassword()),
	}, nil
}

// single returns a group with only one Secret. pairs contains alternating entry names and values.
func single(name string, pairs ...string) group {
	return group{sources: []source{{name, text(pairs...)}}}
}

// development returns a group with only one Secret, which belongs to a store in config/backing.
func development(name string, pairs ...string) group {
	g := single(name, pairs...)
	g.development = true
	return g
}

// newPassword returns a random 192-bit password. It contains only characters that are safe in a URL, because Knative's
// RabbitmqSource inserts its password into a URL without escaping it.
func newPassword() string { return randomText(24) }

// newKey returns a random 256-bit key for HMAC-SHA-256, in base64url without padding.
func newKey() string { return randomText(sha256.Size) }

func randomText(size int) string {
	random := make([]byte, size)
	_, _ = rand.Read(random) // never fails
	return base64.RawURLEncoding.EncodeToString(random)
}

// text builds the data of a Secret from pairs, which contains alternating entry names and values.
func text(pairs ...string) map[string][]byte {
	data := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		data[pairs[i]] = []byte(pairs[i+1])
	}
	return data
}

// publicKeys returns the data for the token-keys Secret, which contains the public part of the signing key.
func publicKeys(from values) (map[string][]byte, error) {
	set, err := publicSet(from["token-signing-key"]["key.jwk"])
	if err != nil {
		return nil, fmt.Errorf("read entry %s of Secret %q: %w", currentKey, signingSecret, err)
	}
	return map[string][]byte{"jwks.json": set}, nil
}

// publicSet returns a JWK Set that contains only the public part of a private JWK.
func publicSet(private []byte) ([]byte, error) {
	var key map[string]any
	if err := json.Unmarshal(private, &key); err != nil {
		return nil, errors.New("the key is not a JSON object") // without the cause, which can quote the private key
	}
	delete(key, "d")
	set, err := json.Marshal(map[string]any{"keys": []any{key}})
	if err != nil {
		return nil, err
	}
	if _, err := token.ParseKeys(set); err != nil {
		return nil, fmt.Errorf("the key is not a signing key: %w", err)
	}
	return set, nil
}

func rabbitUser(name string) map[string][]byte {
	password := newPassword()
	return text("username", name, "password", password, "url", fmt.Sprintf("amqp://%s:%s@%s:5672", name, password, rabbitmqAddress))
}

// rabbitConnection returns the data of the Secret that Knative's RabbitmqSource reads.
func rabbitConnection(name string) map[string][]byte {
	// The "uri" entry is the URL of the management API, but the RabbitmqSource uses only the host in this URL. The
	// "port" entry is the AMQP port.
	return text("username", name, "password", newPassword(), "uri", fmt.Sprintf("http://%s:15672", rabbitmqAddress), "port", "5672")
}

// definitions returns the users and permissions that RabbitMQ imports whenever it starts
// (rabbitmq.com/docs/definitions). Because of this import, RabbitMQ does not create a default user.
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
	// Create one user per client, with only the permissions that the client needs.
	for _, may := range []struct{ secret, configure, write, read string }{
		{"rabbitmq-setup", `^strongroom\..*`, `^strongroom\..*`, `^strongroom\..*`},
		{"rabbitmq-upload", nothing, `^strongroom\.events$`, nothing},
		// The sweep function uses passive declares to count messages. For a passive declare, RabbitMQ 4.2.7 and
		// later require configure or write permission on the queue. Grant write permission, because it does not by
		// itself allow a client to bind the queue, which also requires read permission on an exchange, or to publish
		// to it directly, which requires write permission on the default exchange.
		{"rabbitmq-sweep", nothing, `^strongroom\.(events|files|files\.dead)$`, nothing},
		{"rabbitmq-source", nothing, nothing, `^strongroom\.files$`},
	} {
		name, password := string(from[may.secret]["username"]), string(from[may.secret]["password"])
		if name == "" || password == "" {
			return nil, fmt.Errorf("the Secret %q must contain a username and a password", may.secret)
		}
		all.Users = append(all.Users, user{name, passwordHash(password), "rabbit_password_hashing_sha256", []string{}})
		all.Permissions = append(all.Permissions, permission{name, "/", may.configure, may.write, may.read})
	}
	document, err := json.MarshalIndent(all, "", "  ")
	return map[string][]byte{"definitions.json": document}, err
}

// passwordHash returns a password hash in RabbitMQ's format (rabbitmq.com/docs/passwords). A fast hash and a salt
// derived from the password are secure, because the passwords have 192 random bits.
func passwordHash(password string) string {
	// Derive the 32-bit salt from the password, because a random salt would change the RabbitMQ definitions in
	// every run.
	derived := sha256.Sum256([]byte("salt" + password))
	salt := derived[:4]
	sum := sha256.Sum256(append(salt[:4:4], password...))
	return base64.StdEncoding.EncodeToString(append(salt[:4:4], sum[:]...))
}

// store reads and writes Secrets.
type store interface {
	get(ctx context.Context, name string) (map[string][]byte, error)
	create(ctx context.Context, name string, data map[string][]byte) error
	change(ctx context.Context, name string, data map[string][]byte) error
}

// ensureAll creates the missing Secrets of all groups, except the Secrets of the development stores if external is
// true. If an error occurs in one group, ensureAll continues with the next group, so that the returned error reports
// all problems.
func ensureAll(ctx context.Context, api store, external bool) error {
	groups, err := groups()
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		if !g.development || !external {
			errs = append(errs, g.ensure(ctx, api))
		}
	}
	return errors.Join(errs...)
}

// ensure creates the missing Secrets of the group. If g.follows is set, it also updates the derived Secret.
func (g group) ensure(ctx context.Context, api store) error {
	// Read the derived Secret first. Every run creates it last, so if it exists, a missing source Secret has been
	// deleted and is not about to be created by a concurrent run.
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
				// Do not generate the missing source Secret, because its new data would not match the derived Secret.
				return fmt.Errorf("the Secret %q exists, but its source %q does not: restore the source, or delete the Secret and all related Secrets (kubectl delete secret -n strongroom --ignore-not-found %s) and run the Job again",
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
	// Use the stored source Secrets, not newly generated data, so that concurrent runs derive the same Secret.
	data, err := g.derive(stored)
	if err != nil {
		return fmt.Errorf("derive Secret %q: %w", g.derived, err)
	}
	switch {
	case derived == nil:
		if err := api.create(ctx, g.derived, data); err != nil && !errors.Is(err, errExists) {
			return err
		}
		slog.InfoContext(ctx, "created Secret", "secret", g.derived)
	case !maps.EqualFunc(derived, data, bytes.Equal):
		if err := api.change(ctx, g.derived, data); err != nil {
			return err
		}
		slog.InfoContext(ctx, "updated Secret", "secret", g.derived)
	}
	return nil
}

// ensureSource creates a Secret and returns its data. If another run has created the Secret in the meantime,
// ensureSource returns the other run's data.
func ensureSource(ctx context.Context, api store, s source) (map[string][]byte, error) {
	err := api.create(ctx, s.name, s.data)
	if errors.Is(err, errExists) {
		return api.get(ctx, s.name)
	}
	if err != nil {
		return nil, err
	}
	slog.InfoContext(ctx, "created Secret", "secret", s.name)
	return s.data, nil
}

// names returns the names of all Secrets in the group. The group must have a derived Secret.
func (g group) names() []string {
	var names []string
	for _, s := range g.sources {
		names = append(names, s.name)
	}
	return append(names, g.derived)
}
