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
	// refreshGrace is how long a refresh token that was used may be used again: two tabs of a browser refresh at the
	// same time, and an answer may get lost.
	refreshGrace = 10 * time.Second
	// maxSiblings bounds the refresh tokens that are made of one within its grace.
	maxSiblings = 8
)

// ErrSessionEnded is what a refresh token gets that is not good, for whatever reason. The challenge is what a 401 must have
// (RFC 9110 §15.5.2).
var ErrSessionEnded = problem.SessionEnded.With("sign in again").Header("WWW-Authenticate", `Bearer realm="strongroom"`)

// errReused ends a session inside of its transaction.
var errReused = errors.New("a refresh token was used twice")

// A refresh token is the id of its session and a secret, both random. Only the hash of the whole is stored.
type refreshToken struct {
	session uuid.UUID
	hash    [sha256.Size]byte
}

const secretSize = 32

func newRefreshToken(session uuid.UUID) (text string, t refreshToken) {
	raw := make([]byte, len(session)+secretSize)
	copy(raw, session[:])
	rand.Read(raw[len(session):]) // never fails
	return base64.RawURLEncoding.EncodeToString(raw), refreshToken{session, sha256.Sum256(raw)}
}

func parseRefreshToken(text string) (refreshToken, error) {
	const size = len(uuid.UUID{}) + secretSize
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != size || len(text) != base64.RawURLEncoding.EncodedLen(size) { // it skips line breaks
		return refreshToken{}, ErrSessionEnded
	}
	return refreshToken{uuid.UUID(raw[:len(uuid.UUID{})]), sha256.Sum256(raw)}, nil
}

// StartSession begins a session of u, which has just proved who it is, and returns its first refresh token. The session
// ends after lifetime, or when the user's token version changes.
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
	// No transaction, which would be two more round trips of every login: a session without a token can not go on, and is
	// deleted when it has expired.
	_, err = s.db.ExecContext(ctx, `INSERT INTO sessions (id, user_id, token_version, created_at, expires_at) VALUES (?, ?, ?, ?, ?)`,
		id[:], user[:], u.TokenVersion, now, now.Add(lifetime))
	if err == nil {
		err = insertRefreshToken(ctx, s.db, first)
	}
	if err != nil {
		return "", fail("start a session", timedOut(ctx, err))
	}
	if s.sessionsStarted.Add(1)%purgeEvery == 0 {
		s.purgeSessions(ctx)
	}
	return refresh, nil
}

// Refresh takes a refresh token and returns its user and the token that comes after it. A token may be used once, and
// again within 10 s as long as nothing that was made of it has been used. Whoever uses one later than that, or one that
// the session does not know any more, has stolen it or was stolen from: the session ends, for both
// (draft-ietf-oauth-security-topics, RFC 9700 §4.14.2). The error is ErrSessionEnded, or the store's.
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
		if errors.Is(refused, errReused) || errors.Is(refused, problem.SessionEnded) {
			return deleteSession(ctx, tx, used.session) // committed, unlike what an error would undo
		}
		return refused
	})
	switch {
	case err != nil:
		return User{}, "", fail("refresh a session", err)
	case errors.Is(refused, errReused):
		slog.WarnContext(ctx, "a refresh token was used twice: its session has ended", "user_id", u.ID)
		return User{}, "", ErrSessionEnded
	case refused != nil:
		return User{}, "", ErrSessionEnded
	}
	return u, next, nil
}

// rotate replaces used by child. It returns errReused or problem.SessionEnded where the session must end.
func (s *Store) rotate(ctx context.Context, tx *sql.Tx, used, child refreshToken, now time.Time) (User, error) {
	var user uuid.UUID
	var version int
	var expires time.Time
	// The lock on the session makes everything that happens to it one after the other.
	err := tx.QueryRowContext(ctx, `SELECT user_id, token_version, expires_at FROM sessions WHERE id = ? FOR UPDATE`,
		used.session[:]).Scan(&user, &version, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, ErrSessionEnded
	}
	if err != nil {
		return User{}, err
	}
	u, err := scanUser(tx.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = ?`, user[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, ErrSessionEnded
	}
	if err != nil {
		return User{}, err
	}
	var usedAt sql.NullTime
	err = tx.QueryRowContext(ctx, `SELECT used_at FROM refresh_tokens WHERE session_id = ? AND hash = ? FOR UPDATE`,
		used.session[:], used.hash[:]).Scan(&usedAt)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		// Whoever knows the session's id had one of its tokens, and those that can still come are all there.
		return u, errReused
	case err != nil:
		return User{}, err
	case u.Disabled || u.TokenVersion != version || !now.Before(expires):
		return u, ErrSessionEnded
	case !usedAt.Valid:
		// Its first use: what came before it, and beside it, is over.
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

// execer is a transaction, or what is none.
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

// EndSession ends the session that a refresh token belongs to or, if all, every session of its user, whose access
// tokens are void then, too; from is where that came from, for the audit trail. A token that is not good is no error
// (RFC 7009 §2.2): what was wanted is so.
func (s *Store) EndSession(ctx context.Context, refresh string, all bool, from Actor) error {
	t, err := parseRefreshToken(refresh)
	if err != nil {
		return nil
	}
	return fail("end a session", s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var user uuid.UUID
		err := tx.QueryRowContext(ctx, `SELECT s.user_id FROM sessions s JOIN refresh_tokens t ON t.session_id = s.id
			WHERE s.id = ? AND t.hash = ? FOR UPDATE`, t.session[:], t.hash[:]).Scan(&user)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if all {
			if err := s.endAllSessions(ctx, tx, user, from); err != nil {
				return err
			}
		}
		return deleteSession(ctx, tx, t.session)
	}))
}

// endAllSessions gives a user another token version.
func (s *Store) endAllSessions(ctx context.Context, tx *sql.Tx, user uuid.UUID, from Actor) error {
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
	from.ID, from.Username = u.ID, u.Username
	return s.note(ctx, tx, from, ActionSessionsEnded, u, "")
}

// purgeSessions deletes sessions that have expired. That it fails is no reason to refuse a login: a later one tries
// again.
func (s *Store) purgeSessions(ctx context.Context) {
	err := s.transact(context.WithoutCancel(ctx), func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT id FROM sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?`, s.timestamp(), purgeRows)
		if err != nil {
			return err
		}
		expired, err := collect(rows, func(row scanner) (id uuid.UUID, err error) {
			err = row.Scan(&id)
			return id, err
		})
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
		slog.WarnContext(ctx, "expired sessions stay for now", "error", err)
	}
}
