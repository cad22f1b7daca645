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
	// refreshGrace is how long a refresh token remains valid after its first use, or after another token of the session
	// was used. The grace period is necessary because many browser tabs might refresh concurrently and because a client
	// retries if a response is lost.
	refreshGrace = 10 * time.Second
	// maxTokens is the maximum number of a session's refresh tokens in the database. It limits how often a client can
	// refresh a session within refreshGrace. It is higher than the number of tabs that usually refresh concurrently.
	maxTokens = 100
)

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

// findToken returns the parsed refresh token. The error is ErrSessionEnded if the token is malformed, or if its session is
// not in the database. A guessed token therefore takes one query, and no transaction. Do not count guessed tokens in a
// limit of the address. A token cannot be guessed, the count would take more work than the query, and the tokens of many
// users whose sessions ended overnight can come from one address.
func (s *Store) findToken(ctx context.Context, text string) (refreshToken, error) {
	t, err := parseRefreshToken(text)
	if err != nil {
		return refreshToken{}, err
	}
	exists := false
	err = s.read(ctx, func(ctx context.Context) error {
		return s.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sessions WHERE id = ?)`, t.session[:]).Scan(&exists)
	})
	if err == nil && !exists {
		err = ErrSessionEnded
	}
	return t, fail("find session", err)
}

// Refresh exchanges a refresh token for a new refresh token. The error is ErrSessionEnded if the session has ended,
// or if the given token is invalid or can no longer be used. The error is a problem.TooManyRefreshes if the session has
// too many refresh tokens.
func (s *Store) Refresh(ctx context.Context, refresh string, lifetimes Lifetimes) (u User, session Session, next string, err error) {
	used, err := s.findToken(ctx, refresh)
	if err != nil {
		return User{}, Session{}, "", err
	}
	next, child := newRefreshToken(used.session)
	now := s.timestamp()
	var refused error
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		u, session, refused = s.rotate(ctx, tx, used, child, now, lifetimes)
		// Delete the session if it has ended, or if the token was reused. A reused token must end the session,
		// because a thief might have the token (RFC 9700 §4.14.2). Do not return refused: it would roll back the
		// deletion.
		switch {
		case errors.Is(refused, errReused):
			return s.endReused(ctx, tx, u, used.session)
		case errors.Is(refused, problem.SessionEnded):
			_, err := deleteSessions(ctx, tx, "id = ?", used.session[:])
			return err
		}
		return refused
	})
	switch {
	case err != nil:
		return User{}, Session{}, "", fail("refresh session", err)
	case errors.Is(refused, errReused):
		slog.WarnContext(ctx, "ended session because a refresh token was reused", "user_id", u.ID)
		return User{}, Session{}, "", ErrSessionEnded
	case refused != nil:
		return User{}, Session{}, "", ErrSessionEnded
	}
	return u, session, next, nil
}

// rotate checks the client's refresh token (used) and stores the new refresh token (child). If the error is errReused
// or ErrSessionEnded, the caller must end the session.
func (s *Store) rotate(ctx context.Context, tx *sql.Tx, used, child refreshToken, now time.Time, lifetimes Lifetimes) (User, Session, error) {
	// Lock the session, so that concurrent requests change the session one at a time.
	var locked uuid.UUID
	err := tx.QueryRowContext(ctx, `SELECT id FROM sessions WHERE id = ? FOR UPDATE`, used.session[:]).Scan(&locked)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, Session{}, ErrSessionEnded
	} else if err != nil {
		return User{}, Session{}, err
	}
	f, err := s.findSession(ctx, tx, "id = ?", used.session[:])
	if err != nil {
		return User{}, Session{}, err
	}
	f.LastUsedAt, f.ExpiresAt = now, lifetimes.end(f.StartedAt, now)
	if !f.alive(now) { // the session was started with a longer lifetime
		return User{}, Session{}, ErrSessionEnded
	}
	usedAt, err := tokenUse(ctx, tx, used)
	switch {
	case err != nil:
		return f.user, Session{}, err
	case usedAt.Valid && now.Sub(usedAt.Time) > refreshGrace:
		return f.user, Session{}, errReused
	case !usedAt.Valid:
		// This is the token's first use. The token and all unused tokens of the session remain valid for refreshGrace.
		// The unused tokens might be in requests that other tabs have already sent.
		if _, err := tx.ExecContext(ctx, `UPDATE refresh_tokens SET used_at = ? WHERE session_id = ? AND used_at IS NULL`, now, used.session[:]); err != nil {
			return User{}, Session{}, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM refresh_tokens WHERE session_id = ? AND used_at < ?`, used.session[:], now.Add(-refreshGrace)); err != nil {
			return User{}, Session{}, err
		}
	}
	if _, err := tx.ExecContext(ctx, `UPDATE sessions SET last_used_at = ?, expires_at = ? WHERE id = ?`, now, f.ExpiresAt, used.session[:]); err != nil {
		return User{}, Session{}, err
	}
	stored, err := insertRefreshToken(ctx, tx, child, `SELECT COUNT(*) < ? FROM refresh_tokens WHERE session_id = ?`, maxTokens, used.session[:])
	if err == nil && !stored {
		err = problem.TooManyRefreshes.With("use the newest refresh token, and refresh the session only when its access token is about to expire").RetryAfter(refreshGrace)
	}
	return f.user, f.Session, err
}

// tokenUse returns the time at which a refresh token, or another token of the session, was first used. The time is NULL
// if the token is the newest. The error is errReused if the token does not exist. The session's primary key is secret,
// so the client must have received a token of the session, but the token is no longer valid.
func tokenUse(ctx context.Context, tx *sql.Tx, t refreshToken) (usedAt sql.NullTime, err error) {
	err = tx.QueryRowContext(ctx, `SELECT used_at FROM refresh_tokens WHERE session_id = ? AND hash = ? FOR UPDATE`,
		t.session[:], t.hash[:]).Scan(&usedAt)
	if errors.Is(err, sql.ErrNoRows) {
		return usedAt, errReused
	}
	return usedAt, err
}

// insertRefreshToken stores a refresh token if a query returns true. It reports whether it stored the token. The
// condition needs no additional round trip.
func insertRefreshToken(ctx context.Context, to execer, t refreshToken, condition string, args ...any) (stored bool, err error) {
	result, err := to.ExecContext(ctx, `INSERT INTO refresh_tokens (session_id, hash) SELECT ?, ? FROM DUAL WHERE (`+condition+`)`,
		append([]any{t.session[:], t.hash[:]}, args...)...)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == 1, err
}
