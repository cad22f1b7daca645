package accounts_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// lifetimes are the lifetimes of the sessions in the tests.
var lifetimes = accounts.Lifetimes{Total: 24 * time.Hour, Idle: 12 * time.Hour}

// startSession creates a user and starts a session. It returns the user and the first refresh token.
func startSession(t *testing.T, store *accounts.Store, name string) (accounts.User, string) {
	t.Helper()
	u := servertest.CreateAccount(t, store, name, "user")
	_, refresh := signIn(t, store, u, "")
	return u, refresh
}

// signIn starts a session of a user on a device.
func signIn(t *testing.T, store *accounts.Store, u accounts.User, device string) (accounts.Session, string) {
	t.Helper()
	in := accounts.SignIn{Method: accounts.MethodPassword, Address: home, Device: device}
	session, refresh, err := store.StartSession(t.Context(), u, in, lifetimes)
	if err != nil {
		t.Fatal(err)
	}
	return session, refresh
}

// refreshed exchanges a refresh token and returns the new refresh token.
func refreshed(t *testing.T, store *accounts.Store, refresh string) string {
	t.Helper()
	_, _, next, err := store.Refresh(t.Context(), refresh, lifetimes)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// wantEnded checks that a refresh token is refused with problem.SessionEnded. what describes the token.
func wantEnded(t *testing.T, store *accounts.Store, what, refresh string) {
	t.Helper()
	if _, _, _, err := store.Refresh(t.Context(), refresh, lifetimes); !errors.Is(err, problem.SessionEnded) {
		t.Errorf("refresh with %s: got error %v, want %v", what, err, accounts.ErrSessionEnded)
	}
}

// TestSessionRotates proves that each refresh returns a new refresh token, and that malformed tokens do not end the
// session.
func TestSessionRotates(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	u, first := startSession(t, store, "ada")
	second := refreshed(t, store, first)
	got, session, third, err := store.Refresh(t.Context(), second, lifetimes)
	if err != nil || got.ID != u.ID || third == second || second == first {
		t.Fatalf("refresh with %q: got user %s, token %q, %v, want user %s and a new token", second, got.ID, third, err, u.ID)
	}
	if session.Method != accounts.MethodPassword || session.ACR() != token.ACRPassword || !session.StartedAt.Equal(clock.Now()) {
		t.Errorf("got the session %+v, want the sign-in of ada", session)
	}
	for _, malformed := range []string{"", "x", third + "x", third[:len(third)-1], third + "=", third + "\n"} {
		wantEnded(t, store, "a malformed token", malformed)
	}
	refreshed(t, store, third) // the malformed tokens have not ended the session
}

// TestRefreshTokensAreRandom proves that each refresh token contains another secret of 256 bits.
func TestRefreshTokensAreRandom(t *testing.T) {
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	u, first := startSession(t, store, "ada")
	_, second := signIn(t, store, u, "")
	secrets := map[string]bool{}
	for _, text := range []string{first, refreshed(t, store, first), second} {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(raw) != 16+32 { // the primary key of the session, and the secret
			t.Fatalf("got the refresh token %s with %d bytes, %v, want 48 bytes", text, len(raw), err)
		}
		secrets[string(raw[16:])] = true
	}
	if len(secrets) != 3 {
		t.Errorf("got %d secrets in three refresh tokens, want 3", len(secrets))
	}
}

// TestRefreshTokenReuse proves that a session ends if a refresh token is used again more than 10 s after the token, or
// another token of the session, was used. Such a token might have been stolen. Sessions of other users continue. Within
// 10 s, such a token can be used, because the response might have been lost, and because other tabs might have sent
// their requests already.
func TestRefreshTokenReuse(t *testing.T) {
	const used, sibling = "the used token", "the unused sibling of the used token"
	for name, c := range map[string]struct {
		reuse string
		after time.Duration
		use   func(store *accounts.Store, refresh string) error
		ended bool
	}{
		"lost response":          {used, 10 * time.Second, refresh(t), false},
		"reused token":           {used, 10*time.Second + time.Microsecond, refresh(t), true},
		"sibling of another tab": {sibling, 10 * time.Second, refresh(t), false},
		"sibling of a thief":     {sibling, 10*time.Second + time.Microsecond, refresh(t), true},
		"sign-out, reused token": {used, 10*time.Second + time.Microsecond, signOut(t, false), true},
		"everywhere, reused":     {used, 10*time.Second + time.Microsecond, signOut(t, true), true},
		"everywhere, sibling":    {sibling, 10*time.Second + time.Microsecond, signOut(t, true), true},
		"much later, reused":     {used, time.Hour, refresh(t), true},
		"everywhere, much later": {used, time.Hour, signOut(t, true), true},
		"sign-out, much later":   {used, time.Hour, signOut(t, false), true},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
			u, first := startSession(t, store, "ada")
			_, second := signIn(t, store, u, "") // another session of the same user
			_, other := startSession(t, store, "grace")
			tokens := map[string]string{used: first, sibling: refreshed(t, store, first)}
			newest := refreshed(t, store, refreshed(t, store, first))
			clock.add(c.after)
			var log bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
			err := c.use(store, tokens[c.reuse])
			slog.SetDefault(before)
			if logged := strings.Contains(log.String(), `"user_id":"`+u.ID+`"`); logged != c.ended {
				t.Errorf("got log %s, want a warning with the user ID: %t", &log, c.ended)
			}
			if refused := errors.Is(err, problem.SessionEnded); err != nil && !refused || refused && !c.ended {
				t.Errorf("got error %v", err)
			}
			reused := false
			entries, _, err := store.Audit(t.Context(), accounts.AuditFilter{}, 100, "")
			for _, e := range entries {
				reused = reused || e.Action == accounts.ActionSessionEnded && e.Detail == accounts.DetailReuse && e.UserID == u.ID && e.ActorName == ""
			}
			if err != nil || reused != c.ended {
				t.Errorf("got the audit trail %+v and error %v, want an entry for the reuse: %t", entries, err, c.ended)
			}
			if c.ended {
				wantEnded(t, store, "the newest token of the ended session", newest)
			} else {
				refreshed(t, store, newest)
			}
			for _, continues := range []string{second, other} {
				refreshed(t, store, continues)
			}
		})
	}
}

// refresh returns a function that uses a refresh token for a refresh.
func refresh(t *testing.T) func(store *accounts.Store, refresh string) error {
	return func(store *accounts.Store, refresh string) error {
		_, _, _, err := store.Refresh(t.Context(), refresh, lifetimes)
		return err
	}
}

// signOut returns a function that uses a refresh token to end one or all sessions.
func signOut(t *testing.T, all bool) func(store *accounts.Store, refresh string) error {
	return func(store *accounts.Store, refresh string) error {
		return store.EndSession(t.Context(), refresh, all, accounts.Actor{Address: elsewhere})
	}
}

// TestEndedSession proves that a session cannot be used after it has ended, no matter why it has ended. Its
// refresh token does not refresh the session, does not end other sessions and does not add entries to the audit trail.
// Its access token is not current.
func TestEndedSession(t *testing.T) {
	clock, dsn := newClock(), servertest.AccountsDSN(t)
	store, db := servertest.OpenAccounts(t, dsn, clock.Now), servertest.OpenSQL(t, dsn)
	root := servertest.CreateAccount(t, store, "root", "admin")
	type setting struct {
		user    accounts.User
		session accounts.Session
		refresh string
	}
	execute := func(statement string) func(s *setting) error {
		return func(s *setting) error {
			_, err := db.ExecContext(t.Context(), statement, s.user.Username)
			return err
		}
	}
	update := func(patch accounts.Patch) func(s *setting) error {
		return func(s *setting) error {
			_, err := store.Update(t.Context(), actorOf(root), s.user.ID, patch)
			return err
		}
	}
	for name, c := range map[string]struct {
		end  func(s *setting) error
		rows int // the number of the user's rows in the table of sessions
	}{
		"sign-out":            {func(s *setting) error { return signOut(t, false)(store, s.refresh) }, 0},
		"sign-out everywhere": {func(s *setting) error { return signOut(t, true)(store, s.refresh) }, 0},
		"one session":         {func(s *setting) error { return store.EndOwnSession(t.Context(), actorOf(s.user), s.session.ID) }, 0},
		"other sessions":      {func(s *setting) error { return store.EndOtherSessions(t.Context(), actorOf(s.user), "") }, 0},
		"all, by an admin":    {func(s *setting) error { return store.EndSessions(t.Context(), actorOf(root), s.user.ID) }, 0},
		"password": {func(s *setting) error {
			_, err := store.ChangePassword(t.Context(), actorOf(s.user), "another hash")
			return err
		}, 0},
		"password reset": {update(accounts.Patch{PasswordHash: ptr("another hash")}), 0},
		"role":           {update(accounts.Patch{Role: ptr("admin")}), 0},
		"disabled":       {update(accounts.Patch{Disabled: ptr(true)}), 0},
		"deleted":        {func(s *setting) error { return store.Delete(t.Context(), actorOf(root), s.user.ID) }, 0},
		"too many sessions": {func(s *setting) error {
			for range 50 {
				clock.add(time.Second)
				signIn(t, store, s.user, "")
			}
			return nil
		}, 50},
		"lifetime": {func(s *setting) error {
			for range 2 {
				clock.add(8 * time.Hour)
				s.refresh = refreshed(t, store, s.refresh)
			}
			clock.add(8 * time.Hour)
			return nil
		}, 1},
		"idle": {func(*setting) error { clock.add(12 * time.Hour); return nil }, 1},
		// An earlier version, or an operator, changes only the row of the user.
		"version in the database":  {execute(`UPDATE users SET token_version = token_version + 1 WHERE username = ?`), 1},
		"disabled in the database": {execute(`UPDATE users SET disabled_at = updated_at WHERE username = ?`), 1},
		"deleted in the database":  {execute(`DELETE FROM users WHERE username = ?`), 1},
	} {
		for use, try := range map[string]struct {
			use  func(s *setting) error
			want error
		}{
			"refresh":             {func(s *setting) error { return refresh(t)(store, s.refresh) }, problem.SessionEnded},
			"sign-out":            {func(s *setting) error { return signOut(t, false)(store, s.refresh) }, nil},
			"sign-out everywhere": {func(s *setting) error { return signOut(t, true)(store, s.refresh) }, nil},
			// The functions accounts and validate, and files for links, call Current.
			"access token": {func(s *setting) error {
				_, err := store.Current(t.Context(), &token.Claims{Subject: s.user.ID, Version: s.user.TokenVersion, Session: s.session.ID})
				return err
			}, token.ErrStale},
		} {
			t.Run(name+", "+use, func(t *testing.T) {
				var s setting
				s.user = servertest.CreateAccount(t, store, servertest.UniqueName(), "user")
				s.session, s.refresh = signIn(t, store, s.user, "")
				if err := c.end(&s); err != nil {
					t.Fatal(err)
				}
				before, trail := usersOf(t, store), servertest.AuditTrail(t, store)
				var rows int
				if err := db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM sessions WHERE user_id = UNHEX(REPLACE(?, '-', ''))`, s.user.ID).Scan(&rows); err != nil || rows != c.rows {
					t.Errorf("got %d sessions and error %v, want %d", rows, err, c.rows)
				}
				err := try.use(&s)
				if !errors.Is(err, try.want) {
					t.Errorf("got error %v, want %v", err, try.want)
				}
				if after := usersOf(t, store); !slices.Equal(after, before) {
					t.Errorf("got users %v, want the unchanged users %v", after, before)
				}
				if after := servertest.AuditTrail(t, store); !slices.Equal(after, trail) {
					t.Errorf("got the audit trail %q, want the unchanged audit trail %q", after, trail)
				}
			})
		}
	}
}

// usersOf returns the first users.
func usersOf(t *testing.T, store *accounts.Store) []accounts.User {
	t.Helper()
	users, _, err := store.List(t.Context(), accounts.MaxLimit, "")
	if err != nil {
		t.Fatal(err)
	}
	return users
}

// TestSessions proves that a user can list their own sessions and end one session or all other sessions, and that the
// audit trail records it.
func TestSessions(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	u, _ := startSession(t, store, "ada")
	grace, _ := startSession(t, store, "grace")
	clock.add(time.Minute)
	laptop, _ := signIn(t, store, u, "laptop")
	phone, onPhone := signIn(t, store, u, "phone")
	clock.add(time.Minute)
	refreshed(t, store, onPhone)
	want := fmt.Sprint([]string{"phone 12:02", "laptop 12:01", " 12:00"})
	if got := describe(t, store, u); got != want {
		t.Errorf("got the sessions %s, want %s", got, want)
	}
	all, err := store.Sessions(t.Context(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := all[0]; got.ID != phone.ID || got.Address != home || got.Method != accounts.MethodPassword ||
		!got.StartedAt.Equal(phone.StartedAt) || !got.ExpiresAt.Equal(clock.Now().Add(lifetimes.Idle)) {
		t.Errorf("got the session %+v, want the session %+v after a refresh", got, phone)
	}
	for _, id := range []string{"", "x", graceSession(t, store, grace)} {
		if err := store.EndOwnSession(t.Context(), actorOf(u), id); !errors.Is(err, problem.NotFound) {
			t.Errorf("end session %q: got error %v, want %v", id, err, problem.NotFound)
		}
	}
	before := len(servertest.AuditTrail(t, store))
	for range 2 { // the second call changes nothing
		if err := store.EndOtherSessions(t.Context(), actorOf(u), laptop.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := describe(t, store, u), "[laptop 12:01]"; got != want {
		t.Errorf("after the end of other sessions: got %s, want %s", got, want)
	}
	if err := store.EndOwnSession(t.Context(), actorOf(u), laptop.ID); err != nil {
		t.Fatal(err)
	}
	if got := describe(t, store, u); got != "[]" {
		t.Errorf("after the end of all sessions: got %s, want none", got)
	}
	if got, want := describe(t, store, grace), "[ 12:00]"; got != want {
		t.Errorf("sessions of grace: got %s, want %s", got, want)
	}
	if got, want := servertest.AuditTrail(t, store)[before:], []string{"ada sessions.ended ada", "ada session.ended ada"}; !slices.Equal(got, want) {
		t.Errorf("got the audit entries %q, want %q", got, want)
	}
}

// TestEndSessions proves that only an admin can end the sessions of another user, and that the audit trail records it.
func TestEndSessions(t *testing.T) {
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	root := servertest.CreateAccount(t, store, "root", "admin")
	ada, _ := startSession(t, store, "ada")
	grace, _ := startSession(t, store, "grace")
	before := len(servertest.AuditTrail(t, store))
	for _, step := range []struct {
		by   accounts.User
		user string
		want error
	}{
		{grace, ada.ID, token.ErrStale},
		{root, servertest.UniqueName(), problem.NotFound},
		{root, "0195a3f0-0000-7000-8000-000000000001", problem.NotFound},
		{root, ada.ID, nil},
	} {
		if err := store.EndSessions(t.Context(), actorOf(step.by), step.user); !errors.Is(err, step.want) {
			t.Errorf("%s ends the sessions of %s: got error %v, want %v", step.by.Username, step.user, err, step.want)
		}
	}
	if all, err := store.Sessions(t.Context(), grace.ID); err != nil || len(all) != 1 {
		t.Errorf("got %d sessions of grace and error %v, want 1", len(all), err)
	}
	if got, want := servertest.AuditTrail(t, store)[before:], []string{"root sessions.ended ada"}; !slices.Equal(got, want) {
		t.Errorf("got the audit entries %q, want %q", got, want)
	}
}

// describe returns the devices and the last uses of a user's sessions.
func describe(t *testing.T, store *accounts.Store, u accounts.User) string {
	t.Helper()
	all, err := store.Sessions(t.Context(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	lines := make([]string, len(all))
	for i, s := range all {
		lines[i] = s.Device + s.LastUsedAt.Format(" 15:04")
	}
	return fmt.Sprint(lines)
}

// graceSession returns the ID of a session of another user.
func graceSession(t *testing.T, store *accounts.Store, u accounts.User) string {
	t.Helper()
	all, err := store.Sessions(t.Context(), u.ID)
	if err != nil || len(all) == 0 {
		t.Fatalf("got %d sessions and error %v, want 1 session", len(all), err)
	}
	return all[0].ID
}

// TestSessionLimit proves that a user has at most 50 sessions, even if the user signs in concurrently on two replicas,
// and that the oldest sessions end.
func TestSessionLimit(t *testing.T) {
	clock, dsn := newClock(), servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn, clock.Now)
	u, oldest := startSession(t, store, "ada")
	clock.add(time.Second)
	for range 49 {
		signIn(t, store, u, "")
	}
	oldest = refreshed(t, store, oldest) // the 50th session does not end the oldest session
	clock.add(time.Second)
	replicas := []*accounts.Store{store, servertest.OpenAccounts(t, dsn, clock.Now)}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if _, _, err := replicas[i%2].StartSession(t.Context(), u, accounts.SignIn{}, lifetimes); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantEnded(t, store, "a token of the oldest session", oldest)
	entries, _, err := store.Audit(t.Context(), accounts.AuditFilter{}, 100, "")
	ended := 0
	for _, e := range entries {
		if e.Action == accounts.ActionSessionEnded && e.Detail == accounts.DetailLimit && e.UserID == u.ID && e.ActorID == u.ID {
			ended++
		}
	}
	if err != nil || ended != 10 {
		t.Errorf("got %d entries for sessions that ended because of the limit, and error %v, want 10", ended, err)
	}
	_, newest := signIn(t, store, u, "")
	refreshed(t, store, newest)
	if n := servertest.CountRows(t, dsn, "sessions"); n != 50 {
		t.Errorf("got %d sessions, want 50", n)
	}
}

// TestFailedStart proves that a session is not in the list if a statement of its start fails.
func TestFailedStart(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	direct := servertest.OpenAccounts(t, dsn)
	u := servertest.CreateAccount(t, direct, "ada", "user")
	proxy, through := startSQLProxy(t, dsn)
	store := servertest.OpenAccounts(t, through)
	for n := range 3 {
		proxy.begin(&sqlFault{number: 1053}, n)
		_, _, err := store.StartSession(t.Context(), u, accounts.SignIn{}, lifetimes)
		if hit := proxy.end(); hit == "" || err == nil {
			t.Fatalf("statement %d: got %q and error %v, want a fault", n, hit, err)
		}
		if all, err := direct.Sessions(t.Context(), u.ID); err != nil || len(all) != 0 {
			t.Errorf("fault in statement %d: got the sessions %+v and error %v, want none", n, all, err)
		}
	}
}

// TestEarlierSessions proves that a session that an earlier version has started continues, unless it is older than the
// current lifetime. The access tokens of an earlier version remain current.
func TestEarlierSessions(t *testing.T) {
	clock, dsn := newClock(), servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn, clock.Now)
	u, first := startSession(t, store, "ada")
	_, older := startSession(t, store, "grace")
	statement := `UPDATE sessions SET method = DEFAULT, address = DEFAULT, device = DEFAULT, last_used_at = DEFAULT, expires_at = ?`
	if _, err := servertest.OpenSQL(t, dsn).ExecContext(t.Context(), statement, clock.Now().Add(720*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Current(t.Context(), &token.Claims{Subject: u.ID, Version: u.TokenVersion}); err != nil {
		t.Error(err)
	}
	if got, want := describe(t, store, u), "[ 12:00]"; got != want {
		t.Errorf("got the sessions %s, want %s", got, want)
	}
	clock.add(13 * time.Hour) // longer than the idle time
	_, session, next, err := store.Refresh(t.Context(), first, lifetimes)
	if err != nil {
		t.Fatal(err)
	}
	if session.Method != accounts.MethodPassword || session.Address != (netip.Addr{}) || !session.ExpiresAt.Equal(session.StartedAt.Add(lifetimes.Total)) {
		t.Errorf("got the session %+v, want a sign-in with a password at an unknown address, and the current lifetime", session)
	}
	clock.add(11 * time.Hour)
	wantEnded(t, store, "a token after the current lifetime", next)
	wantEnded(t, store, "a session that is older than the current lifetime", older)
}

// TestRefreshAtOnce proves that many tabs that refresh one session at the same time on several replicas stay signed in,
// and that each of the new tokens works afterwards. Beyond 100 tokens, a request is refused, but the session continues.
func TestRefreshAtOnce(t *testing.T) {
	for _, c := range []struct{ tabs, passed int }{{12, 12}, {40, 40}, {110, 99}} {
		t.Run(fmt.Sprint(c.tabs), func(t *testing.T) {
			clock, dsn := newClock(), servertest.AccountsDSN(t)
			replicas := []*accounts.Store{servertest.OpenAccounts(t, dsn, clock.Now), servertest.OpenAccounts(t, dsn, clock.Now), servertest.OpenAccounts(t, dsn, clock.Now)}
			_, first := startSession(t, replicas[0], "ada")
			var wg sync.WaitGroup
			var refused atomic.Int32
			tokens := make(chan string, c.tabs)
			for i := range c.tabs {
				wg.Go(func() {
					switch _, _, next, err := replicas[i%3].Refresh(t.Context(), first, lifetimes); {
					case err == nil:
						tokens <- next
					case errors.Is(err, problem.TooManyRefreshes):
						refused.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			close(tokens)
			if len(tokens) != c.passed || int(refused.Load()) != c.tabs-c.passed {
				t.Fatalf("got %d successful and %d refused refreshes, want %d and %d", len(tokens), refused.Load(), c.passed, c.tabs-c.passed)
			}
			if c.passed < c.tabs {
				clock.add(10*time.Second + time.Microsecond) // the used token expires
				refreshed(t, replicas[0], <-tokens)
				return
			}
			for next := range tokens {
				if len(tokens) > c.tabs-5 { // a few tabs continue immediately
					refreshed(t, replicas[1], next)
				}
			}
		})
	}
}
