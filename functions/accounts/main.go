// Command accounts is the function that manages accounts: admins make, list, change and delete them and read the audit
// trail; anybody may see the own one and change its password.
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
	// DSN is of the runtime user, who may read and write rows and change no table.
	DSN string `env:"MYSQL_DSN,required,notEmpty,unset"`
	// KeysFile is the public key set that tokens are verified with.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are what tokens must have been issued by and for.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// TrustedHops is how many proxies in front add the address of who called them to X-Forwarded-For, counted from
	// this process; as for login. The address goes into the audit trail, and guesses of a password are counted under it.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// GatewayKeyFile is the key that the gateway signs the address of who called it with; without it, all who come
	// through the gateway have its address.
	GatewayKeyFile string `env:"GATEWAY_KEY_FILE"`
}

// hashWait is how long a request waits for its turn to be hashed before it is told to come again; as for login.
const hashWait = 8 * time.Second

func main() { function.Main(setup) }

// setup builds the accounts endpoint from its settings.
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

// server is the endpoint with what must be closed after it.
type server struct {
	http.Handler
	store *accounts.Store
}

// Close implements io.Closer.
func (s server) Close() error { return s.store.Close() }
