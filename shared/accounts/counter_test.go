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
		if got := test.c.judge(start, knownRule()); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// TestCounterFailures checks the delay after each of 30 failures.
func TestCounterFailures(t *testing.T) {
	for name, test := range map[string]struct {
		rule rule
		want []time.Duration // the delays after the first failures; each further delay is twice as long
	}{
		"known":    {knownRule(), []time.Duration{0, 0, 0, 0, time.Second}},
		"stranger": {strangerRule(), []time.Duration{0, 0, 0, 0, time.Minute}},
		"scarce":   {scarceRule(), []time.Duration{15 * time.Minute}},
	} {
		var c counter
		now := start
		var want time.Duration
		for n := range 30 {
			c = c.at(now)
			if got := c.judge(now, test.rule); got != admitted {
				t.Fatalf("%s: attempt %d at %v: got %v, want admitted; the counter is %+v", name, n, now, got, c)
			}
			c = c.reserve(now).fail(now, test.rule)
			want = min(2*want, test.rule.longest)
			if n < len(test.want) {
				want = test.want[n]
			}
			if got := max(0, c.blockedUntil.Sub(now)); got != want {
				t.Fatalf("%s: failure %d: got delay %v, want %v", name, n+1, got, want)
			}
			now = now.Add(want)
		}
	}
}

func TestCounterAge(t *testing.T) {
	c := counter{failures: 3, pending: 2, touchedAt: start, version: 7}
	for _, test := range []struct {
		age  time.Duration
		want counter
	}{
		{age: staleAfter, want: c},
		{age: staleAfter + time.Microsecond, want: counter{failures: 5, touchedAt: start, version: 7}}, // as after a crash
		{age: forgetAfter + time.Microsecond, want: counter{touchedAt: start, version: 7}},
	} {
		if got := c.at(start.Add(test.age)); got != test.want {
			t.Errorf("after %v: got %+v, want %+v", test.age, got, test.want)
		}
	}
}
