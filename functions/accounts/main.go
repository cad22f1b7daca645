// Command accounts is the function that manages accounts. Admins use it to create, list, change and delete accounts,
// and to read the audit trail. All users can use it to view their own account and to change their own password.
package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	// DSN is the data source name of the MySQL account store. It contains the runtime user, which can read and write
	// rows but cannot change the schema.
	DSN string `env:"MYSQL_DSN,required,notEmpty,unset"`
	// KeysFile is the path of the file with the public JWK Set. The accounts function verifies access tokens with
	// these public keys.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are the values that the claims iss and aud of an access token must have.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// TrustedHops is the number of trusted proxies in front of this process. Each of these proxies appends the
	// address of its client to X-Forwarded-For. The function needs the client's address, because it records the
	// address in the audit trail and counts wrong passwords per address.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// GatewayKeyFile is the path of the file with the key that verifies the client addresses that the gateway signs.
	// If it is not set, the function uses the gateway's address as the address of every client that uses the gateway.
	GatewayKeyFile string `env:"GATEWAY_KEY_FILE"`
}

// hashWait is how long a request may wait for a free slot in the password hasher. If no slot becomes free in this
// time, the response is 503.
const hashWait = 8 * time.Second

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	trust, err := function.LoadTrust(cfg.TrustedHops, cfg.GatewayKeyFile)
	if err != nil {
		return nil, err
	}
	keys, err := token.LoadKeys(cfg.KeysFile)
	if err != nil {
		return nil, err
	}
	verifier, err := token.NewVerifier(keys, cfg.Issuer, cfg.Audience)
	if err != nil {
		return nil, err
	}
	store, err := accounts.Open(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN: %w", err)
	}
	hasher := password.NewHasher(runtime.GOMAXPROCS(0), hashWait)
	return server{newHandler(verifier, store, hasher, trust), store}, nil
}

// server is the HTTP handler together with its account store. function.Main calls Close when the process ends.
type server struct {
	http.Handler
	store *accounts.Store
}

func (s server) Close() error { return s.store.Close() }
