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
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	// DSN is the data source name of the MySQL account store. It contains the credentials of the runtime user,
	// who can read and write rows but cannot change the schema.
	DSN string `env:"MYSQL_DSN,required,notEmpty,unset"`
	token.SignerSettings
	// SessionLifetime is how long a session lasts after the sign-in. Refreshing does not extend the session.
	SessionLifetime time.Duration `env:"SESSION_LIFETIME" envDefault:"720h"`
	// TrustSettings determines how the function obtains a client's IP address. The function counts failed sign-ins per
	// address. If the address is wrong, a lockout might affect all users, or an attacker might evade the lockout.
	client.TrustSettings
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
	signer, err := cfg.Signer()
	if err != nil {
		return nil, err
	}
	store, err := accounts.Open(cfg.DSN, time.Now)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN: %w", err)
	}
	hasher := password.NewHasher(runtime.GOMAXPROCS(0), hashWait)
	return function.Closing(newHandler(store, hasher, signer, trust, cfg.SessionLifetime), store), nil
}
