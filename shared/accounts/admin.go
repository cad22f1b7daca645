package accounts

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

var (
	// ErrLastAdmin reports that a change would leave no admin who can sign in.
	ErrLastAdmin = problem.Conflict.With("this is the last admin who can sign in: create or enable another admin first")

	errNoUser = problem.NotFound.With("no such user")
)

// Actor is the user or program that changes an account, as recorded in the audit trail.
type Actor struct {
	ID       string // empty for a program
	Username string
	// Version is the token version in the actor's access token. Create, Update and Delete return token.ErrStale if the
	// actor is not an enabled admin with this token version. Create makes an exception for Setup.
	Version   int
	Address   netip.Addr
	RequestID string
}

// Setup is the actor when the setup program creates or imports a user. Setup has no account, so Update and Delete
// reject this actor.
var Setup = Actor{Username: "setup"}

// userColumns is the list of columns that scanUser reads, in the same order.
const userColumns = `id, username, password_hash, role, disabled_at, must_change_password, password_expires_at, token_version, created_at, updated_at,
	EXISTS (SELECT 1 FROM second_factors WHERE second_factors.role = users.role),
	EXISTS (SELECT 1 FROM passkeys WHERE passkeys.user_id = users.id)`

func scanUser(row scanner) (u User, err error) {
	var id uuid.UUID
	var disabledAt, passwordExpiresAt sql.NullTime
	err = row.Scan(&id, &u.Username, &u.PasswordHash, &u.Role, &disabledAt, &u.MustChangePassword, &passwordExpiresAt, &u.TokenVersion,
		&u.CreatedAt, &u.UpdatedAt, &u.SecondFactor, &u.HasPasskey)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, errNoUser
	}
	u.ID, u.Disabled, u.PasswordExpiresAt = id.String(), disabledAt.Valid, passwordExpiresAt.Time
	return u, err
}

// enabledAdmin reports whether u is an admin who can sign in. At least one such admin must remain, because only
// admins can manage accounts.
func (u User) enabledAdmin() bool { return u.Role == token.RoleAdmin && !u.Disabled }

// ByID returns the user with the given ID. The error is a problem.NotFound if the user does not exist.
func (s *Store) ByID(ctx context.Context, id string) (User, error) {
	key, err := parseID(id)
	if err != nil {
		return User{}, err
	}
	return s.find(ctx, "find user "+id, "id = ?", key[:])
}

// parseID parses a user ID. Every user ID is a lowercase UUID with hyphens. For any other text, the error is
// errNoUser.
func parseID(id string) (uuid.UUID, error) {
	key, err := uuid.Parse(id)
	if err != nil || key.String() != id {
		return uuid.UUID{}, errNoUser
	}
	return key, nil
}

// Current returns the user to whom an access token was issued. The error is token.ErrStale if the user does not
// exist, is disabled or does not have the token's version, or if the token's session has ended. The error is also
// token.ErrStale if the token has scopes, but the user needs a second factor now, and signed in without it. A token
// of an earlier version does not contain a session.
func (s *Store) Current(ctx context.Context, claims *token.Claims) (User, error) {
	key, err := parseID(claims.Subject)
	if err != nil {
		return User{}, token.ErrStale
	}
	var u User
	if claims.Session == "" {
		u, err = s.ByID(ctx, claims.Subject)
	} else {
		err = s.read(ctx, func(ctx context.Context) error {
			f, err := s.findSession(ctx, s.db, bySessionID, key[:], claims.Session)
			u = f.user
			return err
		})
		err = fail("find the session of user "+claims.Subject, err)
	}
	if errors.Is(err, problem.NotFound) || errors.Is(err, problem.SessionEnded) || err == nil && (u.Disabled || u.TokenVersion != claims.Version) {
		return User{}, token.ErrStale
	}
	if err == nil && claims.Scope != "" && len(u.Roles(claims.ACR)) == 0 {
		return User{}, token.ErrStale
	}
	return u, err
}

// List returns a page of users, sorted by user name. An empty cursor selects the first page, and an empty next
// cursor marks the last page.
func (s *Store) List(ctx context.Context, limit int, cursor string) (users []User, next string, err error) {
	if err := checkLimit(limit); err != nil {
		return nil, "", err
	}
	after, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || !utf8.Valid(after) || utf8.RuneCount(after) > maxUsername {
		return nil, "", errCursor
	}
	err = s.read(ctx, func(ctx context.Context) (err error) {
		// Query limit+1 rows to find out whether another page follows. An empty cursor selects all users, because no
		// user name is empty.
		users, err = queryAll(ctx, s.db, scanUser, `SELECT `+userColumns+` FROM users WHERE username > ? ORDER BY username LIMIT ?`,
			string(after), limit+1)
		return err
	})
	if err != nil {
		return nil, "", fail("list users", err)
	}
	if len(users) > limit {
		// The cursor is a user name instead of an offset, so that no existing user is skipped or repeated if other
		// users are created or deleted between two requests.
		users = users[:limit]
		next = base64.RawURLEncoding.EncodeToString([]byte(users[limit-1].Username))
	}
	return users, next, nil
}

// NewUser contains the values for a new user.
type NewUser struct {
	Username     string // does not have to be in canonical form
	PasswordHash string // in a format that package password supports
	Role         string // token.RoleUser or token.RoleAdmin
	Disabled     bool
	// MustChangePassword is true if another person than the user has chosen or seen the password.
	MustChangePassword bool
}

// Create creates a user. The error is a problem.Conflict if the user name is taken, and a problem.Unprocessable if
// the user name or role is invalid.
func (s *Store) Create(ctx context.Context, actor Actor, n NewUser) (User, error) {
	name, err := CanonicalUsername(n.Username)
	if err != nil {
		return User{}, err
	}
	if err := checkRole(n.Role); err != nil {
		return User{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return User{}, fmt.Errorf("generate user ID: %w", err)
	}
	now := s.timestamp()
	u := User{ID: id.String(), Username: name, PasswordHash: n.PasswordHash, Role: n.Role, Disabled: n.Disabled,
		MustChangePassword: n.MustChangePassword, TokenVersion: 1, CreatedAt: now, UpdatedAt: now}
	// The password of the first admin does not expire, because a system can be installed long before its first use, and
	// setup does not create another admin.
	if n.MustChangePassword && actor != Setup {
		u.PasswordExpiresAt = now.Add(initialPasswordLife)
	}
	insert := func(ctx context.Context, tx *sql.Tx) error { return s.insert(ctx, tx, actor, id, u) }
	if actor == Setup {
		err = s.transact(ctx, insert)
	} else {
		err = s.asAdmin(ctx, actor, func(ctx context.Context, tx *sql.Tx, _ int) error { return insert(ctx, tx) })
	}
	return u, fail("create user", err)
}

func checkRole(role string) error {
	if token.ScopesOf([]string{role}) == "" {
		return problem.Unprocessable.With("unknown role: the role must be %s or %s", token.RoleUser, token.RoleAdmin)
	}
	return nil
}

func (s *Store) insert(ctx context.Context, tx *sql.Tx, actor Actor, id uuid.UUID, u User) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO users (id, username, password_hash, role, disabled_at, must_change_password,
		password_expires_at, token_version, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, id[:], u.Username,
		u.PasswordHash, u.Role, sql.NullTime{Time: u.CreatedAt, Valid: u.Disabled}, u.MustChangePassword, u.passwordExpiry(), u.TokenVersion, u.CreatedAt, u.UpdatedAt)
	if err := fail("insert user", err); errors.Is(err, problem.Conflict) {
		return problem.Conflict.Because(err, "the user name is already taken")
	} else if err != nil {
		return err
	}
	err = s.note(ctx, tx, actor, ActionCreated, u, u.Role)
	if err == nil && u.Disabled {
		err = s.note(ctx, tx, actor, ActionDisabled, u, "")
	}
	return err
}

// passwordExpiry returns the value of the column password_expires_at.
func (u User) passwordExpiry() sql.NullTime {
	return sql.NullTime{Time: u.PasswordExpiresAt, Valid: !u.PasswordExpiresAt.IsZero()}
}

// Patch contains the changes that an admin makes to a user. A nil field means that the value does not change.
type Patch struct {
	Role         *string
	Disabled     *bool
	PasswordHash *string
}

// apply applies the changes in p by the actor to u, and returns an audit action for each change. It ignores a role or
// disabled state that u already has. If another user has set the password, it expires, and u must change it.
func (p Patch) apply(actor Actor, u *User, now time.Time) (actions []string) {
	if p.Role != nil && *p.Role != u.Role {
		u.Role = *p.Role
		actions = append(actions, ActionRoleChanged)
	}
	if p.Disabled != nil && *p.Disabled != u.Disabled {
		u.Disabled = *p.Disabled
		if u.Disabled {
			actions = append(actions, ActionDisabled)
		} else {
			actions = append(actions, ActionEnabled)
		}
	}
	if p.PasswordHash != nil {
		u.PasswordHash, u.MustChangePassword, u.PasswordExpiresAt = *p.PasswordHash, actor.ID != u.ID, time.Time{}
		if u.MustChangePassword {
			u.PasswordExpiresAt = now.Add(initialPasswordLife)
		}
		actions = append(actions, ActionPasswordReset)
	}
	return actions
}

// Update changes a user. The error is a problem.NotFound if the user does not exist, a problem.Unprocessable if
// the role is unknown, and ErrLastAdmin if no enabled admin would remain.
func (s *Store) Update(ctx context.Context, actor Actor, id string, patch Patch) (User, error) {
	key, err := parseID(id)
	if err != nil {
		return User{}, err
	}
	if patch.Role != nil {
		if err := checkRole(*patch.Role); err != nil {
			return User{}, err
		}
	}
	var u User
	err = s.asAdmin(ctx, actor, func(ctx context.Context, tx *sql.Tx, admins int) error {
		was, err := lockUser(ctx, tx, key)
		if err != nil {
			return err
		}
		u = was
		actions := patch.apply(actor, &u, s.timestamp())
		if len(actions) == 0 {
			return nil
		}
		if was.enabledAdmin() && !u.enabledAdmin() && admins == 1 {
			return ErrLastAdmin
		}
		// Every change ends the user's sessions and invalidates the user's access tokens, unless the change only
		// enables the user.
		store := s.invalidate
		if len(actions) == 1 && actions[0] == ActionEnabled {
			store = s.replace
		}
		if err := store(ctx, tx, key, &u); err != nil {
			return err
		}
		if patch.PasswordHash != nil {
			if err := s.unlock(ctx, tx, u); err != nil {
				return err
			}
		}
		for _, action := range actions {
			role := ""
			if action == ActionRoleChanged {
				role = u.Role
			}
			if err := s.note(ctx, tx, actor, action, u, role); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && patch.PasswordHash != nil {
		err = s.unlockStrangers(ctx, u.Username)
	}
	return u, fail("update user "+id, err)
}

// Delete deletes a user. The error is a problem.NotFound if the user does not exist, and ErrLastAdmin if no
// enabled admin would remain.
func (s *Store) Delete(ctx context.Context, actor Actor, id string) error {
	key, err := parseID(id)
	if err != nil {
		return err
	}
	return fail("delete user "+id, s.asAdmin(ctx, actor, func(ctx context.Context, tx *sql.Tx, admins int) error {
		u, err := lockUser(ctx, tx, key)
		if err != nil {
			return err
		}
		if u.enabledAdmin() && admins == 1 {
			return ErrLastAdmin
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM users WHERE id = ?`, key[:]); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM attempt_counters WHERE subject = ?`, key[:]); err != nil {
			return err
		}
		if err := deletePasskeys(ctx, tx, key); err != nil {
			return err
		}
		if _, err := deleteSessions(ctx, tx, "user_id = ?", key[:]); err != nil {
			return err
		}
		return s.note(ctx, tx, actor, ActionDeleted, u, "")
	}))
}

// ChangePassword replaces the actor's own password hash, ends the actor's sessions and invalidates the actor's access
// tokens. It returns the changed user. The caller must have verified the current password. The error is token.ErrStale
// if the actor's account does not exist, is disabled or does not have the token version actor.Version.
func (s *Store) ChangePassword(ctx context.Context, actor Actor, passwordHash string) (u User, err error) {
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		u, err = s.changePassword(ctx, tx, actor, passwordHash)
		return err
	})
	return u, fail("change password of user "+actor.ID, err)
}

// changePassword implements ChangePassword in a transaction.
func (s *Store) changePassword(ctx context.Context, tx *sql.Tx, actor Actor, passwordHash string) (User, error) {
	u, key, err := lockSelf(ctx, tx, actor)
	if err != nil {
		return User{}, err
	}
	u.PasswordHash, u.MustChangePassword, u.PasswordExpiresAt = passwordHash, false, time.Time{}
	if err := s.invalidate(ctx, tx, key, &u); err != nil {
		return User{}, err
	}
	return u, s.note(ctx, tx, actor, ActionPasswordChanged, u, "")
}

// HasAdmin reports whether an enabled admin exists.
func (s *Store) HasAdmin(ctx context.Context) (exists bool, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		return s.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE role = ? AND disabled_at IS NULL)`,
			token.RoleAdmin).Scan(&exists)
	})
	return exists, fail("find an enabled admin", err)
}

// asAdmin calls the change function in a transaction that locks all enabled admins, so that concurrent changes cannot
// remove the last enabled admin. If the actor is not an enabled admin with the token version actor.Version, the error
// is token.ErrStale.
func (s *Store) asAdmin(ctx context.Context, actor Actor, change func(ctx context.Context, tx *sql.Tx, admins int) error) error {
	return s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// Use a locking read, because other reads might miss rows that were committed after the transaction began.
		// Force the index, so that the read locks only admins. Every transaction locks them in the order of the
		// index, which prevents deadlocks.
		admins, err := queryAll(ctx, tx, scanUser, `SELECT `+userColumns+` FROM users FORCE INDEX (users_role)
			WHERE role = ? AND disabled_at IS NULL FOR UPDATE`, token.RoleAdmin)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(admins, func(u User) bool { return u.ID == actor.ID && u.TokenVersion == actor.Version }) {
			return token.ErrStale
		}
		return change(ctx, tx, len(admins))
	})
}

// transact calls the change function in a transaction. If the transaction conflicts with another transaction,
// transact runs it again, up to maxConflicts times in total.
func (s *Store) transact(ctx context.Context, change func(ctx context.Context, tx *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for try := 1; ; try++ {
		err := s.transactOnce(ctx, change)
		if try == maxConflicts || !conflicted(err) {
			return timedOut(ctx, err)
		}
	}
}

func (s *Store) transactOnce(ctx context.Context, change func(ctx context.Context, tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// Ignore the error from Rollback. After a successful Commit, Rollback has no effect. In all other cases, this
	// function already returns an error.
	defer func() { _ = tx.Rollback() }()
	if err := change(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// lockUser returns the user whose ID is key, and locks the user's row until tx ends. The error is errNoUser if the user
// does not exist.
func lockUser(ctx context.Context, tx *sql.Tx, key uuid.UUID) (User, error) {
	return scanUser(tx.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = ? FOR UPDATE`, key[:]))
}

// invalidate updates the user's row as replace does. It also increments the user's token version, which invalidates the
// user's access tokens, and deletes the user's sessions.
func (s *Store) invalidate(ctx context.Context, tx *sql.Tx, key uuid.UUID, u *User) error {
	u.TokenVersion++
	if err := s.replace(ctx, tx, key, u); err != nil {
		return err
	}
	_, err := deleteSessions(ctx, tx, "user_id = ?", key[:])
	return err
}

// replace sets u.UpdatedAt to the current time and updates the user's row in the database. It updates only the
// columns for the role, disabled state, password, token version and update time, because the other values never change.
func (s *Store) replace(ctx context.Context, tx *sql.Tx, key uuid.UUID, u *User) error {
	u.UpdatedAt = s.timestamp()
	_, err := tx.ExecContext(ctx, `UPDATE users SET role = ?, disabled_at = IF(?, COALESCE(disabled_at, ?), NULL),
		password_hash = ?, must_change_password = ?, password_expires_at = ?, token_version = ?, updated_at = ? WHERE id = ?`,
		u.Role, u.Disabled, u.UpdatedAt, u.PasswordHash, u.MustChangePassword, u.passwordExpiry(), u.TokenVersion, u.UpdatedAt, key[:])
	return err
}
