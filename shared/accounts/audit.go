package accounts

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
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
	ActionSessionEnded    = "session.ended"    // one session, by the user or for the reason in the detail
	ActionSessionsEnded   = "sessions.ended"   // all sessions or all other sessions, by the user or an admin
	ActionSignedIn        = "signin.succeeded" // the detail is SignIn.Method
	ActionLocked          = "account.locked"   // unknown clients must wait; the actor is unknown
	ActionLockoutRemoved  = "lockout.removed"

	ActionPasskeyAdded         = "passkey.added"          // by the user
	ActionPasskeyRemoved       = "passkey.removed"        // by the user
	ActionPasskeysRemoved      = "passkeys.removed"       // all passkeys of the user and the recovery codes, by an admin
	ActionRecoveryCodesCreated = "recovery-codes.created" // by the user
	ActionRecoveryCodeUsed     = "recovery-code.used"     // by the user, with the password

	// The following actions change a role. The entry contains the role, and the admin as the user.
	ActionSecondFactorRequired = "second-factor.required"
	ActionSecondFactorOptional = "second-factor.optional"
)

// Actions lists all values of AuditEntry.Action.
var Actions = []string{ActionCreated, ActionRoleChanged, ActionDisabled, ActionEnabled, ActionPasswordReset, ActionPasswordChanged,
	ActionDeleted, ActionSessionEnded, ActionSessionsEnded, ActionSignedIn, ActionLocked, ActionLockoutRemoved, ActionPasskeyAdded,
	ActionPasskeyRemoved, ActionPasskeysRemoved, ActionRecoveryCodesCreated, ActionRecoveryCodeUsed, ActionSecondFactorRequired,
	ActionSecondFactorOptional}

// The values of AuditEntry.Detail for ActionSessionEnded. The detail is empty if the user has ended the session.
const (
	DetailLimit = "limit" // the user has signed in, and had maxSessions sessions
	DetailReuse = "reuse" // a refresh token was used again; the actor is unknown
)

// AuditEntry describes one change to an account, one sign-in or one lockout. It contains user names in addition to user
// IDs, because the users might be deleted later.
type AuditEntry struct {
	ID        string // UUIDv7
	MadeAt    time.Time
	Action    string
	ActorID   string // empty for a program, such as setup, and for an unknown actor
	ActorName string // empty for an unknown actor
	UserID    string
	Username  string
	Role      string // the new role, or empty if the action sets no role
	Detail    string // the method of a sign-in, or the reason for which a session has ended
	Address   string // the client's IP address, empty for a program
	RequestID string
	// ClientRequestID is the client's own ID for the request, or empty if the client sent none.
	ClientRequestID string
}

// note adds an entry to the audit trail. For a change of an account, to must be the transaction of the change, so that
// the change is never stored without an audit entry.
func (s *Store) note(ctx context.Context, to execer, by Actor, action string, u User, role string) error {
	return s.noteDetail(ctx, to, by, action, u, role, "")
}

// noteDetail adds an entry with a detail to the audit trail, as note does.
func (s *Store) noteDetail(ctx context.Context, to execer, by Actor, action string, u User, role, detail string) error {
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
	_, err = to.ExecContext(ctx, `INSERT INTO audit (id, made_at, action, actor_id, actor_name, user_id, username, role, address, request_id,
		client_request_id, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, id[:], s.timestamp(), action, actor, by.Username, key[:], u.Username,
		sql.NullString{String: role, Valid: role != ""}, addressText(by.Address), by.RequestID, request.OriginOf(ctx).ClientID, detail)
	return err
}

// noteSignIn adds an entry for the successful sign-in of u with the given method, and with the origin of the request in
// ctx.
func (s *Store) noteSignIn(ctx context.Context, to execer, u User, method string) error {
	from := request.OriginOf(ctx)
	by := Actor{ID: u.ID, Username: u.Username, Address: from.Address, RequestID: from.ID}
	return s.noteDetail(ctx, to, by, ActionSignedIn, u, "", method)
}

// noteLocked adds an entry for an account for which unknown clients must wait. address is the source of the last failure.
// It does not wait for the entry, so that the response time does not reveal that the user exists. Close waits for it.
// noteLocked only logs errors, because the lockout is already stored.
func (s *Store) noteLocked(ctx context.Context, u User, address netip.Addr) {
	s.notes.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		err := s.note(ctx, s.db, Actor{Address: address, RequestID: request.OriginOf(ctx).ID}, ActionLocked, u, "")
		if err != nil {
			slog.ErrorContext(ctx, "could not add a lockout to the audit trail", "user_id", u.ID, "error", err)
		}
	})
}

func addressText(address netip.Addr) string {
	if !address.IsValid() {
		return ""
	}
	return address.Unmap().WithZone("").String()
}

// AuditFilter selects audit entries. An empty field selects all entries.
type AuditFilter struct {
	Username string // of the account, does not have to be in canonical form
	Action   string
	From, To time.Time // the first time, and the time after the last one, in milliseconds
}

// query returns the query for the newest entries that match the filter, and whose IDs are less than before. The ID of an
// entry begins with its time, so the primary key also limits the times. The error is a problem.BadRequest if the filter
// is invalid.
func (f AuditFilter) query(before uuid.UUID, limit int) (statement string, args []any, err error) {
	var first uuid.UUID
	if !f.From.IsZero() {
		first = firstAt(f.From)
	}
	if last := firstAt(f.To); !f.To.IsZero() && bytes.Compare(last[:], before[:]) < 0 {
		before = last
	}
	condition, args := "id >= ? AND id < ?", []any{first[:], before[:]}
	// Choose the index, because MySQL would otherwise intersect two indexes and sort the result, instead of reading the
	// newest entries of one index.
	index := "PRIMARY"
	if f.Action != "" {
		if !slices.Contains(Actions, f.Action) {
			return "", nil, problem.BadRequest.With("the action in the filter is unknown: it must be one of %s", strings.Join(Actions, ", "))
		}
		condition, args, index = condition+" AND action = ?", append(args, f.Action), "audit_action"
	}
	if f.Username != "" {
		name, err := CanonicalUsername(f.Username)
		if err != nil {
			return "", nil, problem.BadRequest.With("the user name in the filter is not a valid user name")
		}
		condition, args, index = condition+" AND username = ?", append(args, name), "audit_username"
	}
	return `SELECT id, made_at, action, actor_id, actor_name, user_id, username, role, address, request_id, client_request_id, detail
		FROM audit FORCE INDEX (` + index + `) WHERE ` + condition + ` ORDER BY id DESC LIMIT ?`, append(args, limit), nil
}

// firstAt returns the smallest UUIDv7 with the given time (RFC 9562, section 5.7), without the version and the variant.
func firstAt(t time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(max(t.UnixMilli(), 0))<<16)
	return id
}

// Audit returns a page of the audit entries that match a filter, newest first. An empty cursor selects the first page,
// and an empty next cursor marks the last page.
func (s *Store) Audit(ctx context.Context, filter AuditFilter, limit int, cursor string) (entries []AuditEntry, next string, err error) {
	if err := checkLimit(limit); err != nil {
		return nil, "", err
	}
	before := uuid.Max
	if cursor != "" {
		if before, err = uuid.Parse(cursor); err != nil {
			return nil, "", errCursor
		}
	}
	// Query limit+1 rows to find out whether another page follows.
	statement, args, err := filter.query(before, limit+1)
	if err != nil {
		return nil, "", err
	}
	err = s.read(ctx, func(ctx context.Context) (err error) {
		entries, err = queryAll(ctx, s.db, scanEntry, statement, args...)
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
	err = row.Scan(&id, &e.MadeAt, &e.Action, &actorID, &e.ActorName, &userID, &e.Username, &role, &e.Address, &e.RequestID, &e.ClientRequestID, &e.Detail)
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
	QueryRowContext(ctx context.Context, statement string, args ...any) *sql.Row
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
