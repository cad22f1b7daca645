package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// refreshGrace is how long a refresh token remains valid after its first use. The grace period is necessary
	// because two browser tabs might refresh concurrently and because a client retries if a response is lost.
	refreshGrace = 10 * time.Second
	// maxSiblings is the maximum number of times that a refresh token can be exchanged for a new one within
	// refreshGrace.
	maxSiblings = 8
)

// ErrSessionEnded reports that a refresh token cannot be used. It is the same error for every reason, so that the
// response does not reveal the reason.
var ErrSessionEnded = problem.SessionEnded.With("sign in again")

// errReused reports that a refresh token was used again although it was no longer valid (see rotate). The caller must
// then end the session, because the token might have been stolen.
var errReused = errors.New("refresh token was reused")

// refreshToken identifies a refresh token by its session ID and its hash. The database does not store the token
// itself, so that a copy of the database contains no usable tokens.
type refreshToken struct {
	session uuid.UUID
	hash    [sha256.Size]byte
}

const secretSize = 32

func newRefreshToken(session uuid.UUID) (text string, t refreshToken) {
	raw := make([]byte, len(session)+secretSize)
	copy(raw, session[:])
	rand.Read(raw[len(session):]) // rand.Read never fails
	return base64.RawURLEncoding.EncodeToString(raw), refreshToken{session, sha256.Sum256(raw)}
}

func parseRefreshToken(text string) (refreshToken, error) {
	const size = len(uuid.UUID{}) + secretSize
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	// Compare the length of text, because DecodeString ignores line breaks and would therefore accept a longer text.
	if err != nil || len(raw) != size || len(text) != base64.RawURLEncoding.EncodedLen(size) {
		return refreshToken{}, ErrSessionEnded
	}
	return refreshToken{uuid.UUID(raw[:len(uuid.UUID{})]), sha256.Sum256(raw)}, nil
}

// StartSession starts a session for u, whom the caller must have authenticated. The session ends after the given
// lifetime, or earlier if the user's token version changes.
func (s *Store) StartSession(ctx context.Context, u User, lifetime time.Duration) (refresh string, err error) {
	user, err := parseID(u.ID)
	if err != nil {
		return "", err
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return "", err
	}
	refresh, first := newRefreshToken(id)
	now := s.timestamp()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Do not use a transaction, because it would add two round trips to every sign-in. If the second INSERT fails,
	// the session is harmless, because no client has its refresh token.
	_, err = s.db.ExecContext(ctx, `INSERT INTO sessions (id, user_id, token_version, created_at, expires_at) VALUES (?, ?, ?, ?, ?)`,
		id[:], user[:], u.TokenVersion, now, now.Add(lifetime))
	if err == nil {
		err = insertRefreshToken(ctx, s.db, first)
	}
	if err != nil {
		return "", fail("start session", timedOut(ctx, err))
	}
	if s.random(purgeEvery) == 0 {
		s.purgeSessions(ctx)
	}
	return refresh, nil
}

// Refresh exchanges a refresh token for a new refresh token. The error is ErrSessionEnded if the session has ended,
// or if the given token is invalid or can no longer be used.
func (s *Store) Refresh(ctx context.Context, refresh string) (u User, next string, err error) {
	used, err := parseRefreshToken(refresh)
	if err != nil {
		return User{}, "", err
	}
	next, child := newRefreshToken(used.session)
	now := s.timestamp()
	var refused error
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		u, refused = s.rotate(ctx, tx, used, child, now)
		// Delete the session if it has ended, or if the token was reused. A reused token must end the session,
		// because a thief might have the token (RFC 9700 §4.14.2).
		if errors.Is(refused, errReused) || errors.Is(refused, problem.SessionEnded) {
			return deleteSession(ctx, tx, used.session) // do not return refused: it would roll back the deletion
		}
		return refused
	})
	switch {
	case err != nil:
		return User{}, "", fail("refresh session", err)
	case errors.Is(refused, errReused):
		slog.WarnContext(ctx, "ended session because a refresh token was reused", "user_id", u.ID)
		return User{}, "", ErrSessionEnded
	case refused != nil:
		return User{}, "", ErrSessionEnded
	}
	return u, next, nil
}

// rotate checks the client's refresh token (used) and stores the new refresh token (child). If the error is errReused
// or ErrSessionEnded, the caller must end the session.
func (s *Store) rotate(ctx context.Context, tx *sql.Tx, used, child refreshToken, now time.Time) (User, error) {
	var user uuid.UUID
	var version int
	var expires time.Time
	// Lock the session, so that concurrent requests change the session one at a time.
	err := tx.QueryRowContext(ctx, `SELECT user_id, token_version, expires_at FROM sessions WHERE id = ? FOR UPDATE`,
		used.session[:]).Scan(&user, &version, &expires)
	var u User
	if err == nil {
		u, err = scanUser(tx.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = ?`, user[:]))
	}
	switch {
	case errors.Is(err, sql.ErrNoRows), errors.Is(err, errNoUser):
		return User{}, ErrSessionEnded
	case err != nil:
		return User{}, err
	}
	var usedAt sql.NullTime
	err = tx.QueryRowContext(ctx, `SELECT used_at FROM refresh_tokens WHERE session_id = ? AND hash = ? FOR UPDATE`,
		used.session[:], used.hash[:]).Scan(&usedAt)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		// The session's ID is random, so the client must have received a token of this session. The table contains
		// all valid tokens of the session, so the token in this request is no longer valid.
		return u, errReused
	case err != nil:
		return User{}, err
	case u.Disabled || u.TokenVersion != version || !now.Before(expires):
		return u, ErrSessionEnded
	case !usedAt.Valid:
		// This is the token's first use, which invalidates all other tokens of the session.
		if _, err := tx.ExecContext(ctx, `DELETE FROM refresh_tokens WHERE session_id = ? AND hash <> ?`, used.session[:], used.hash[:]); err != nil {
			return User{}, err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE refresh_tokens SET used_at = ? WHERE session_id = ? AND hash = ?`, now, used.session[:], used.hash[:]); err != nil {
			return User{}, err
		}
	case now.Sub(usedAt.Time) > refreshGrace:
		return u, errReused
	default:
		var tokens int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM refresh_tokens WHERE session_id = ?`, used.session[:]).Scan(&tokens); err != nil {
			return User{}, err
		}
		if tokens > maxSiblings {
			return u, errReused
		}
	}
	return u, insertRefreshToken(ctx, tx, child)
}

// execer is implemented by *sql.Tx and *sql.DB.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func insertRefreshToken(ctx context.Context, to execer, t refreshToken) error {
	_, err := to.ExecContext(ctx, `INSERT INTO refresh_tokens (session_id, hash) VALUES (?, ?)`, t.session[:], t.hash[:])
	return err
}

func deleteSession(ctx context.Context, tx *sql.Tx, id uuid.UUID) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM refresh_tokens WHERE session_id = ?`, id[:]); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE id = ?`, id[:])
	return err
}

// EndSession ends the session to which a refresh token belongs, or all of the user's sessions if allSessions is true.
// An invalid refresh token is not an error.
func (s *Store) EndSession(ctx context.Context, refresh string, allSessions bool, actor Actor) error {
	t, err := parseRefreshToken(refresh)
	if err != nil {
		// Do not return an error, because an invalid token does not belong to a session that could be ended (RFC 7009
		// §2.2).
		return nil
	}
	return fail("end session", s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var user uuid.UUID
		err := tx.QueryRowContext(ctx, `SELECT s.user_id FROM sessions s JOIN refresh_tokens t ON t.session_id = s.id
			WHERE s.id = ? AND t.hash = ? FOR UPDATE`, t.session[:], t.hash[:]).Scan(&user)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if allSessions {
			if err := s.endAllSessions(ctx, tx, user, actor); err != nil {
				return err
			}
		}
		return deleteSession(ctx, tx, t.session)
	}))
}

// endAllSessions increments a user's token version, which ends all sessions of the user and invalidates the user's
// access tokens. If the user does not exist, endAllSessions does nothing.
func (s *Store) endAllSessions(ctx context.Context, tx *sql.Tx, user uuid.UUID, actor Actor) error {
	u, err := lockUser(ctx, tx, user)
	if errors.Is(err, problem.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	u.TokenVersion++
	if err := s.replace(ctx, tx, user, &u); err != nil {
		return err
	}
	actor.ID, actor.Username = u.ID, u.Username
	return s.note(ctx, tx, actor, ActionSessionsEnded, u, "")
}

// purgeSessions deletes expired sessions. It only logs errors, because a later sign-in retries the deletion.
func (s *Store) purgeSessions(ctx context.Context) {
	err := s.transact(context.WithoutCancel(ctx), func(ctx context.Context, tx *sql.Tx) error {
		expired, err := queryAll(ctx, tx, scanValue[uuid.UUID], `SELECT id FROM sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?`,
			s.timestamp(), purgeRows)
		if err != nil {
			return err
		}
		for _, id := range expired {
			if err := deleteSession(ctx, tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		slog.WarnContext(ctx, "could not delete expired sessions", "error", err)
	}
}
