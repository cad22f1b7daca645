package accounts_test

import (
	"container/heap"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// attack is an attack on the account "admin" for a day. Each address guesses as fast as it is admitted.
type attack struct {
	addresses int
	// names is the number of accounts that each address guesses at, one after the other. The account "admin" is one of
	// them.
	names int
	// atHome is set if one of the addresses is the known address of the owner.
	atHome bool
	// atMost is the maximum number of guesses on the account, and allAtMost on all accounts together. docs/security.md
	// states these numbers.
	atMost, allAtMost int
}

// attacks are the attacks that docs/security.md describes.
func attacks() map[string]attack {
	return map[string]attack{
		"1 address":                 {addresses: 1, names: 1, atMost: 15, allAtMost: 15},
		"20 addresses":              {addresses: 20, names: 1, atMost: 300, allAtMost: 300},
		"20 addresses and home":     {addresses: 21, names: 1, atHome: true, atMost: 300 + 110, allAtMost: 300 + 110},
		"10,000 addresses":          {addresses: 10_000, names: 1, atMost: 150_000, allAtMost: 150_000},
		"1 address, 1,000 names":    {addresses: 1, names: 1000, atMost: 15, allAtMost: 1500},
		"20 addresses, 1,000 names": {addresses: 20, names: 1000, atMost: 300, allAtMost: 30_000},
	}
}

// visit is a kind of sign-in of the owner during an attack.
type visit struct {
	name    string
	longest time.Duration // how long the owner can have to wait
	address func(n int) netip.Addr
	device  bool
	mistake bool // whether the owner first sends a wrong password
}

func visits(a attack) []visit {
	fresh := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}) }
	all := []visit{
		{"known device", 0, fresh, true, true},
		{"new address", 0, fresh, false, false},
		{"new address after a mistake", 15 * time.Minute, fresh, false, true},
	}
	if !a.atHome {
		all = append(all, visit{"known address", 0, func(int) netip.Addr { return home }, false, true})
	} else {
		all = append(all, visit{"known device at home", 0, func(int) netip.Addr { return home }, true, true})
	}
	return all
}

// guesser is an address of the attacker.
type guesser struct {
	at      time.Time // the time of its next guess
	address netip.Addr
	next    int // the number of the name to guess at
}

// guessers is a heap, ordered by time.
type guessers []*guesser

func (g guessers) Len() int           { return len(g) }
func (g guessers) Less(i, j int) bool { return g[i].at.Before(g[j].at) }
func (g guessers) Swap(i, j int)      { g[i], g[j] = g[j], g[i] }
func (g *guessers) Push(x any)        { *g = append(*g, x.(*guesser)) }
func (g *guessers) Pop() any {
	last := (*g)[len(*g)-1]
	*g = (*g)[:len(*g)-1]
	return last
}

// result is the outcome of an attack.
type result struct {
	guesses, all int // on the account "admin", and on all accounts
	visits       int
	longest      map[string]time.Duration // the longest wait of the owner, by the name of the visit
}

// simulate runs an attack. During the attack, the owner signs in every interval.
func simulate(t testing.TB, store *accounts.Store, owner accounts.User, now *clock, a attack, interval time.Duration) result {
	begin := now.Now()
	got := result{longest: map[string]time.Duration{}}
	device, err := store.DeviceToken(owner, "")
	if err != nil {
		t.Fatal(err)
	}
	// try reports how long the client must wait, or 0 if the attempt was admitted.
	try := func(attempt accounts.Attempt, isRight bool) time.Duration {
		compare := wrong
		if isRight {
			compare = right
		}
		_, err := store.Attempt(t.Context(), attempt, compare)
		switch {
		case errors.Is(err, problem.TooManyAttempts):
			seconds, err := strconv.Atoi(retryAfter(err))
			if err != nil {
				t.Fatal(err)
			}
			return time.Duration(seconds) * time.Second
		case isRight != (err == nil) || err != nil && !errors.Is(err, accounts.ErrBadCredentials):
			t.Fatalf("attempt %+v: got error %v", attempt, err)
		}
		return 0
	}
	try(accounts.Attempt{Username: owner.Username, Address: home}, true)
	var queue guessers
	for n := range a.addresses {
		address := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		if a.atHome && n == 0 {
			address = home
		}
		heap.Push(&queue, &guesser{begin, address, n})
	}
	kinds := visits(a)
	for end, visit := begin.Add(24*time.Hour), begin.Add(interval); ; {
		next := queue[0]
		if !next.at.Before(end) {
			return got
		}
		if next.at.After(visit) {
			now.add(visit.Sub(now.Now()))
			kind := kinds[got.visits%len(kinds)]
			attempt := accounts.Attempt{Username: owner.Username, Address: kind.address(got.visits)}
			if kind.device {
				attempt.Device = device
			}
			if kind.mistake && try(attempt, false) != 0 {
				t.Fatalf("%s: the first attempt of the owner was refused", kind.name)
			}
			// The attackers do not guess while the owner waits, so the wait ends the visit.
			wait := time.Duration(0)
			for d := try(attempt, true); d != 0; d = try(attempt, true) {
				wait += d
				now.add(d)
			}
			got.longest[kind.name] = max(got.longest[kind.name], wait)
			got.visits++
			visit = visit.Add(interval)
			continue
		}
		if next.at.After(now.Now()) {
			now.add(next.at.Sub(now.Now()))
		}
		name := owner.Username
		if n := next.next % a.names; n != 0 {
			name = fmt.Sprint("name-", n)
		}
		next.next++
		if wait := try(accounts.Attempt{Username: name, Address: next.address}, false); wait != 0 {
			next.at = now.Now().Add(wait)
		} else {
			got.all++
			if name == owner.Username {
				got.guesses++
			}
		}
		heap.Fix(&queue, 0)
	}
}

// check checks the outcome of an attack.
func (got result) check(t testing.TB, a attack) {
	t.Helper()
	if got.guesses > a.atMost || got.guesses == 0 || got.all > a.allAtMost {
		t.Errorf("got %d guesses on the account and %d on all accounts, want at most %d and %d", got.guesses, got.all, a.atMost, a.allAtMost)
	}
	for _, kind := range visits(a) {
		if longest, visited := got.longest[kind.name]; !visited || longest > kind.longest {
			t.Errorf("%s: the longest wait of the owner is %v (visited: %t), want at most %v", kind.name, longest, visited, kind.longest)
		}
	}
}

// TestAttacks simulates attacks of one day with counters in memory. The owner of the account signs in every 10 minutes,
// or every 3 hours in the large attack, so that the test takes only a few seconds.
func TestAttacks(t *testing.T) {
	for name, a := range attacks() {
		t.Run(name, func(t *testing.T) {
			now := newClock()
			store := accounts.OpenInMemory(now.Now, "admin")
			interval := 10 * time.Minute
			if a.addresses > 1000 {
				interval = 3 * time.Hour
			}
			simulate(t, store, store.ByNameInMemory("admin"), now, a, interval).check(t, a)
		})
	}
}

// TestAttackOnDatabase simulates an attack with the counters in a database. The outcome is the same as with counters in
// memory.
func TestAttackOnDatabase(t *testing.T) {
	a := attacks()["20 addresses"]
	now := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	got := simulate(t, store, servertest.CreateAccount(t, store, "admin", "admin"), now, a, time.Hour)
	got.check(t, a)
	now = newClock()
	memory := accounts.OpenInMemory(now.Now, "admin")
	want := simulate(t, memory, memory.ByNameInMemory("admin"), now, a, time.Hour)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// BenchmarkAttacks prints the figures of each attack, without sign-ins of the owner in between, and with a sign-in
// every 10 minutes. Each sign-in empties the strangers bucket.
func BenchmarkAttacks(b *testing.B) {
	for name, a := range attacks() {
		for visits, interval := range map[string]time.Duration{"no sign-ins": 48 * time.Hour, "sign-ins": 10 * time.Minute} {
			b.Run(name+", "+visits, func(b *testing.B) {
				var got result
				for b.Loop() {
					now := newClock()
					store := accounts.OpenInMemory(now.Now, "admin")
					got = simulate(b, store, store.ByNameInMemory("admin"), now, a, interval)
				}
				var longest time.Duration
				for _, wait := range got.longest {
					longest = max(longest, wait)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(got.guesses), "guesses")
				b.ReportMetric(float64(got.all), "guesses-on-all")
				b.ReportMetric(float64(got.visits), "sign-ins")
				b.ReportMetric(longest.Minutes(), "longest-wait-min")
			})
		}
	}
}
