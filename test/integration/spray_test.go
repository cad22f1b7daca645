package integration

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// hashesOf returns the number of passwords that a function has hashed, from the metrics at the address in its log.
func hashesOf(t *testing.T, log string) int {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`"serving metrics","address":"([^"]*)"`).FindSubmatch(text)
	if address == nil {
		t.Fatalf("got no address of the metrics in the log:\n%s", text)
	}
	response, err := http.Get("http://" + string(address[1]) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^strongroom_password_hash_wait_seconds_count.* (\d+)$`).FindSubmatch(metrics)
	if found == nil {
		t.Fatalf("got no number of hashes in the metrics:\n%s", metrics)
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// postToken sends a refresh token from an address and returns the status of the response.
func postToken(t *testing.T, url, from, token string) int {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, url, strings.NewReader("refresh_token="+token))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("X-Forwarded-For", from)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// TestSprayedUserNames proves that login refuses an address that guesses at many user names, before it computes a hash,
// and without a new row in the database. A user who is known at the address, and users at other addresses, can sign in.
func TestSprayedUserNames(t *testing.T) {
	const office, elsewhere, guesses = "198.51.100.7", "198.51.100.8", 100
	dsn := servertest.AccountsDSN(t)
	settings, _ := loginSettings(t, dsn)
	url, log := runLogged(t, "login", append(settings, "METRICS_ADDR=127.0.0.1:0")...)
	createUser(t, dsn, "ada", "lovelace-1843")
	createUser(t, dsn, "grace", "murray-hopper-1906")
	attempt := func(from, username, secret string) int {
		t.Helper()
		status, _, header, err := signIn(url, from, username, secret)
		if err != nil {
			t.Fatal(err)
		}
		if retry := header.Get("Retry-After"); (status == http.StatusTooManyRequests) != (retry != "") {
			t.Errorf("%s from %s: got status %d and Retry-After %q", username, from, status, retry)
		}
		return status
	}
	if got := attempt(office, "ada", "lovelace-1843"); got != http.StatusOK {
		t.Fatalf("first sign-in: got status %d, want 200", got)
	}
	statuses := map[int]int{}
	for n := range guesses {
		statuses[attempt(office, fmt.Sprint("user-", n), "babbage-1822")]++
	}
	// One more attempt per minute is admitted.
	if refused := statuses[http.StatusTooManyRequests]; refused < guesses-65 || refused+statuses[http.StatusUnauthorized] != guesses {
		t.Errorf("got the statuses %v for %d guesses, want 401 for about 60 and 429 for the others", statuses, guesses)
	}
	hashes, rows := hashesOf(t, log), servertest.CountRows(t, dsn, "attempt_counters")
	if want := 1 + statuses[http.StatusUnauthorized]; hashes != want {
		t.Errorf("got %d hashes, want %d, one for each response that is not 429", hashes, want)
	}
	for n := range guesses {
		attempt(office, fmt.Sprint("another-", n), "babbage-1822")
	}
	if got := servertest.CountRows(t, dsn, "attempt_counters"); got > rows+10 {
		t.Errorf("got %d more rows after %d refused guesses, want almost none", got-rows, guesses)
	}
	// The tokens of ended sessions get the same responses at an address that has reached its limit, and do not count at
	// another address.
	for _, from := range []string{office, elsewhere} {
		for range guesses {
			session := make([]byte, 48) // the size of a refresh token
			_, _ = rand.Read(session)
			for path, want := range map[string]int{"/refresh": http.StatusUnauthorized, "/logout": http.StatusNoContent} {
				if got := postToken(t, url+path, from, base64.RawURLEncoding.EncodeToString(session)); got != want {
					t.Fatalf("%s from %s: got status %d, want %d", path, from, got, want)
				}
			}
		}
	}
	for name, test := range map[string]struct {
		from, username, secret string
		want                   int
	}{
		"known user":      {office, "ada", "lovelace-1843", http.StatusOK},
		"another address": {elsewhere, "grace", "murray-hopper-1906", http.StatusOK},
	} {
		if got := attempt(test.from, test.username, test.secret); got != test.want {
			t.Errorf("%s: got status %d, want %d", name, got, test.want)
		}
	}
}

// TestDeviceTokenOfASignIn proves that the device token in the response to a sign-in keeps the user able to sign in,
// from an address that strangers have used up.
func TestDeviceTokenOfASignIn(t *testing.T) {
	const home, cafe = "192.0.2.1", "198.51.100.9"
	dsn := servertest.AccountsDSN(t)
	m := newManager(t, dsn)
	createUser(t, dsn, "ada", "lovelace-1843")
	_, body, _, err := signIn(m.login, home, "ada", "lovelace-1843")
	if err != nil {
		t.Fatal(err)
	}
	device, _ := body["device_token"].(string)
	for range 10 {
		if _, _, _, err := signIn(m.login, cafe, "ada", "babbage-1822"); err != nil {
			t.Fatal(err)
		}
	}
	for header, want := range map[string]int{"": http.StatusTooManyRequests, device: http.StatusOK} {
		status, _, _, err := signIn(m.login, cafe, "ada", "lovelace-1843", "X-Device-Token", header)
		if err != nil || status != want {
			t.Errorf("device token %q: got status %d and error %v, want %d", header, status, err, want)
		}
	}
}
