package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/token"
)

// runtimeUser is the account that setup makes for the functions in a private store.
const runtimeUser = "strongroom"

// keptSecrets are made once and kept in the data directory, readable for its owner only.
type keptSecrets struct {
	// signingKey is the private JWK that login signs with, keySet the public JWK Set.
	signingKey, keySet string
	// password is that of the functions in private stores; it is URL-safe.
	password string
	// gatewayKey is what the gateway signs the address of who called it with.
	gatewayKey string
	// linkKey is what files signs links with.
	linkKey string
}

// keepSecrets returns the secrets in dir, which it makes if they are not there.
func keepSecrets(dir string) (keptSecrets, error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := makeSecrets(dir); err != nil {
			return keptSecrets{}, fmt.Errorf("make the secrets: %w", err)
		}
	}
	var kept keptSecrets
	for name, value := range map[string]*string{
		"key.jwk": &kept.signingKey, "jwks.json": &kept.keySet, "password": &kept.password, "gateway-key": &kept.gatewayKey, "link-key": &kept.linkKey,
	} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) && slices.Contains(keyFiles, name) {
			content, err = makeKey(dir, name)
		}
		if err != nil {
			return keptSecrets{}, fmt.Errorf("read the secrets: %w", err)
		}
		*value = string(content)
	}
	return kept, nil
}

// keyFiles are the keys that are nothing but random. Each is made where it is absent: a data directory may be older than
// it.
var keyFiles = []string{"gateway-key", "link-key"}

// makeKey makes a key of 256 random bits, as text, in dir.
func makeKey(dir, name string) ([]byte, error) {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	key := []byte(base64.RawURLEncoding.EncodeToString(random))
	temp := filepath.Join(dir, name+".new")
	if err := os.WriteFile(temp, key, 0o600); err != nil {
		return nil, err
	}
	return key, os.Rename(temp, filepath.Join(dir, name))
}

// makeSecrets makes dir with all that belongs into it, or not at all.
func makeSecrets(dir string) error {
	private, public, err := token.GenerateKey()
	if err != nil {
		return err
	}
	temp := dir + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"key.jwk": private, "jwks.json": public, "password": []byte(rand.Text())} {
		if err := os.WriteFile(filepath.Join(temp, name), content, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(temp, dir)
}

// kubernetes returns the Secrets as the manifests name them, for the stores at hand. An empty value is one that these
// stores don't have, such as an administrator's address where setup needs none.
func (k keptSecrets) kubernetes(s endpoints) map[string]map[string]string {
	return map[string]map[string]string{
		"token-signing-key": {"key.jwk": k.signingKey},
		"token-keys":        {"jwks.json": k.keySet},
		"gateway-key":       {"key": k.gatewayKey},
		"link-key":          {"key": k.linkKey},
		"mysql":             {"dsn": s.mysql},
		"mysql-admin":       {"dsn": s.mysqlAdmin},
		"mongodb":           {"uri": s.mongodb},
		"mongodb-admin":     {"uri": s.mongodbAdmin},
		"rabbitmq-upload":   {"url": s.events},
		"rabbitmq-sweep":    {"url": s.events},
		"rabbitmq-setup":    {"url": s.eventsAdmin},
		// The demo users have an administrator among them.
		"first-admin": {"username": "", "password": ""},
	}
}

// runtimeDSN is the functions' DSN for a server whose administrator's is given.
func (k keptSecrets) runtimeDSN(admin string) (string, error) {
	config, err := mysql.ParseDSN(admin)
	if err != nil {
		return "", err
	}
	config.User, config.Passwd = runtimeUser, k.password
	return config.FormatDSN(), nil
}

// runtimeURI is the functions' URI for a mongod whose administrator's is given.
func (k keptSecrets) runtimeURI(admin string) (string, error) {
	uri, err := url.Parse(admin)
	if err != nil {
		return "", err
	}
	uri.User = url.UserPassword(runtimeUser, k.password)
	query := uri.Query()
	query.Set("authSource", "strongroom")
	uri.RawQuery = query.Encode()
	return uri.String(), nil
}
