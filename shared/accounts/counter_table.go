package accounts

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"
)

// counterKey is the primary key of a counter.
type counterKey struct {
	subject uuid.UUID // the ID of a user, or a number from subjectOf
	client  string    // an address key, a device, or empty for a bucket of all clients
}

// The kinds of subjects that are not user IDs.
const (
	subjectPair byte = iota + 1
	subjectStrangers
	subjectSprayed
)

const (
	// pairSlots is the number of counters that an address has for all user names. Two user names share a counter with a
	// probability of 1/256.
	pairSlots = 1 << 8
	// strangerSlots is the number of strangers buckets for all user names.
	strangerSlots = 1 << 16
)

// subjectOf returns the subject for a number of the given kind. It is never a user ID, because its version is not 7.
func subjectOf(kind byte, number uint32) (subject uuid.UUID) {
	subject[0] = kind
	binary.BigEndian.PutUint32(subject[len(subject)-4:], number)
	return subject
}

// attemptKeys contains the keys of the counters for an attempt.
type attemptKeys struct {
	pair, strangers, sprayed counterKey
	address                  string // the client in the counter of a known address
	device                   string // the client in the counter of a device, or empty if the device token is invalid
	deviceUser               string // the ID of the user in the device token
}

// keysOf returns the keys of the counters for an attempt with a user name. The counters of unknown addresses do not
// depend on whether a user has the name. Otherwise, an attacker could find out which names exist. Names share a limited
// number of counters, so that attempts with many names do not fill the database. The key of the hash is secret, so that
// an attacker cannot find two names with the same counters. The subject has only a few bits of the hash, which do not
// reveal a password that a user has typed into the field of the user name.
func (l *lockout) keysOf(username string, a Attempt) attemptKeys {
	hash := l.sum("user name\n" + username)
	address := addressKey(a.Address)
	k := attemptKeys{
		pair:      counterKey{subjectOf(subjectPair, binary.BigEndian.Uint32(hash)%pairSlots), address},
		strangers: counterKey{subjectOf(subjectStrangers, binary.BigEndian.Uint32(hash[4:])%strangerSlots), ""},
		sprayed:   counterKey{subjectOf(subjectSprayed, 0), address},
		address:   address,
	}
	k.deviceUser, k.device = l.parseDevice(a.Device)
	return k
}

// gate returns the key for limiting concurrent attempts in this process.
func (k attemptKeys) gate() string {
	return string(k.pair.subject[:]) + string(k.strangers.subject[:]) + k.address + k.deviceUser + k.device
}

func (k attemptKeys) deviceOf(u User) counterKey { return counterKey{uuid.MustParse(u.ID), k.device} }

func (k attemptKeys) addressOf(u User) counterKey { return counterKey{uuid.MustParse(u.ID), k.address} }

// addressKey returns the client for a client address. For an IPv6 address, the client is the /64 prefix, because a
// client can usually use all addresses in its prefix.
func addressKey(address netip.Addr) string {
	address = address.Unmap().WithZone("")
	if address.Is6() {
		return netip.PrefixFrom(address, 64).Masked().String()
	}
	return address.String()
}

// counterTable stores counters in the table attempt_counters.
type counterTable struct{ store *Store }

// loadQuery returns the query for the five counters for an attempt, and for the user with a name. It selects exactly
// one row, so that an attempt has the same number of round trips whether or not the user exists.
func loadQuery() string {
	var columns []string
	for _, table := range "abcde" {
		for _, column := range []string{"failures", "pending", "blocked_until", "touched_at", "expires_at", "version"} {
			columns = append(columns, "COALESCE("+string(table)+"."+column+", 0)")
		}
	}
	return `SELECT ` + strings.Join(columns, ", ") + `, ` + userColumns + ` FROM (SELECT 1 AS one) AS one
		LEFT JOIN users ON users.username = ?
		LEFT JOIN attempt_counters a ON a.subject = users.id AND a.client = ?
		LEFT JOIN attempt_counters b ON b.subject = users.id AND b.client = ?
		LEFT JOIN attempt_counters c ON c.subject = ? AND c.client = ?
		LEFT JOIN attempt_counters d ON d.subject = ? AND d.client = ?
		LEFT JOIN attempt_counters e ON e.subject = ? AND e.client = ?`
}

func (t counterTable) load(ctx context.Context, username string, k attemptKeys) (f found, err error) {
	err = t.store.read(ctx, func(ctx context.Context) error {
		rows, err := t.store.db.QueryContext(ctx, loadQuery(), username, k.device, k.address, k.pair.subject[:], k.pair.client,
			k.strangers.subject[:], k.strangers.client, k.sprayed.subject[:], k.sprayed.client)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // rows.Err returns read errors
		if !rows.Next() {
			return errors.Join(rows.Err(), sql.ErrNoRows)
		}
		f, err = scanFound(rows)
		return errors.Join(err, rows.Err())
	})
	return f, err
}

// scanFound scans the row of loadQuery.
func scanFound(rows *sql.Rows) (f found, err error) {
	columns, err := rows.Columns()
	if err != nil {
		return found{}, err
	}
	into := []*counter{&f.device, &f.address, &f.pair, &f.strangers, &f.sprayed}
	times := make([][3]int64, len(into))
	var targets []any
	for i, c := range into {
		targets = append(targets, &c.failures, &c.pending, &times[i][0], &times[i][1], &times[i][2], &c.version)
	}
	user := make([]any, len(columns)-len(targets))
	all := slices.Clone(targets)
	for i := range user {
		all = append(all, &user[i])
	}
	if err := rows.Scan(all...); err != nil {
		return found{}, err
	}
	for i, c := range into {
		c.blockedUntil, c.touchedAt, c.expiresAt = time.UnixMicro(times[i][0]).UTC(), time.UnixMicro(times[i][1]).UTC(), time.UnixMicro(times[i][2]).UTC()
	}
	if user[0] == nil {
		return f, nil
	}
	f.user, err = scanUser(after{rows, targets}) // scans the same row again
	return f, err
}

// after is a scanner that scans the columns after the given ones.
type after struct {
	scanner
	before []any
}

func (a after) Scan(dest ...any) error { return a.scanner.Scan(slices.Concat(a.before, dest)...) }

// save stores counters with one statement, which MySQL executes completely or not at all. The statement does not need a
// transaction, which would add round trips and hold locks between them. Assigning -1 to the column version is an error.
func (t counterTable) save(ctx context.Context, changes []change) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Lock the rows in the order of the primary key, which prevents deadlocks.
	slices.SortFunc(changes, func(a, b change) int {
		return strings.Compare(string(a.key.subject[:])+a.key.client, string(b.key.subject[:])+b.key.client)
	})
	var values []any
	for _, c := range changes {
		values = append(values, c.key.subject[:], c.key.client, c.failures, c.pending, micros(c.blockedUntil), micros(c.touchedAt),
			micros(c.expiresAt), c.version)
	}
	_, err := t.store.db.ExecContext(ctx, `INSERT INTO attempt_counters (subject, client, failures, pending, blocked_until, touched_at, expires_at, version)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`+strings.Repeat(", (?, ?, ?, ?, ?, ?, ?, ?)", len(changes)-1)+`
		ON DUPLICATE KEY UPDATE failures = VALUES(failures), pending = VALUES(pending),
			blocked_until = IF(VALUES(version) = 0,
				GREATEST(blocked_until + VALUES(blocked_until) - VALUES(touched_at), VALUES(blocked_until), VALUES(touched_at)), VALUES(blocked_until)),
			touched_at = VALUES(touched_at), expires_at = GREATEST(expires_at, VALUES(expires_at)),
			version = IF(VALUES(version) IN (0, version + 1), VALUES(version), -1)`, values...)
	var server *mysql.MySQLError
	if errors.As(err, &server) && (server.Number == errOutOfRange || server.Number == errDataOutOfRange) {
		return errChanged
	}
	return timedOut(ctx, err)
}

// micros returns a time in microseconds since 1970, or 0 for a time before 1970, such as the zero time.
func micros(t time.Time) int64 { return max(0, t.UnixMicro()) }
