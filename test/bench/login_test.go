package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	burst       = 200       // concurrent logins of one burst
	memoryLimit = 256 << 20 // memory limit of the function in bytes, as in its manifest
	memoryGoal  = 128 << 20 // maximum peak memory of the function, in bytes
	users       = 20
	rightSecret = "lovelace-1843"
	lockedName  = "user-0" // a user who is locked out from the address lockedFrom
	lockedFrom  = "198.51.100.1"
)

// BenchmarkLogin sends bursts of 200 concurrent logins to the real login function, which has one core (GOMAXPROCS=1),
// 256 MiB and a MariaDB server. A burst contains correct and wrong passwords, and attempts on a user who is locked out.
// All other logins come from different addresses, so that the lockout does not limit them.
//
// BenchmarkLogin prints the number of responses by status, and the peak memory. It also prints the logins per second
// (without 429 and 503 responses), the hashes per second of one core between the bursts, and the ratio of these rates.
// Finally, it prints the CPU times of a login and of a hash, whose ratio is more meaningful on a busy machine.
func BenchmarkLogin(b *testing.B) {
	dsn := accountsDB(b)
	seedUsers(b, dsn)
	dir := b.TempDir()
	login := startLimited(b, memoryLimit, build(b, dir, "login"),
		append(settings(b, dir), "MYSQL_DSN="+dsn, "TRUSTED_HOPS=1", "GOMAXPROCS=1"))
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: burst}}
	sum := map[int]int{}
	var took time.Duration
	var alone float64
	var effort time.Duration
	rounds, before := 0, login.cpu(b)
	for b.Loop() {
		rate, cpu := hashesPerSecond(b)
		began := time.Now()
		for _, status := range sendBurst(b, client, login.url, rounds) {
			sum[status]++
		}
		took += time.Since(began)
		again, more := hashesPerSecond(b)
		alone += (rate + again) / 2
		effort += (cpu + more) / 2
		rounds++
	}
	alone /= float64(rounds)
	used, peak := login.cpu(b)-before, login.peak(b)
	done := float64(sum[200] + sum[401]) // a 429 needs no hash
	b.ReportMetric(0, "ns/op")
	for _, status := range []int{200, 401, 429, 503} {
		b.ReportMetric(float64(sum[status])/float64(rounds), fmt.Sprintf("×%d", status))
		delete(sum, status)
	}
	b.ReportMetric(done/took.Seconds(), "logins/s")
	b.ReportMetric(alone, "hashes/s")
	b.ReportMetric(done/took.Seconds()/alone, "logins/hash")
	b.ReportMetric(float64(used.Microseconds())/1000/done, "cpu-ms/login")
	b.ReportMetric(float64(effort.Microseconds())/1000/float64(rounds), "cpu-ms/hash")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	b.Logf("the memory limit of 256 MiB is set with %s", login.limit)
	if len(sum) > 0 {
		b.Errorf("got the responses %v by status, want only 200, 401, 429 and 503", sum)
	}
	if peak > memoryGoal {
		b.Errorf("peak memory: got %d MiB, want at most %d MiB", peak>>20, memoryGoal>>20)
	}
}

// accountsDB starts a MariaDB server with a provisioned database and returns the DSN of the runtime user.
func accountsDB(b *testing.B) string {
	dir, err := os.MkdirTemp("", "strongroom-bench-") // short, because the length of a socket path is limited
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	server, err := store.StartMySQL(b.Context(), dir, io.Discard)
	if errors.Is(err, store.ErrNotInstalled) {
		b.Skipf("SKIPPED: mariadb-server is not installed: %v", err)
	} else if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
	cfg, err := mysql.ParseDSN(server.AdminDSN)
	if err != nil {
		b.Fatal(err)
	}
	cfg.User, cfg.Passwd = "login", "a runtime password"
	if err := accounts.Provision(b.Context(), server.AdminDSN, cfg.FormatDSN()); err != nil {
		b.Fatal(err)
	}
	return cfg.FormatDSN()
}

// seedUsers creates the users and locks out the user lockedName from the address lockedFrom for 15 minutes.
func seedUsers(b *testing.B, dsn string) {
	const longest = 15 * time.Minute // the maximum delay after failures from a known address
	const failures = 16
	now := time.Now().Add(-failures * longest)
	db, err := accounts.Open(dsn, func() time.Time { return now })
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	hash, err := password.NewHasher(1, time.Minute).Hash(b.Context(), rightSecret)
	if err != nil {
		b.Fatal(err)
	}
	for i := range users {
		if _, err := db.Create(b.Context(), accounts.Setup, accounts.NewUser{Username: fmt.Sprintf("user-%d", i), PasswordHash: hash, Role: token.RoleUser}); err != nil {
			b.Fatal(err)
		}
	}
	attempt := func(right bool) error {
		_, err := db.Attempt(b.Context(), accounts.Attempt{Username: lockedName, Address: netip.MustParseAddr(lockedFrom)},
			func(context.Context, accounts.User) (bool, error) { return right, nil })
		return err
	}
	if err := attempt(true); err != nil { // longest is the maximum delay only for a known address
		b.Fatal(err)
	}
	for range failures {
		now = now.Add(longest)
		if err := attempt(false); !errors.Is(err, accounts.ErrBadCredentials) {
			b.Fatal(err)
		}
	}
}

// hashesPerSecond measures the hashes per second of one core, and the CPU time of one hash.
func hashesPerSecond(b *testing.B) (rate float64, cpu time.Duration) {
	const n = 20
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	hasher := password.NewHasher(1, time.Minute)
	began, before := time.Now(), ownCPU(b)
	for range n {
		if _, _, err := hasher.Verify(b.Context(), password.Dummy, rightSecret); err != nil {
			b.Fatal(err)
		}
	}
	return n / time.Since(began).Seconds(), (ownCPU(b) - before) / n
}

// sendBurst sends a burst of concurrent logins and returns their statuses.
func sendBurst(b *testing.B, client *http.Client, url string, round int) []int {
	statuses := make([]int, burst)
	var wg sync.WaitGroup
	for i := range burst {
		name, secret := fmt.Sprintf("user-%d", i%users), rightSecret
		from := netip.AddrFrom4([4]byte{10, byte(round >> 8), byte(round), byte(i)}).String()
		switch i % 10 {
		case 6, 7:
			secret = "babbage-1791"
		case 8:
			name = fmt.Sprintf("nobody-%d", i)
		case 9:
			name, from = lockedName, lockedFrom
		}
		wg.Go(func() {
			status, err := signIn(b.Context(), client, url, from, name, secret)
			if err != nil {
				b.Errorf("login %d: %v", i, err)
			}
			statuses[i] = status
		})
	}
	wg.Wait()
	return statuses
}

// signIn sends a login request with from as the client address, and returns the status.
func signIn(ctx context.Context, client *http.Client, url, from, username, secret string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, "POST", url+"/login",
		strings.NewReader(`{"username":`+strconv.Quote(username)+`,"password":`+strconv.Quote(secret)+`}`))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Forwarded-For", from)
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, errors.Join(err, response.Body.Close())
}
