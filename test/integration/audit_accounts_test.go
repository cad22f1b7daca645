//go:build audit

package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// sprayed is how many user names spray guesses at.
const sprayed = 100

// startLogin runs login on a new database. It returns the URL of login, the file with its log, and the DSN of the database.
func startLogin(t *testing.T) (url, log, dsn string) {
	t.Helper()
	dsn = servertest.AccountsDSN(t)
	settings, _ := loginSettings(t, dsn)
	url, log = runLogged(t, "login", append(settings, "METRICS_ADDR=127.0.0.1:0")...)
	return url, log, dsn
}

// spray guesses a password of many made-up user names from one address, and returns how many guesses get a 429.
func spray(t *testing.T, url, prefix string) (refused int) {
	t.Helper()
	for n := range sprayed {
		status, _, _, err := signIn(url, "198.51.100.7", fmt.Sprint(prefix, n), "babbage-1822")
		if err != nil {
			t.Fatal(err)
		}
		if status == http.StatusTooManyRequests {
			refused++
		}
	}
	return refused
}

// TestAuditSpray checks security S4: login refuses an address that guesses at many user names.
func TestAuditSpray(t *testing.T) {
	url, _, _ := startLogin(t)
	if refused := spray(t, url, "user"); refused == 0 {
		t.Errorf("got none of %d guesses refused with 429, want some", sprayed)
	}
}

// TestAuditSprayHashes checks security S4: login does not compute a hash for each guess of one address, because other users then wait for the processor.
func TestAuditSprayHashes(t *testing.T) {
	url, log, _ := startLogin(t)
	spray(t, url, "user")
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
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^strongroom_password_hash_wait_seconds_count.* (\d+)$`).FindSubmatch(metrics)
	if found == nil {
		t.Fatalf("got no number of hashes in the metrics:\n%s", metrics)
	}
	if hashes, err := strconv.Atoi(string(found[1])); err != nil || hashes >= sprayed {
		t.Errorf("got %d hashes for %d guesses and error %v, want fewer", hashes, sprayed, err)
	}
}

// TestAuditSprayRows checks security S4: guesses at made-up user names do not add a row to the database each.
func TestAuditSprayRows(t *testing.T) {
	url, _, dsn := startLogin(t)
	spray(t, url, "user")
	before := servertest.CountRows(t, dsn, "login_attempts")
	spray(t, url, "another")
	if added := servertest.CountRows(t, dsn, "login_attempts") - before; added >= sprayed {
		t.Errorf("got %d rows more after %d guesses, want fewer rows than guesses", added, sprayed)
	}
}
