package accounts

import (
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// The actions of the audit trail.
const (
	ActionCreated         = "user.created"
	ActionRoleChanged     = "role.changed"
	ActionDisabled        = "user.disabled"
	ActionEnabled         = "user.enabled"
	ActionPasswordReset   = "password.reset"   // by an admin
	ActionPasswordChanged = "password.changed" // by the user, who knew the old one
	ActionDeleted         = "user.deleted"
	ActionSessionsEnded   = "sessions.ended" // all of them, by the user
)

// AuditEntry is one change of an account: who did what to whom, when, from where. Names are those of that time.
type AuditEntry struct {
	ID        string // UUIDv7
	MadeAt    time.Time
	Action    string
	ActorID   string // empty for a program, such as setup
	ActorName string
	UserID    string
	Username  string
	Role      string // what the change made it, empty where it made none
	Address   string // of the client, empty for a program
	RequestID string
}

// note adds an entry to the audit trail, in the transaction that makes the change.
func (s *Store) note(ctx context.Context, tx *sql.Tx, by Actor, action string, u User, role string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make the id of an audit entry: %w", err)
	}
	var actor any // NULL for a program
	if by.ID != "" {
		key, err := uuid.Parse(by.ID)
		if err != nil {
			return fmt.Errorf("audit a change by %q: %w", by.ID, err)
		}
		actor = key[:]
	}
	key, err := uuid.Parse(u.ID)
	if err != nil {
		return fmt.Errorf("audit a change of %q: %w", u.ID, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO audit (id, made_at, action, actor_id, actor_name, user_id, username, role, address, request_id)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, id[:], s.timestamp(), action, actor, by.Username, key[:], u.Username,
		sql.NullString{String: role, Valid: role != ""}, addressText(by.Address), by.RequestID)
	return err
}

func addressText(address netip.Addr) string {
	if !address.IsValid() {
		return ""
	}
	return address.Unmap().WithZone("").String()
}

// Audit returns limit entries of the audit trail, the newest first, and the cursor for those before them, empty when
// these were the last. Paging returns each entry that was there at the start exactly once, whatever is added meanwhile.
// A wrong limit or cursor is a problem.BadRequest.
func (s *Store) Audit(ctx context.Context, limit int, cursor string) (entries []AuditEntry, next string, err error) {
	if err := checkLimit(limit); err != nil {
		return nil, "", err
	}
	before := uuid.Max
	if cursor != "" {
		if before, err = uuid.Parse(cursor); err != nil {
			return nil, "", errCursor
		}
	}
	err = s.read(ctx, func(ctx context.Context) error {
		// One more than asked for tells whether there are more.
		rows, err := s.db.QueryContext(ctx, `SELECT id, made_at, action, actor_id, actor_name, user_id, username, role, address, request_id
			FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?`, before[:], limit+1)
		if err != nil {
			return err
		}
		entries, err = collect(rows, scanEntry)
		return err
	})
	if err != nil {
		return nil, "", fail("read the audit trail", err)
	}
	if len(entries) > limit {
		entries = entries[:limit]
		next = entries[limit-1].ID
	}
	return entries, next, nil
}

func scanEntry(row scanner) (e AuditEntry, err error) {
	var id, userID uuid.UUID
	var actorID uuid.NullUUID
	var role sql.NullString
	err = row.Scan(&id, &e.MadeAt, &e.Action, &actorID, &e.ActorName, &userID, &e.Username, &role, &e.Address, &e.RequestID)
	e.ID, e.UserID, e.Role = id.String(), userID.String(), role.String
	if actorID.Valid {
		e.ActorID = actorID.UUID.String()
	}
	return e, err
}

// DefaultLimit and MaxLimit are how much of a list is returned at once.
const (
	DefaultLimit = 50
	MaxLimit     = 100
)

var errCursor = problem.BadRequest.With("the cursor is none that was given out")

func checkLimit(limit int) error {
	if limit < 1 || limit > MaxLimit {
		return problem.BadRequest.With("the limit must be a number from 1 to %d", MaxLimit)
	}
	return nil
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// collect scans all rows and closes them.
func collect[T any](rows *sql.Rows, scan func(scanner) (T, error)) (all []T, err error) {
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}
