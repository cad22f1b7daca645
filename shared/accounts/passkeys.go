package accounts

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// MaxPasskeys is the maximum number of passkeys of a user.
	MaxPasskeys = 20
	// maxPasskeyName is the maximum length of a passkey's name, in code points.
	maxPasskeyName = 64
	// maxCredentialID and maxCredential are the sizes of the columns credential_id and credential, in bytes.
	maxCredentialID = 1023
	maxCredential   = 8192
)

var (
	// ErrChallengeUsed reports that a challenge was already used in a successful ceremony.
	ErrChallengeUsed = errors.New("the challenge has already been used")

	errNoPasskey = problem.NotFound.With("no such passkey")
)

// Passkey is a WebAuthn credential of a user.
type Passkey struct {
	ID           string // UUIDv7
	UserID       string
	CredentialID []byte // chosen by the authenticator
	// Credential contains the public key and the state of the passkey. Package passkey defines the format.
	Credential []byte
	Party      string // the domain for which the passkey was created (relying party ID)
	Name       string
	CreatedAt  time.Time
	UsedAt     time.Time // the time of the last sign-in, or zero
}

// Challenge identifies the challenge of a WebAuthn ceremony.
type Challenge struct {
	Nonce   [16]byte
	Expires time.Time
}

// passkeyColumns is the list of columns that scanPasskey reads, in the same order.
const passkeyColumns = `id, user_id, credential_id, credential, party, name, created_at, used_at`

func scanPasskey(row scanner) (p Passkey, err error) {
	var id, user uuid.UUID
	var used sql.NullTime
	err = row.Scan(&id, &user, &p.CredentialID, &p.Credential, &p.Party, &p.Name, &p.CreatedAt, &used)
	if errors.Is(err, sql.ErrNoRows) {
		return Passkey{}, errNoPasskey
	}
	p.ID, p.UserID, p.UsedAt = id.String(), user.String(), used.Time
	return p, err
}

// Passkeys returns the passkeys of a user, oldest first, and the number of unused recovery codes.
func (s *Store) Passkeys(ctx context.Context, userID string) (passkeys []Passkey, codes int, err error) {
	user, err := parseID(userID)
	if err != nil {
		return nil, 0, err
	}
	err = s.read(ctx, func(ctx context.Context) (err error) {
		passkeys, err = queryAll(ctx, s.db, scanPasskey, `SELECT `+passkeyColumns+` FROM passkeys WHERE user_id = ? ORDER BY id`, user[:])
		if err != nil {
			return err
		}
		return s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM recovery_codes WHERE user_id = ?`, user[:]).Scan(&codes)
	})
	return passkeys, codes, fail("list passkeys of user "+userID, err)
}

// PasskeyOwner returns the passkey with the given credential ID, and the passkey's user. The error is a
// problem.NotFound if the passkey does not exist.
func (s *Store) PasskeyOwner(ctx context.Context, credentialID []byte) (p Passkey, u User, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		p, err = scanPasskey(s.db.QueryRowContext(ctx, `SELECT `+passkeyColumns+` FROM passkeys WHERE credential_id = ?`, credentialID))
		return err
	})
	if err != nil {
		return Passkey{}, User{}, fail("find passkey", err)
	}
	u, err = s.ByID(ctx, p.UserID)
	return p, u, err
}

// UsePasskey stores the new state of a passkey after a sign-in. The error is ErrChallengeUsed if another ceremony has
// used the challenge, and a problem.NotFound if the passkey has been removed.
func (s *Store) UsePasskey(ctx context.Context, p Passkey, c Challenge) error {
	id, err := uuid.Parse(p.ID)
	if err != nil {
		return errNoPasskey
	}
	now := s.timestamp()
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := useChallenge(ctx, tx, c); err != nil {
			return err
		}
		// The update always changes the row, because used_at changes. Therefore, MySQL counts the row as affected.
		result, err := tx.ExecContext(ctx, `UPDATE passkeys SET credential = ?, used_at = ? WHERE id = ?`, p.Credential, now, id[:])
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(errNoPasskey, err)
		}
		return nil
	})
	if err == nil && s.random(purgeEvery) == 0 {
		s.purgeChallenges(ctx)
	}
	return fail("use passkey "+p.ID, err)
}

// useChallenge marks a challenge as used. The error is ErrChallengeUsed if the challenge is already marked.
func useChallenge(ctx context.Context, tx *sql.Tx, c Challenge) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO used_challenges (nonce, expires_at) VALUES (?, ?)`, c.Nonce[:], c.Expires.UTC())
	if errors.Is(fail("insert challenge", err), problem.Conflict) {
		return ErrChallengeUsed
	}
	return err
}

// purgeChallenges deletes expired challenges. It only logs errors, because a later sign-in retries the deletion.
func (s *Store) purgeChallenges(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, `DELETE FROM used_challenges WHERE expires_at < ? ORDER BY expires_at LIMIT ?`, s.timestamp(), purgeRows)
	if err != nil {
		slog.WarnContext(ctx, "could not delete expired challenges", "error", err)
	}
}

// AddPasskey stores a new passkey of the actor. It sets the ID, the user and the time of creation. The error is
// ErrChallengeUsed if another ceremony has used the challenge, a problem.Conflict if the passkey exists or if the user
// has MaxPasskeys passkeys, and a problem.Unprocessable if the name or the size of the passkey is not allowed.
func (s *Store) AddPasskey(ctx context.Context, actor Actor, p Passkey, c Challenge) (Passkey, error) {
	name, err := passkeyName(p.Name)
	if err != nil {
		return Passkey{}, err
	}
	if len(p.CredentialID) > maxCredentialID || len(p.Credential) > maxCredential {
		return Passkey{}, problem.Unprocessable.With("the passkey is too large: use another authenticator")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Passkey{}, err
	}
	p.ID, p.UserID, p.Name, p.CreatedAt, p.UsedAt = id.String(), actor.ID, name, s.timestamp(), time.Time{}
	err = s.asSelf(ctx, actor, func(ctx context.Context, tx *sql.Tx, u User, key uuid.UUID) error {
		if err := useChallenge(ctx, tx, c); err != nil {
			return err
		}
		var count int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM passkeys WHERE user_id = ?`, key[:]).Scan(&count); err != nil {
			return err
		}
		if count >= MaxPasskeys {
			return problem.Conflict.With("a user can have at most %d passkeys: remove a passkey first", MaxPasskeys)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO passkeys (id, user_id, credential_id, credential, party, name, created_at)
			VALUES (?, ?, ?, ?, ?, ?, ?)`, id[:], key[:], p.CredentialID, p.Credential, p.Party, p.Name, p.CreatedAt)
		if errors.Is(fail("insert passkey", err), problem.Conflict) {
			return problem.Conflict.With("this passkey already exists")
		}
		if err != nil {
			return err
		}
		return s.note(ctx, tx, actor, ActionPasskeyAdded, u, "")
	})
	return p, fail("add passkey", err)
}

// passkeyName returns the name without spaces around it. The error is a problem.Unprocessable if the name is not
// allowed.
func passkeyName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if n := utf8.RuneCountInString(name); n == 0 || n > maxPasskeyName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", problem.Unprocessable.With("the name of a passkey must have 1 to %d characters, and no control characters", maxPasskeyName)
	}
	return name, nil
}

// RenamePasskey changes the name of one of the actor's passkeys. The error is a problem.NotFound if the actor does not
// have the passkey, and a problem.Unprocessable if the name is not allowed.
func (s *Store) RenamePasskey(ctx context.Context, actor Actor, id, name string) (p Passkey, err error) {
	name, err = passkeyName(name)
	if err != nil {
		return Passkey{}, err
	}
	passkey, err := uuid.Parse(id)
	if err != nil {
		return Passkey{}, errNoPasskey
	}
	err = s.asSelf(ctx, actor, func(ctx context.Context, tx *sql.Tx, _ User, key uuid.UUID) error {
		p, err = scanPasskey(tx.QueryRowContext(ctx, `SELECT `+passkeyColumns+` FROM passkeys WHERE id = ? AND user_id = ? FOR UPDATE`,
			passkey[:], key[:]))
		if err != nil {
			return err
		}
		p.Name = name
		_, err := tx.ExecContext(ctx, `UPDATE passkeys SET name = ? WHERE id = ?`, name, passkey[:])
		return err
	})
	return p, fail("rename passkey "+id, err)
}

// RemovePasskey removes one of the actor's passkeys. If it was the last one, RemovePasskey also removes the recovery
// codes. The error is a problem.NotFound if the actor does not have the passkey.
func (s *Store) RemovePasskey(ctx context.Context, actor Actor, id string) error {
	passkey, err := uuid.Parse(id)
	if err != nil {
		return errNoPasskey
	}
	return fail("remove passkey "+id, s.asSelf(ctx, actor, func(ctx context.Context, tx *sql.Tx, u User, key uuid.UUID) error {
		result, err := tx.ExecContext(ctx, `DELETE FROM passkeys WHERE id = ? AND user_id = ?`, passkey[:], key[:])
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(errNoPasskey, err)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM recovery_codes WHERE user_id = ? AND NOT EXISTS (SELECT 1 FROM passkeys WHERE user_id = ?)`,
			key[:], key[:])
		if err != nil {
			return err
		}
		return s.note(ctx, tx, actor, ActionPasskeyRemoved, u, "")
	}))
}

// RemovePasskeys removes all passkeys and recovery codes of a user, ends the user's sessions and invalidates the user's
// access tokens. The actor must be an admin. The error is a problem.NotFound if the user does not exist.
func (s *Store) RemovePasskeys(ctx context.Context, actor Actor, userID string) error {
	key, err := parseID(userID)
	if err != nil {
		return err
	}
	return fail("remove passkeys of user "+userID, s.asAdmin(ctx, actor, func(ctx context.Context, tx *sql.Tx, _ int) error {
		u, err := lockUser(ctx, tx, key)
		if err != nil {
			return err
		}
		if err := deletePasskeys(ctx, tx, key); err != nil {
			return err
		}
		if err := s.invalidate(ctx, tx, key, &u); err != nil {
			return err
		}
		return s.note(ctx, tx, actor, ActionPasskeysRemoved, u, "")
	}))
}

// deletePasskeys deletes the passkeys and the recovery codes of a user.
func deletePasskeys(ctx context.Context, tx *sql.Tx, user uuid.UUID) error {
	for _, table := range []string{"passkeys", "recovery_codes"} {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE user_id = ?`, user[:]); err != nil {
			return err
		}
	}
	return nil
}

// asSelf calls the change function in a transaction that locks the actor's account. The error is token.ErrStale if the
// account does not exist, is disabled or does not have the token version actor.Version.
func (s *Store) asSelf(ctx context.Context, actor Actor, change func(ctx context.Context, tx *sql.Tx, u User, key uuid.UUID) error) error {
	return s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		u, key, err := lockSelf(ctx, tx, actor)
		if err != nil {
			return err
		}
		return change(ctx, tx, u, key)
	})
}

// lockSelf returns the actor's account, and locks its row until tx ends. The error is token.ErrStale as for asSelf.
func lockSelf(ctx context.Context, tx *sql.Tx, actor Actor) (u User, key uuid.UUID, err error) {
	if key, err = parseID(actor.ID); err != nil {
		return User{}, key, token.ErrStale
	}
	u, err = lockUser(ctx, tx, key)
	if errors.Is(err, problem.NotFound) || err == nil && (u.Disabled || u.TokenVersion != actor.Version) {
		return User{}, key, token.ErrStale
	}
	return u, key, err
}
