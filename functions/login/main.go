// Command login is the function that signs users in and out: it checks a user name and a password, issues access tokens,
// and keeps the sessions in which they are renewed.
package main

import (
	"context"
	"errors"
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
	// SigningKeyFile is the private JWK that tokens are signed with.
	SigningKeyFile string `env:"TOKEN_SIGNING_KEY_FILE,required,notEmpty"`
	// Issuer and Audience are what tokens say they were issued by and for; the verifiers demand the same.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// Lifetime of a token: as long does a disabled user keep access.
	Lifetime time.Duration `env:"TOKEN_LIFETIME" envDefault:"15m"`
	// SessionLifetime is how long a user stays signed in who refreshes.
	SessionLifetime time.Duration `env:"SESSION_LIFETIME" envDefault:"720h"`
	// TrustedHops is how many proxies in front add the address of who called them to X-Forwarded-For, counted from
	// this process. 0 believes none and takes the peer of the TCP connection. Too few, and all users share a proxy's
	// address and each other's lockout; too many, and anybody can name any address.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// GatewayKeyFile is the key that the gateway signs the address of who called it with; without it, all who come
	// through the gateway have its address.
	GatewayKeyFile string `env:"GATEWAY_KEY_FILE"`
}

// hashWait is how long a login waits for its turn to be hashed before it is told to come again: longer than a burst of
// 200 takes on one core, and shorter than clients wait.
const hashWait = 8 * time.Second

func main() { function.Main(setup) }

// setup builds the login endpoint from its settings.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	trust, err := function.LoadTrust(cfg.TrustedHops, cfg.GatewayKeyFile)
	if err != nil {
		return nil, err
	}
	if cfg.SessionLifetime <= 0 {
		return nil, errors.New("SESSION_LIFETIME: a session must live for some time")
	}
	signer, err := token.LoadSigner(cfg.SigningKeyFile, cfg.Issuer, cfg.Audience, cfg.Lifetime, time.Now)
	if err != nil {
		return nil, err
	}
	store, err := accounts.Open(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN: %w", err)
	}
	hasher := password.NewHasher(runtime.GOMAXPROCS(0), hashWait)
	return server{newHandler(store, hasher, signer, trust, cfg.SessionLifetime), store}, nil
}

// server is the endpoint with what must be closed after it.
type server struct {
	http.Handler
	store *accounts.Store
}

// Close implements io.Closer.
func (s server) Close() error { return s.store.Close() }
