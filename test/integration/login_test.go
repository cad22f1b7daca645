package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// loginSettings writes a signing key and returns the settings of a login function behind one proxy.
func loginSettings(t *testing.T, dsn string) (settings []string, verifier *token.Verifier) {
	t.Helper()
	private, public, err := token.GenerateKey()
	dir := t.TempDir()
	keyFile, keysFile := filepath.Join(dir, "key.jwk"), filepath.Join(dir, "jwks.json")
	if err := errors.Join(err, os.WriteFile(keyFile, private, 0o600), os.WriteFile(keysFile, public, 0o600)); err != nil {
		t.Fatal(err)
	}
	keys, err := token.LoadKeys(keysFile)
	if err != nil {
		t.Fatal(err)
	}
	if verifier, err = token.NewVerifier(keys, "https://issuer.test", "strongroom"); err != nil {
		t.Fatal(err)
	}
	return []string{
		"MYSQL_DSN=" + dsn, "TOKEN_SIGNING_KEY_FILE=" + keyFile, "TOKEN_ISSUER=https://issuer.test",
		"TOKEN_AUDIENCE=strongroom", "TRUSTED_HOPS=1",
	}, verifier
}

// signIn returns the status and the body of a login from an address.
func signIn(url, from, username, password string) (status int, body map[string]any, header http.Header, err error) {
	request, err := http.NewRequest("POST", url+"/login", strings.NewReader(
		fmt.Sprintf(`{"username":%q,"password":%q}`, username, password)))
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Forwarded-For", "203.0.113.250, "+from) // the left one is the client's own invention
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	err = json.NewDecoder(response.Body).Decode(&body)
	return response.StatusCode, body, response.Header, err
}

func createUser(t *testing.T, dsn, username, secret string) accounts.User {
	t.Helper()
	hash, err := password.NewHasher(1, time.Minute).Hash(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	user, err := openAccounts(t, dsn).Create(t.Context(), username, hash, token.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

// Two replicas of the real login function, and the worst that one address can do to it.
func TestLoginReplicas(t *testing.T) {
	dsn := accountsDB(t)
	ada := createUser(t, dsn, "ada", "lovelace-1843")
	settings, verifier := loginSettings(t, dsn)
	urls := []string{runFunction(t, "login", settings...), runFunction(t, "login", settings...)}

	attempt := func(n int, from, username, secret string) (statuses map[int]int) {
		var mu sync.Mutex
		statuses = map[int]int{}
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				status, body, header, err := signIn(urls[i%2], from, username, secret)
				if err != nil {
					t.Error(err)
				}
				if status == 429 && header.Get("Retry-After") == "" {
					t.Error("429 without Retry-After")
				}
				if status == 200 {
					claims, err := verifier.Verify(body["access_token"].(string))
					if err != nil || claims.Subject != ada.ID {
						t.Errorf("the token says %+v, %v", claims, err)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				statuses[status]++
			})
		}
		wg.Wait()
		return statuses
	}

	if got := attempt(50, "192.0.2.1", "Ada", "lovelace-1843"); got[200] != 50 {
		t.Errorf("50 right logins at once: %v, want 50 of 200", got)
	}
	for _, username := range []string{"ada", "nobody"} {
		began := time.Now()
		got := attempt(50, "192.0.2.1", username, "babbage-1822")
		// The waits after the fifth failure are 1, 2, 4 … s: that many more are let through if this takes so long.
		allowed := 5 + int(math.Log2(time.Since(began).Seconds()+1))
		if got[401] < 5 || got[401] > allowed || got[401]+got[429] != 50 {
			t.Errorf("50 wrong guesses at once for %s: %v, want 5 to %d of 401 and 429 for the others", username, got, allowed)
		}
	}
	if got := attempt(1, "192.0.2.2", "ada", "lovelace-1843"); got[200] != 1 {
		t.Errorf("from elsewhere: %v, want 200", got)
	}
}

func TestLoginWhileTheStoreIsAway(t *testing.T) {
	server := ownMySQL(t)
	admin, dsn := server.newDatabase(t)
	settings, _ := loginSettings(t, dsn)
	url := runFunction(t, "login", settings...)
	wantUnavailable := func(when string) {
		t.Helper()
		status, body, header, err := signIn(url, "192.0.2.1", "ada", "lovelace-1843")
		if err != nil || status != 503 || header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" ||
			body["type"] != "urn:strongroom:problem:unavailable" {
			t.Errorf("%s: %d %v %v, %v; want 503 with Retry-After and a problem document", when, status, header, body, err)
		}
	}
	wantUnavailable("before it is set up")
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	createUser(t, dsn, "ada", "lovelace-1843")
	wantSignIn := func() error {
		status, body, _, err := signIn(url, "192.0.2.1", "ada", "lovelace-1843")
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %v, want 200", status, body)
		}
		return err
	}
	if err := wantSignIn(); err != nil {
		t.Error(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		wantUnavailable("while it is away")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := wantSignIn(); err != nil {
		t.Errorf("back again: %v", err)
	}
}
