// Command login is the function that signs users in and out. It checks user names and passwords, issues access
// tokens, and manages sessions. During a session, a client can get new access tokens without the password.
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
	// DSN is the data source name of the MySQL account store. It contains the runtime user, which can read and write
	// rows but cannot change the schema.
	DSN string `env:"MYSQL_DSN,required,notEmpty,unset"`
	// SigningKeyFile is the path of the file with the private JWK. The login function signs access tokens with this
	// private key.
	SigningKeyFile string `env:"TOKEN_SIGNING_KEY_FILE,required,notEmpty"`
	// Issuer and Audience become the claims iss and aud of every access token. All functions that verify tokens must
	// have the same values, because they reject tokens with other values.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// Lifetime is how long an access token is valid. After a user is disabled, functions that do not look up accounts
	// still accept an access token of the user until the token expires.
	Lifetime time.Duration `env:"TOKEN_LIFETIME" envDefault:"15m"`
	// SessionLifetime is how long a session lasts after the sign-in. Refreshing does not extend the session.
	SessionLifetime time.Duration `env:"SESSION_LIFETIME" envDefault:"720h"`
	// TrustedHops is the number of trusted proxies in front of the login function. Each of these proxies appends the
	// address of its client to X-Forwarded-For. If TrustedHops is 0, the function uses the peer address of the TCP
	// connection. If TrustedHops is too low, the function uses a proxy's address as the address of every user, so one
	// lockout affects all users. If TrustedHops is too high, a client can pretend to have any address.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// GatewayKeyFile is the path of the file with the key that verifies the client addresses that the gateway signs.
	// If it is not set, the function uses the gateway's address as the address of every client that uses the gateway.
	GatewayKeyFile string `env:"GATEWAY_KEY_FILE"`
}

// hashWait is how long a sign-in may wait for a free slot in the password hasher. If no slot becomes free in this
// time, the response is 503. hashWait is long enough for a burst of 200 sign-ins on one core, and shorter than the
// timeouts of clients.
const hashWait = 8 * time.Second

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	trust, err := function.LoadTrust(cfg.TrustedHops, cfg.GatewayKeyFile)
	if err != nil {
		return nil, err
	}
	if cfg.SessionLifetime <= 0 {
		return nil, errors.New("SESSION_LIFETIME: must be positive")
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

// server is the HTTP handler together with its account store. function.Main calls Close when the process ends.
type server struct {
	http.Handler
	store *accounts.Store
}

func (s server) Close() error { return s.store.Close() }
