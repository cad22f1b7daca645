// Command login is the serverless function that signs users in and out. It issues access tokens, along with refresh
// tokens that clients use to get new access tokens.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	// DSN is the data source name of the MySQL account store. The MySQL user in DSN can read and write rows, but
	// cannot change the schema.
	DSN function.Secret `env:"MYSQL_DSN_FILE,required,notEmpty"`
	token.SignerSettings
	// SessionLifetime is how long a session lasts after the sign-in. A token refresh does not extend this time.
	SessionLifetime time.Duration `env:"SESSION_LIFETIME" envDefault:"12h"`
	// SessionIdleTimeout is how long a session lasts after the sign-in or the last token refresh. It must be longer than
	// TOKEN_LIFETIME, because clients refresh a session when the access token expires.
	SessionIdleTimeout time.Duration `env:"SESSION_IDLE_TIMEOUT" envDefault:"30m"`
	// TrustSettings determines how the function obtains a client's IP address. If the address is wrong, an
	// attacker might evade a lockout, or a lockout might affect all users.
	client.TrustSettings
	accounts.KeySettings
	// PolicySettings decides which new passwords are allowed if a client changes the password at the sign-in.
	password.PolicySettings
}

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	trust, err := cfg.Trust()
	if err != nil {
		return nil, err
	}
	if cfg.SessionLifetime <= 0 {
		return nil, errors.New("SESSION_LIFETIME: must be positive")
	}
	if cfg.SessionIdleTimeout <= cfg.Lifetime {
		return nil, errors.New("SESSION_IDLE_TIMEOUT: must be longer than TOKEN_LIFETIME")
	}
	key, err := cfg.LoadKey()
	if err != nil {
		return nil, err
	}
	policy, err := cfg.Policy()
	if err != nil {
		return nil, err
	}
	signer, err := cfg.Signer()
	if err != nil {
		return nil, err
	}
	store, err := accounts.Open(string(cfg.DSN), time.Now)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN_FILE: %w", err)
	}
	store.UseKey(key)
	hasher := password.NewHasher(runtime.GOMAXPROCS(0), hashWait)
	return function.Closing(newHandler(store, hasher, signer, policy, trust, accounts.Lifetimes{Total: cfg.SessionLifetime, Idle: cfg.SessionIdleTimeout}), store), nil
}
