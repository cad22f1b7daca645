package accounts

import (
	"context"
	"net/netip"
	"time"

	"github.com/google/uuid"
)

// OpenInMemory returns a Store whose counters are in memory, and whose only users have the given names. Only Attempt
// and DeviceToken work.
func OpenInMemory(clock func() time.Time, names ...string) *Store {
	memory := &memoryCounters{users: map[string]User{}, counters: map[counterKey]counter{}}
	for _, name := range names {
		memory.users[name] = User{ID: uuid.NewString(), Username: name}
	}
	s := &Store{now: clock, random: func(int) int { return 1 }}
	s.lockout = &lockout{counters: memory, now: clock, gate: newGate(1), locked: func(context.Context, User, netip.Addr) {}}
	return s
}

// ByNameInMemory returns a user of a Store from OpenInMemory.
func (s *Store) ByNameInMemory(name string) User {
	return s.lockout.counters.(*memoryCounters).users[name]
}

// memoryCounters implements counters. It is not safe for concurrent use.
type memoryCounters struct {
	users    map[string]User
	counters map[counterKey]counter
}

func (m *memoryCounters) load(_ context.Context, username string, k attemptKeys) (found, error) {
	f := found{user: m.users[username], pair: m.counters[k.pair], strangers: m.counters[k.strangers], sprayed: m.counters[k.sprayed]}
	if f.user.ID != "" {
		f.device, f.address = m.counters[k.deviceOf(f.user)], m.counters[k.addressOf(f.user)]
	}
	return f, nil
}

func (m *memoryCounters) save(_ context.Context, changes []change) error {
	for _, c := range changes {
		old := m.counters[c.key]
		switch {
		case c.version == 0:
			filled := old.blockedUntil.Add(c.blockedUntil.Sub(c.touchedAt))
			c.blockedUntil = later(later(filled, c.blockedUntil), c.touchedAt)
		case c.version != old.version+1:
			return errChanged
		}
		c.expiresAt = later(c.expiresAt, old.expiresAt)
		m.counters[c.key] = c.counter
	}
	return nil
}

// Query returns the query of Audit for the first page.
func (f AuditFilter) Query(limit int) (statement string, args []any, err error) {
	return f.query(uuid.Max, limit)
}

// NeverPurge makes the number of statements of a sign-in predictable.
func (s *Store) NeverPurge() { s.random = func(int) int { return 1 } }
