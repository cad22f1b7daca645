package accounts

import (
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestCounterJudge(t *testing.T) {
	soon, past := start.Add(time.Second), start.Add(-time.Second)
	for _, test := range []struct {
		name string
		c    counter
		want verdict
	}{
		{name: "no attempts", c: counter{}, want: admitted},
		{name: "one below the limit", c: counter{failures: 2, pending: 2}, want: admitted},
		{name: "pending at the limit", c: counter{pending: 5}, want: waiting},
		{name: "failed and pending at the limit", c: counter{failures: 3, pending: 2}, want: waiting},
		{name: "failed at the limit", c: counter{failures: 5, blockedUntil: soon}, want: blocked},
		{name: "blocked with one pending", c: counter{failures: 5, pending: 1, blockedUntil: soon}, want: blocked},
		{name: "block is over", c: counter{failures: 5, blockedUntil: past}, want: admitted},
		{name: "block ends now", c: counter{failures: 5, blockedUntil: start}, want: admitted},
		{name: "block is over, one pending", c: counter{failures: 5, pending: 1, blockedUntil: past}, want: waiting},
	} {
		if got := test.c.judge(start, 5); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestCounterFailures(t *testing.T) {
	var c counter
	now := start
	for n := 1; n <= 20; n++ {
		c = c.at(now)
		if got := c.judge(now, 5); got != admitted {
			t.Fatalf("attempt %d at %v: got %v, want admitted; the counter is %+v", n, now, got, c)
		}
		c = c.reserve(now).fail(now, 5)
		want := start
		switch {
		case n >= 15:
			want = now.Add(15 * time.Minute)
		case n >= 5:
			want = now.Add(time.Second << (n - 5))
		}
		if n >= 5 && !c.blockedUntil.Equal(want) || n < 5 && !c.blockedUntil.IsZero() {
			t.Fatalf("after failure %d: blocked for %v, want %v", n, c.blockedUntil.Sub(now), want.Sub(now))
		}
		if n >= 5 {
			now = c.blockedUntil
		}
	}
}

func TestCounterSuccess(t *testing.T) {
	one := counter{failures: 4, pending: 2}.succeed(4, addressLimit)
	if want := (counter{pending: 1}); one != want {
		t.Errorf("one address: got %+v, want %+v", one, want)
	}
	// The counter for all addresses keeps the failures from other addresses.
	all := counter{failures: 103, pending: 3, blockedUntil: start}.succeed(4, userLimit)
	if want := (counter{failures: 99, pending: 2}); all != want {
		t.Errorf("all addresses, below the limit: got %+v, want %+v", all, want)
	}
	all = counter{failures: 120, pending: 1, blockedUntil: start}.succeed(4, userLimit)
	if want := (counter{failures: 116, blockedUntil: start}); all != want {
		t.Errorf("all addresses, above the limit: got %+v, want %+v", all, want)
	}
}

func TestCounterAge(t *testing.T) {
	c := counter{failures: 3, pending: 2, touchedAt: start}
	for _, test := range []struct {
		age  time.Duration
		want counter
	}{
		{age: staleAfter, want: c},
		{age: staleAfter + time.Microsecond, want: counter{failures: 5, touchedAt: start}}, // as after a crash before the attempts were settled
		{age: forgetAfter + time.Microsecond, want: counter{touchedAt: start.Add(forgetAfter + time.Microsecond)}},
	} {
		if got := c.at(start.Add(test.age)); got != test.want {
			t.Errorf("after %v: got %+v, want %+v", test.age, got, test.want)
		}
	}
}
