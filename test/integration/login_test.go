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
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// loginSettings writes a signing key. It returns the settings of a login function behind one proxy, and a verifier for
// the tokens of the function.
func loginSettings(t *testing.T, dsn string) (settings []string, verifier *token.Verifier) {
	t.Helper()
	private, public, err := token.GenerateKey()
	dir := t.TempDir()
	keyFile, keysFile, signInKey := filepath.Join(dir, "key.jwk"), filepath.Join(dir, "jwks.json"), filepath.Join(dir, "sign-in-key")
	if err := errors.Join(err, os.WriteFile(keyFile, private, 0o600), os.WriteFile(keysFile, public, 0o600),
		os.WriteFile(signInKey, []byte(strings.Repeat("k", 32)), 0o600)); err != nil {
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
		"TOKEN_AUDIENCE=strongroom", "TRUSTED_HOPS=1", "SIGN_IN_KEY_FILE=" + signInKey,
	}, verifier
}

// signIn signs in at the login function at url, with from as the client address, and returns the response. headers
// contains alternating names and values of further headers.
func signIn(url, from, username, password string, headers ...string) (status int, body map[string]any, header http.Header, err error) {
	request, err := http.NewRequest("POST", url+"/login", strings.NewReader(
		fmt.Sprintf(`{"username":%q,"password":%q}`, username, password)))
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Forwarded-For", "203.0.113.250, "+from) // the trusted proxy added only the last address
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	err = json.NewDecoder(response.Body).Decode(&body)
	return response.StatusCode, body, response.Header, err
}

// createUser creates a user with the role user and the password secret.
func createUser(t *testing.T, dsn, username, secret string) accounts.User {
	t.Helper()
	hash, err := password.NewHasher(1, time.Minute).Hash(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	user, err := servertest.OpenAccounts(t, dsn).Create(t.Context(), accounts.Setup, accounts.NewUser{Username: username, PasswordHash: hash, Role: token.RoleUser})
	if err != nil {
		t.Fatal(err)
	}
	return user
}

// TestLoginReplicas proves the limits of login with 50 parallel requests from one address to two replicas. Correct
// passwords all succeed. Wrong passwords are refused with 429 after 5 failures, for known and unknown users alike.
// Other addresses can sign in.
func TestLoginReplicas(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
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
					t.Error("got 429 without Retry-After")
				}
				if status == 200 {
					claims, err := verifier.Verify(body["access_token"].(string))
					if err != nil || claims.Subject != ada.ID {
						t.Errorf("verify the access token: got %+v, %v, want the subject %s", claims, err, ada.ID)
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
		t.Errorf("50 parallel correct logins: got the statuses %v, want 200 for all", got)
	}
	for _, username := range []string{"ada", "nobody"} {
		began := time.Now()
		got := attempt(50, "192.0.2.1", username, "babbage-1822")
		// At a known address, the delays after the fifth failure are 1 s, 2 s, 4 s and so on. A guess is admitted for
		// each delay that has passed since then, so a slow run can admit a few more guesses.
		allowed := 5 + int(math.Log2(time.Since(began).Seconds()+1))
		if got[401] < 5 || got[401] > allowed || got[401]+got[429] != 50 {
			t.Errorf("50 parallel wrong guesses for %s: got the statuses %v, want 401 for 5 to %d guesses and 429 for the others",
				username, got, allowed)
		}
	}
	if got := attempt(1, "192.0.2.2", "ada", "lovelace-1843"); got[200] != 1 {
		t.Errorf("login from another address: got the statuses %v, want 200", got)
	}
}

// TestLoginWhileTheStoreIsUnavailable proves that login responds with 503 while MySQL is down or has no tables, and
// works again without a restart.
func TestLoginWhileTheStoreIsUnavailable(t *testing.T) {
	server := servertest.OwnMySQL(t)
	admin, dsn := server.NewDatabase(t)
	settings, _ := loginSettings(t, dsn)
	url := runFunction(t, "login", settings...)
	wantUnavailable := func(when string) {
		t.Helper()
		status, body, header, err := signIn(url, "192.0.2.1", "ada", "lovelace-1843")
		if err != nil || status != 503 || header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" ||
			body["type"] != "urn:strongroom:problem:unavailable" {
			t.Errorf("%s: got %d %v %v, %v, want 503 with Retry-After and a problem document", when, status, header, body, err)
		}
	}
	wantUnavailable("before setup")
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	createUser(t, dsn, "ada", "lovelace-1843")
	wantSignIn := func() error {
		status, body, _, err := signIn(url, "192.0.2.1", "ada", "lovelace-1843")
		if err == nil && status != 200 {
			err = fmt.Errorf("got %d %v, want 200", status, body)
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
		wantUnavailable("while MySQL is down")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := wantSignIn(); err != nil {
		t.Errorf("sign in after the restart: %v", err)
	}
}
