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

// The values of AuditEntry.Action.
const (
	ActionCreated         = "user.created"
	ActionRoleChanged     = "role.changed"
	ActionDisabled        = "user.disabled"
	ActionEnabled         = "user.enabled"
	ActionPasswordReset   = "password.reset"   // by an admin
	ActionPasswordChanged = "password.changed" // by the user, with the current password
	ActionDeleted         = "user.deleted"
	ActionSessionsEnded   = "sessions.ended" // all sessions, by the user
)

// AuditEntry describes one change to an account. It contains user names in addition to user IDs, because the users
// might be deleted later.
type AuditEntry struct {
	ID        string // UUIDv7
	MadeAt    time.Time
	Action    string
	ActorID   string // empty for a program, such as setup
	ActorName string
	UserID    string
	Username  string
	Role      string // the new role, or empty if the action sets no role
	Address   string // the client's IP address, empty for a program
	RequestID string
}

// note adds an entry to the audit trail. tx must be the transaction that changes the account, so that the change is
// never stored without an audit entry.
func (s *Store) note(ctx context.Context, tx *sql.Tx, by Actor, action string, u User, role string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("generate audit entry ID: %w", err)
	}
	var actor any // NULL for a program
	if by.ID != "" {
		key, err := uuid.Parse(by.ID)
		if err != nil {
			return fmt.Errorf("parse actor ID %q: %w", by.ID, err)
		}
		actor = key[:]
	}
	key, err := uuid.Parse(u.ID)
	if err != nil {
		return fmt.Errorf("parse user ID %q: %w", u.ID, err)
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

// Audit returns a page of audit entries, newest first. An empty cursor selects the first page, and an empty next
// cursor marks the last page.
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
	err = s.read(ctx, func(ctx context.Context) (err error) {
		// Query limit+1 rows to find out whether another page follows.
		entries, err = queryAll(ctx, s.db, scanEntry, `SELECT id, made_at, action, actor_id, actor_name, user_id, username, role, address,
			request_id FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?`, before[:], limit+1)
		return err
	})
	if err != nil {
		return nil, "", fail("read the audit trail", err)
	}
	if len(entries) > limit {
		// The cursor is an entry ID instead of an offset, so that new entries do not shift the entries on the
		// following pages.
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

// DefaultLimit is the number of elements per page if a client does not set a limit. MaxLimit is the maximum number of
// elements per page.
const (
	DefaultLimit = 50
	MaxLimit     = 100
)

var errCursor = problem.BadRequest.With("the cursor is invalid")

func checkLimit(limit int) error {
	if limit < 1 || limit > MaxLimit {
		return problem.BadRequest.With("the limit must be a number from 1 to %d", MaxLimit)
	}
	return nil
}

// scanner is implemented by *sql.Row and *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// querier is implemented by *sql.DB, *sql.Conn and *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

// queryAll executes a query, calls the scan function for each row, and returns the results.
func queryAll[T any](ctx context.Context, on querier, scan func(scanner) (T, error), statement string, args ...any) (all []T, err error) {
	rows, err := on.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err returns read errors
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// scanValue scans a row that has only one column.
func scanValue[T any](row scanner) (value T, err error) {
	err = row.Scan(&value)
	return value, err
}
