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

// runtimeUser is the name of the account with which the functions sign in to the stores that the runner starts
// itself. setup creates this account.
const runtimeUser = "strongroom"

// keptSecrets contains the secrets that the runner generates once and stores as files in the data directory. Only
// the owner of these files can read them.
type keptSecrets struct {
	// signingKey is the private JWK with which the login function signs access tokens. keySet is the JWK Set with the
	// corresponding public key.
	signingKey, keySet string
	// password is the password of runtimeUser in the stores that the runner starts itself. It contains only characters
	// that need no encoding in a URL.
	password string
	// gatewayKey is the key with which the gateway signs client IP addresses.
	gatewayKey string
	// linkKey is the key with which the files function signs links to files.
	linkKey string
	// signInKey is the key with which the login and accounts functions sign device tokens and hash user names.
	signInKey string
}

// keepSecrets returns the secrets in dir. If dir does not exist, keepSecrets creates it and generates the secrets.
func keepSecrets(dir string) (keptSecrets, error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := makeSecrets(dir); err != nil {
			return keptSecrets{}, fmt.Errorf("generate the secrets: %w", err)
		}
	}
	var kept keptSecrets
	for name, value := range map[string]*string{
		"key.jwk": &kept.signingKey, "jwks.json": &kept.keySet, "password": &kept.password, "gateway-key": &kept.gatewayKey, "link-key": &kept.linkKey,
		"sign-in-key": &kept.signInKey,
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

// keyFiles lists the files that contain random keys. keepSecrets generates any of these files that are missing
// from an existing directory, because earlier versions of Strongroom did not generate all of them.
var keyFiles = []string{"gateway-key", "link-key", "sign-in-key"}

// makeKey generates a random 256-bit key, encodes it as base64url, and writes it to the file called name in dir.
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

// makeSecrets atomically creates dir with all secrets except those in keyFiles.
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

// kubernetes returns the Secrets to which the manifests refer, by Secret name and key. An empty value means that
// the stores in use do not need the secret.
func (k keptSecrets) kubernetes(s endpoints) map[string]map[string]string {
	return map[string]map[string]string{
		"token-signing-key": {"key.jwk": k.signingKey},
		"token-keys":        {"jwks.json": k.keySet},
		"gateway-key":       {"key": k.gatewayKey},
		"link-key":          {"key": k.linkKey},
		"sign-in-key":       {"key": k.signInKey},
		"mysql":             {"dsn": s.mysql},
		"mysql-admin":       {"dsn": s.mysqlAdmin},
		"mongodb":           {"uri": s.mongodb},
		"mongodb-admin":     {"uri": s.mongodbAdmin},
		"rabbitmq-upload":   {"url": s.events},
		"rabbitmq-sweep":    {"url": s.events},
		"rabbitmq-setup":    {"url": s.eventsAdmin},
		// setup does not need to create a first admin, because one of the demo users is an admin.
		"first-admin": {"username": "", "password": ""},
	}
}

// runtimeDSN returns the DSN with which the functions connect to a MySQL server. admin is the administrator's DSN for
// the same server.
func (k keptSecrets) runtimeDSN(admin string) (string, error) {
	config, err := mysql.ParseDSN(admin)
	if err != nil {
		return "", err
	}
	config.User, config.Passwd = runtimeUser, k.password
	return config.FormatDSN(), nil
}

// runtimeURI returns the URI with which the functions connect to a mongod. admin is the administrator's URI for the
// same mongod.
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
