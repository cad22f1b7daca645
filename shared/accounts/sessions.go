package accounts

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// maxSessions is the maximum number of a user's sessions. It exceeds the number of devices that a user has.
const maxSessions = 50

// The values of SignIn.Method.
const (
	MethodPassword     = "pwd"
	MethodPasskey      = "passkey"
	MethodRecoveryCode = "pwd+code" // the password and a recovery code
)

// SignIn describes how and where a user signed in.
type SignIn struct {
	Method  string
	Address netip.Addr
	Device  string // a description of the client in at most 64 ASCII characters
}

// Session is a session of a user. It starts when the user signs in.
type Session struct {
	// ID identifies the session in access tokens and in lists of sessions. It is a hash of the primary key. A refresh
	// token contains the primary key, so the key must remain secret.
	ID string
	SignIn
	StartedAt  time.Time
	LastUsedAt time.Time // the time of the sign-in or of the last refresh
	ExpiresAt  time.Time // the time at which the session ends if it is not refreshed earlier
}

// ACR returns the value of the acr claim in the session's access tokens.
func (s Session) ACR() string {
	if s.Method == MethodPassword {
		return token.ACRPassword
	}
	return token.ACRMultiFactor
}

// Lifetimes determines when a session ends.
type Lifetimes struct {
	Total time.Duration // the time after the sign-in
	Idle  time.Duration // the time after the last refresh
}

// end returns the time at which a session ends if it is not refreshed after now.
func (l Lifetimes) end(started, now time.Time) time.Time {
	if end := started.Add(l.Total); end.Before(now.Add(l.Idle)) {
		return end
	}
	return now.Add(l.Idle)
}

// ErrSessionEnded reports that a refresh token cannot be used. It is the same error for every reason, so that the
// response does not reveal the reason.
var ErrSessionEnded = problem.SessionEnded.With("sign in again")

// StartSession starts a session for u, whom the caller must have authenticated. If the user then has more than
// maxSessions sessions, StartSession ends the oldest sessions.
func (s *Store) StartSession(ctx context.Context, u User, in SignIn, lifetimes Lifetimes) (session Session, refresh string, err error) {
	n, err := s.newSession(u, in, lifetimes)
	if err != nil {
		return Session{}, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Do not use a transaction, because it would add two round trips to every sign-in. The refresh token is stored last.
	// A session without a refresh token cannot be used, and Sessions does not list it.
	err = s.insertSession(ctx, s.db, n)
	if err == nil {
		var stored bool
		stored, err = insertRefreshToken(ctx, s.db, n.first, `SELECT COUNT(*) <= ? FROM sessions WHERE user_id = ?`, maxSessions, n.userKey[:])
		if err == nil && !stored || conflicted(err) { // a conflict with another sign-in that ends the user's oldest sessions
			err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error { return s.endOldest(ctx, tx, n) })
		}
	}
	if err != nil {
		return Session{}, "", fail("start session", timedOut(ctx, err))
	}
	if s.random(purgeEvery) == 0 {
		s.purgeSessions(ctx)
	}
	return n.Session, n.refresh, nil
}

// Changes are the changes of an account that a sign-in makes.
type Changes struct {
	RecoveryCode string // the recovery code that the sign-in uses up, or empty
	PasswordHash string // the hash of the new password, or empty
}

// ChangeAndStartSession makes the changes and starts a session as StartSession does, in one transaction. If the session
// does not start, the recovery code is not used up and the password does not change. It returns the changed user. The
// error is ErrRecoveryCode if u has no such code, and token.ErrStale if the password cannot be changed (see
// ChangePassword).
func (s *Store) ChangeAndStartSession(ctx context.Context, u User, changes Changes, in SignIn, lifetimes Lifetimes) (changed User, session Session, refresh string, err error) {
	by := Actor{ID: u.ID, Username: u.Username, Version: u.TokenVersion, Address: in.Address, RequestID: request.OriginOf(ctx).ID}
	var n newSession
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		changed = u
		if changes.RecoveryCode != "" {
			if err := s.useRecoveryCode(ctx, tx, by, u, changes.RecoveryCode); err != nil {
				return err
			}
		}
		if changes.PasswordHash != "" {
			if changed, err = s.changePassword(ctx, tx, by, changes.PasswordHash); err != nil {
				return err
			}
		}
		if n, err = s.newSession(changed, in, lifetimes); err != nil {
			return err
		}
		if err := s.insertSession(ctx, tx, n); err != nil {
			return err
		}
		return s.endOldest(ctx, tx, n)
	})
	if err != nil {
		return User{}, Session{}, "", fail("change the account and start session", err)
	}
	return changed, n.Session, n.refresh, nil
}

// newSession is a session that is not stored yet.
type newSession struct {
	foundSession
	userKey uuid.UUID // the primary key of the user
	refresh string    // the first refresh token, as sent to the client
	first   refreshToken
}

func (s *Store) newSession(u User, in SignIn, lifetimes Lifetimes) (n newSession, err error) {
	if n.userKey, err = parseID(u.ID); err != nil {
		return newSession{}, err
	}
	if n.key, err = uuid.NewRandom(); err != nil {
		return newSession{}, err
	}
	now := s.timestamp()
	n.user, n.version = u, u.TokenVersion
	n.Session = Session{sessionID(n.key), in, now, now, lifetimes.end(now, now)}
	n.refresh, n.first = newRefreshToken(n.key)
	return n, nil
}

// insertSession stores a session without a refresh token, and adds the sign-in to the audit trail.
func (s *Store) insertSession(ctx context.Context, to execer, n newSession) error {
	_, err := to.ExecContext(ctx, `INSERT INTO sessions (id, user_id, token_version, method, address, device, created_at, last_used_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, n.key[:], n.userKey[:], n.version, n.Method, addressText(n.Address), n.Device,
		n.StartedAt, n.LastUsedAt, n.ExpiresAt)
	if err == nil {
		err = s.noteSignIn(ctx, to, n.user, n.Method)
	}
	return err
}

// endOldest deletes the user's sessions except the newest maxSessions. It then stores the first refresh token of the
// newest session.
func (s *Store) endOldest(ctx context.Context, tx *sql.Tx, newest newSession) error {
	oldest, err := queryAll(ctx, tx, scanValue[uuid.UUID], `SELECT id FROM sessions WHERE user_id = ? AND id <> ?
		ORDER BY created_at DESC, id LIMIT ? OFFSET ?`, newest.userKey[:], newest.key[:], purgeRows, maxSessions-1)
	if err != nil {
		return err
	}
	u := newest.user
	by := Actor{ID: u.ID, Username: u.Username, Address: newest.Address, RequestID: request.OriginOf(ctx).ID}
	for _, id := range oldest {
		if err := s.endFor(ctx, tx, DetailLimit, by, u, id); err != nil {
			return err
		}
	}
	_, err = insertRefreshToken(ctx, tx, newest.first, `SELECT TRUE`)
	return err
}

// endFor deletes the session with the given primary key, and adds the reason to the audit trail. The reason is empty if
// the user ends the session.
func (s *Store) endFor(ctx context.Context, tx *sql.Tx, reason string, by Actor, u User, session uuid.UUID) error {
	deleted, err := deleteSessions(ctx, tx, "id = ?", session[:])
	if err != nil || !deleted {
		return err
	}
	return s.noteDetail(ctx, tx, by, ActionSessionEnded, u, "", reason)
}

// endReused deletes a session because a refresh token was reused. The actor is unknown, because the client might be a
// thief.
func (s *Store) endReused(ctx context.Context, tx *sql.Tx, u User, session uuid.UUID) error {
	from := request.OriginOf(ctx)
	return s.endFor(ctx, tx, DetailReuse, Actor{Address: from.Address, RequestID: from.ID}, u, session)
}

// sessionID returns the ID of the session with the given primary key: the first 16 bytes of the key's SHA-256 hash, in
// hexadecimal. The condition bySessionID contains the same function.
func sessionID(key uuid.UUID) string {
	sum := sha256.Sum256(key[:])
	return hex.EncodeToString(sum[:16])
}

// bySessionID is the condition for the session of a user that has a Session.ID. The first placeholder is the user ID,
// so that the query computes only the hashes of the user's sessions.
const bySessionID = "user_id = ? AND LEFT(SHA2(id, 256), 32) = ?"

// exceptSessionID is the condition for the other sessions of the user.
const exceptSessionID = "user_id = ? AND LEFT(SHA2(id, 256), 32) <> ?"

// foundSession is a session with its user, as stored in the database.
type foundSession struct {
	Session
	user    User
	key     uuid.UUID // the primary key of the session
	version int       // the user's token version when the session started
}

// alive reports whether the session can be used. No other function decides this.
func (f foundSession) alive(now time.Time) bool {
	return !f.user.Disabled && f.user.TokenVersion == f.version && now.Before(f.ExpiresAt)
}

// sessionQuery returns the query for the sessions that match a condition, with their users. The columns of sessions get
// new names, so that the names in userColumns are unambiguous.
func sessionQuery(condition string) string {
	return `SELECT ` + userColumns + `, session_key, session_version, session_method, session_address, session_device, started_at, used_at, ends_at
		FROM users JOIN (SELECT id AS session_key, user_id AS session_user, token_version AS session_version, method AS session_method,
			address AS session_address, device AS session_device, created_at AS started_at, COALESCE(last_used_at, created_at) AS used_at,
			expires_at AS ends_at FROM sessions WHERE ` + condition + `) AS matching ON session_user = users.id`
}

func scanSession(row scanner) (f foundSession, err error) {
	var address string
	f.user, err = scanUser(more{row, []any{&f.key, &f.version, &f.Method, &address, &f.Device, &f.StartedAt, &f.LastUsedAt, &f.ExpiresAt}})
	f.ID = sessionID(f.key)
	f.Address, _ = netip.ParseAddr(address) // the address is unknown if an earlier version started the session
	return f, err
}

// more is a row that scans further columns into dest.
type more struct {
	scanner
	dest []any
}

// Scan implements scanner.
func (m more) Scan(dest ...any) error { return m.scanner.Scan(append(dest, m.dest...)...) }

// findSession returns the session that matches a condition. The error is ErrSessionEnded if there is no such session,
// or if the session is not alive.
func (s *Store) findSession(ctx context.Context, on querier, condition string, args ...any) (foundSession, error) {
	f, err := scanSession(on.QueryRowContext(ctx, sessionQuery(condition), args...))
	if errors.Is(err, errNoUser) || err == nil && !f.alive(s.now()) {
		return foundSession{}, ErrSessionEnded
	}
	return f, err
}

// execer is implemented by *sql.Tx and *sql.DB.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// deleteSessions deletes the sessions that match a condition, and their refresh tokens. It reports whether there were
// such sessions.
func deleteSessions(ctx context.Context, tx *sql.Tx, condition string, args ...any) (deleted bool, err error) {
	result, err := tx.ExecContext(ctx, `DELETE sessions, refresh_tokens FROM sessions
		LEFT JOIN refresh_tokens ON refresh_tokens.session_id = sessions.id WHERE `+condition, args...)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// EndSession ends the session to which a refresh token belongs, or all of the user's sessions if allSessions is true.
// A refresh token that is invalid, or whose session has ended, is not an error and changes nothing.
func (s *Store) EndSession(ctx context.Context, refresh string, allSessions bool, actor Actor) error {
	t, err := s.findToken(ctx, refresh)
	if errors.Is(err, ErrSessionEnded) {
		// Do not return an error, because an invalid token does not belong to a session that could be ended (RFC 7009
		// §2.2).
		return nil
	} else if err != nil {
		return err
	}
	return fail("end session", s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		f, err := s.findSession(ctx, tx, "id = ?", t.session[:])
		if errors.Is(err, ErrSessionEnded) {
			return nil
		} else if err != nil {
			return err
		}
		actor.ID, actor.Username = f.user.ID, f.user.Username
		usedAt, err := tokenUse(ctx, tx, t)
		if reused := errors.Is(err, errReused) || usedAt.Valid && s.now().Sub(usedAt.Time) > refreshGrace; reused {
			// A reused token ends its session, as in Refresh. It must not end other sessions, because a thief might
			// have the token.
			slog.WarnContext(ctx, "ended session because a refresh token was reused", "user_id", f.user.ID)
			return s.endReused(ctx, tx, f.user, t.session)
		} else if err != nil {
			return err
		}
		if allSessions {
			return s.endAllSessions(ctx, tx, f, actor)
		}
		return s.endFor(ctx, tx, "", actor, f.user, t.session)
	}))
}

// endAllSessions increments the token version of the session's user, which ends all sessions of the user and
// invalidates the user's access tokens. If the user has changed since the session was read, endAllSessions does
// nothing.
func (s *Store) endAllSessions(ctx context.Context, tx *sql.Tx, f foundSession, actor Actor) error {
	user, err := parseID(f.user.ID)
	if err != nil {
		return err
	}
	u, err := lockUser(ctx, tx, user)
	if errors.Is(err, problem.NotFound) || err == nil && u.TokenVersion != f.version {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.invalidate(ctx, tx, user, &u); err != nil {
		return err
	}
	return s.note(ctx, tx, actor, ActionSessionsEnded, u, "")
}

// hasRefreshToken is the condition for a session whose start has succeeded (see StartSession).
const hasRefreshToken = "EXISTS (SELECT 1 FROM refresh_tokens WHERE session_id = sessions.id)"

// Sessions returns the sessions of a user that have not ended. The session that was used last comes first.
func (s *Store) Sessions(ctx context.Context, user string) (sessions []Session, err error) {
	key, err := parseID(user)
	if err != nil {
		return nil, err
	}
	err = s.read(ctx, func(ctx context.Context) error {
		all, err := queryAll(ctx, s.db, scanSession, sessionQuery("user_id = ? AND "+hasRefreshToken)+` ORDER BY used_at DESC`, key[:])
		sessions = nil
		for _, f := range all {
			if f.alive(s.now()) {
				sessions = append(sessions, f.Session)
			}
		}
		return err
	})
	return sessions, fail("list the sessions of user "+user, err)
}

// EndOwnSession ends the session of the actor that has the given Session.ID. The error is a problem.NotFound if there
// is no such session.
func (s *Store) EndOwnSession(ctx context.Context, actor Actor, id string) error {
	return s.endOwn(ctx, actor, ActionSessionEnded, bySessionID, id, problem.NotFound.With("there is no such session"))
}

// EndOtherSessions ends all sessions of the actor except the session that has the given Session.ID.
func (s *Store) EndOtherSessions(ctx context.Context, actor Actor, current string) error {
	return s.endOwn(ctx, actor, ActionSessionsEnded, exceptSessionID, current, nil)
}

// EndSessions ends all sessions of a user and invalidates the user's access tokens. The actor must be an admin. The error
// is a problem.NotFound if the user does not exist.
func (s *Store) EndSessions(ctx context.Context, actor Actor, userID string) error {
	key, err := parseID(userID)
	if err != nil {
		return err
	}
	return fail("end sessions of user "+userID, s.asAdmin(ctx, actor, func(ctx context.Context, tx *sql.Tx, _ int) error {
		u, err := lockUser(ctx, tx, key)
		if err != nil {
			return err
		}
		if err := s.invalidate(ctx, tx, key, &u); err != nil {
			return err
		}
		return s.note(ctx, tx, actor, ActionSessionsEnded, u, "")
	}))
}

// endOwn ends the sessions of the actor that match a condition with the placeholders of bySessionID. It returns the
// error none if there are no such sessions.
func (s *Store) endOwn(ctx context.Context, actor Actor, action, condition, id string, none error) error {
	key, err := parseID(actor.ID)
	if err != nil {
		return err
	}
	return fail("end sessions of user "+actor.ID, s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if deleted, err := deleteSessions(ctx, tx, condition, key[:], id); err != nil {
			return err
		} else if !deleted {
			return none
		}
		return s.note(ctx, tx, actor, action, User{ID: actor.ID, Username: actor.Username}, "")
	}))
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
			if _, err := deleteSessions(ctx, tx, "id = ?", id[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		slog.WarnContext(ctx, "could not delete expired sessions", "error", err)
	}
}
