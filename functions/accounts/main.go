// Command accounts is the serverless function for accounts. Admins can manage all accounts and read the audit trail.
// All users can view their own account, change their own password, and list and end their own sessions.
package main

import (
	"context"
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
	token.Settings
	// TrustSettings determines how the function obtains a client's IP address. The function records this address in
	// the audit trail, and counts wrong passwords per address.
	client.TrustSettings
	accounts.KeySettings
	// PolicySettings decides which new passwords are allowed.
	password.PolicySettings
}

// hashWait is how long a request may wait for a free slot in the password hasher. If no slot becomes free in this
// time, the response is 503.
const hashWait = 8 * time.Second

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	trust, err := cfg.Trust()
	if err != nil {
		return nil, err
	}
	key, err := cfg.LoadKey()
	if err != nil {
		return nil, err
	}
	policy, err := cfg.Policy()
	if err != nil {
		return nil, err
	}
	verifier, err := cfg.Verifier()
	if err != nil {
		return nil, err
	}
	store, err := accounts.Open(string(cfg.DSN), time.Now)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN_FILE: %w", err)
	}
	store.UseKey(key)
	hasher := password.NewHasher(runtime.GOMAXPROCS(0), hashWait)
	return function.Closing(newHandler(verifier, store, hasher, policy, trust, time.Now), store), nil
}
