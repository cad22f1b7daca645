package accounts

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

var (
	// ErrStaleToken is what an actor gets whose account has been disabled, deleted, or given another role or password
	// since its token was issued.
	ErrStaleToken = token.Refuse(nil, "the account has changed since the token was issued")
	// ErrLastAdmin is what the change gets that would leave no admin who can sign in.
	ErrLastAdmin = problem.Conflict.With("this is the last admin who can sign in: make another one first")

	errNoUser = problem.NotFound.With("there is no such user")
)

// Actor is who changes an account, and from where, for the audit trail.
type Actor struct {
	ID        string // empty for a program
	Username  string
	Version   int // the token version that its token carries
	Address   netip.Addr
	RequestID string
}

// setup is the actor of what no signed-in user does.
var setup = Actor{Username: "setup"}

// userColumns are what scanUser scans.
const userColumns = `id, username, password_hash, role, disabled_at, token_version, created_at, updated_at`

func scanUser(row scanner) (u User, err error) {
	var id uuid.UUID
	var disabledAt sql.NullTime
	err = row.Scan(&id, &u.Username, &u.PasswordHash, &u.Role, &disabledAt, &u.TokenVersion, &u.CreatedAt, &u.UpdatedAt)
	u.ID, u.Disabled = id.String(), disabledAt.Valid
	return u, err
}

// enabledAdmin tells whether u counts for the rule that one must remain.
func (u User) enabledAdmin() bool { return u.Role == token.RoleAdmin && !u.Disabled }

// ByID returns the user with that id, or a problem.NotFound.
func (s *Store) ByID(ctx context.Context, id string) (User, error) {
	key, err := parseID(id)
	if err != nil {
		return User{}, err
	}
	var u User
	err = s.read(ctx, func(ctx context.Context) (err error) {
		u, err = scanUser(s.db.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = ?`, key[:]))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, errNoUser
	}
	return u, fail("find a user", err)
}

// parseID reads an id in the one form that is given out.
func parseID(id string) (uuid.UUID, error) {
	key, err := uuid.Parse(id)
	if err != nil || key.String() != id {
		return uuid.UUID{}, errNoUser
	}
	return key, nil
}

// Current returns the user with that id if it is enabled and its token version is version; otherwise the error is
// ErrStaleToken.
func (s *Store) Current(ctx context.Context, id string, version int) (User, error) {
	u, err := s.ByID(ctx, id)
	if errors.Is(err, problem.NotFound) || err == nil && (u.Disabled || u.TokenVersion != version) {
		return User{}, ErrStaleToken
	}
	return u, err
}

// List returns limit users in the order of their names, and the cursor for those after them, empty when these were the
// last. Paging returns each user that is there from the start to the end exactly once, whoever is added or deleted
// meanwhile. A wrong limit or cursor is a problem.BadRequest.
func (s *Store) List(ctx context.Context, limit int, cursor string) (users []User, next string, err error) {
	if err := checkLimit(limit); err != nil {
		return nil, "", err
	}
	after, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || !utf8.Valid(after) || utf8.RuneCount(after) > maxUsername {
		return nil, "", errCursor
	}
	err = s.read(ctx, func(ctx context.Context) error {
		// One more than asked for tells whether there are more. No name is empty.
		rows, err := s.db.QueryContext(ctx, `SELECT `+userColumns+` FROM users WHERE username > ? ORDER BY username LIMIT ?`,
			string(after), limit+1)
		if err != nil {
			return err
		}
		users, err = collect(rows, scanUser)
		return err
	})
	if err != nil {
		return nil, "", fail("list the users", err)
	}
	if len(users) > limit {
		users = users[:limit]
		next = base64.RawURLEncoding.EncodeToString([]byte(users[limit-1].Username))
	}
	return users, next, nil
}

// CreateBy makes a user as Create does, on behalf of an admin.
func (s *Store) CreateBy(ctx context.Context, by Actor, username, passwordHash, role string) (User, error) {
	u, err := s.newUser(username, passwordHash, role)
	if err != nil {
		return User{}, err
	}
	err = s.asAdmin(ctx, by, func(ctx context.Context, tx *sql.Tx, _ int) error { return s.insert(ctx, tx, by, u) })
	if err != nil {
		return User{}, fail("create a user", err)
	}
	return u, nil
}

// newUser returns a user who is not stored yet.
func (s *Store) newUser(username, passwordHash, role string) (User, error) {
	name, err := CanonicalUsername(username)
	if err != nil {
		return User{}, err
	}
	if err := checkRole(role); err != nil {
		return User{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return User{}, fmt.Errorf("make a user id: %w", err)
	}
	now := s.timestamp()
	return User{ID: id.String(), Username: name, PasswordHash: passwordHash, Role: role, TokenVersion: 1, CreatedAt: now, UpdatedAt: now}, nil
}

func checkRole(role string) error {
	if token.ScopesOf([]string{role}) == "" {
		return problem.Unprocessable.With("there is no such role: the roles are %s and %s", token.RoleUser, token.RoleAdmin)
	}
	return nil
}

func (s *Store) insert(ctx context.Context, tx *sql.Tx, by Actor, u User) error {
	key, err := parseID(u.ID)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO users (id, username, password_hash, role, token_version, created_at, updated_at)
		VALUES (?, ?, ?, ?, ?, ?, ?)`, key[:], u.Username, u.PasswordHash, u.Role, u.TokenVersion, u.CreatedAt, u.UpdatedAt)
	if err := fail("insert a user", err); errors.Is(err, problem.Conflict) {
		return problem.Conflict.Because(err, "the user name is taken")
	} else if err != nil {
		return err
	}
	return s.note(ctx, tx, by, ActionCreated, u, u.Role)
}

// Patch is what an admin changes of a user; nil leaves a field as it is.
type Patch struct {
	Role         *string
	Disabled     *bool
	PasswordHash *string
}

// apply changes u and returns the actions that this takes, in a fixed order; none for what is so already.
func (p Patch) apply(u *User) (actions []string) {
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
		u.PasswordHash = *p.PasswordHash
		actions = append(actions, ActionPasswordReset)
	}
	return actions
}

// Update changes a user on behalf of an admin, and returns what it is then. Unless all that it does is to enable the
// user, it ends all of the user's sessions and makes the tokens that are out void, by a new token version. It is
// ErrLastAdmin if no enabled admin would remain.
func (s *Store) Update(ctx context.Context, by Actor, id string, patch Patch) (User, error) {
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
	err = s.asAdmin(ctx, by, func(ctx context.Context, tx *sql.Tx, admins int) error {
		was, err := lockUser(ctx, tx, key)
		if err != nil {
			return err
		}
		u = was
		actions := patch.apply(&u)
		if len(actions) == 0 {
			return nil
		}
		if was.enabledAdmin() && !u.enabledAdmin() && admins == 1 {
			return ErrLastAdmin
		}
		if len(actions) > 1 || actions[0] != ActionEnabled {
			u.TokenVersion++
		}
		if err := s.replace(ctx, tx, key, &u); err != nil {
			return err
		}
		for _, action := range actions {
			role := ""
			if action == ActionRoleChanged {
				role = u.Role
			}
			if err := s.note(ctx, tx, by, action, u, role); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return User{}, fail("change a user", err)
	}
	return u, nil
}

// Delete deletes a user on behalf of an admin. It is ErrLastAdmin if no enabled admin would remain.
func (s *Store) Delete(ctx context.Context, by Actor, id string) error {
	key, err := parseID(id)
	if err != nil {
		return err
	}
	return fail("delete a user", s.asAdmin(ctx, by, func(ctx context.Context, tx *sql.Tx, admins int) error {
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
		return s.note(ctx, tx, by, ActionDeleted, u, "")
	}))
}

// ChangePassword gives by, who has proved to know the present password, another one, and ends all of its sessions. It
// is ErrStaleToken if the account has changed since.
func (s *Store) ChangePassword(ctx context.Context, by Actor, passwordHash string) error {
	key, err := parseID(by.ID)
	if err != nil {
		return ErrStaleToken
	}
	return fail("change a password", s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		u, err := lockUser(ctx, tx, key)
		if errors.Is(err, problem.NotFound) || err == nil && (u.Disabled || u.TokenVersion != by.Version) {
			return ErrStaleToken
		} else if err != nil {
			return err
		}
		u.PasswordHash = passwordHash
		u.TokenVersion++
		if err := s.replace(ctx, tx, key, &u); err != nil {
			return err
		}
		return s.note(ctx, tx, by, ActionPasswordChanged, u, "")
	}))
}

// asAdmin runs change in a transaction in which nobody else changes who is an admin, provided that by still is one;
// otherwise it is ErrStaleToken. change is told how many enabled admins there are.
func (s *Store) asAdmin(ctx context.Context, by Actor, change func(ctx context.Context, tx *sql.Tx, admins int) error) error {
	return s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// Only locking reads see what others have committed since the transaction began, on every server. The index
		// keeps the lock to the admins, and its order keeps two transactions from waiting for each other.
		rows, err := tx.QueryContext(ctx, `SELECT `+userColumns+` FROM users FORCE INDEX (users_role)
			WHERE role = ? AND disabled_at IS NULL FOR UPDATE`, token.RoleAdmin)
		if err != nil {
			return err
		}
		admins, err := collect(rows, scanUser)
		if err != nil {
			return err
		}
		for _, admin := range admins {
			if admin.ID == by.ID && admin.TokenVersion == by.Version {
				return change(ctx, tx, len(admins))
			}
		}
		return ErrStaleToken
	})
}

// transact runs change in a transaction, and again where others got in its way. What change returns undoes it.
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
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing; before, its caller has the error that matters
	if err := change(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// lockUser returns the user with that id, whom nobody else changes before tx ends.
func lockUser(ctx context.Context, tx *sql.Tx, key uuid.UUID) (User, error) {
	u, err := scanUser(tx.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = ? FOR UPDATE`, key[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, errNoUser
	}
	return u, err
}

// replace stores all that may change of a user.
func (s *Store) replace(ctx context.Context, tx *sql.Tx, key uuid.UUID, u *User) error {
	u.UpdatedAt = s.timestamp()
	_, err := tx.ExecContext(ctx, `UPDATE users SET role = ?, disabled_at = IF(?, COALESCE(disabled_at, ?), NULL),
		password_hash = ?, token_version = ?, updated_at = ? WHERE id = ?`,
		u.Role, u.Disabled, u.UpdatedAt, u.PasswordHash, u.TokenVersion, u.UpdatedAt, key[:])
	return err
}
