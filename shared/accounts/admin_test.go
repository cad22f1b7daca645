package accounts_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// actorOf returns u as the actor of a change, as if u had a new access token.
func actorOf(u accounts.User) accounts.Actor {
	return accounts.Actor{ID: u.ID, Username: u.Username, Version: u.TokenVersion, Address: home, RequestID: "request-1"}
}

func ptr[T any](v T) *T { return &v }

// TestPermittedChanges proves that each permitted change of an account has its effect, and adds its audit entries. A
// change that must void the access tokens of the user increases the token version.
func TestPermittedChanges(t *testing.T) {
	now := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	grace := servertest.CreateAccount(t, store, "grace", "admin")
	by := actorOf(grace)
	ada, err := store.Create(t.Context(), by, accounts.NewUser{Username: "ADA", PasswordHash: "first", Role: "user", MustChangePassword: true})
	if err != nil {
		t.Fatal(err)
	}
	if found, err := store.ByID(t.Context(), ada.ID); err != nil || found != ada || !ada.MustChangePassword {
		t.Errorf("ByID after Create: got %+v, %v, want %+v, who must change the password", found, err, ada)
	}
	// Each step is a change of ada, with the expected role, disabled state and token version.
	for _, step := range []struct {
		patch    accounts.Patch
		role     string
		disabled bool
		version  int
	}{
		{accounts.Patch{}, "user", false, 1},
		{accounts.Patch{Role: ptr("user"), Disabled: ptr(false)}, "user", false, 1},
		{accounts.Patch{Role: ptr("admin")}, "admin", false, 2},
		{accounts.Patch{Disabled: ptr(true)}, "admin", true, 3},
		{accounts.Patch{Disabled: ptr(true)}, "admin", true, 3},
		{accounts.Patch{Disabled: ptr(false)}, "admin", false, 3},
		{accounts.Patch{PasswordHash: ptr("second")}, "admin", false, 4},
		{accounts.Patch{Role: ptr("user"), Disabled: ptr(true), PasswordHash: ptr("third")}, "user", true, 5},
		{accounts.Patch{Disabled: ptr(false), PasswordHash: ptr("fourth")}, "user", false, 6},
	} {
		now.add(1)
		got, err := store.Update(t.Context(), by, ada.ID, step.patch)
		if err != nil {
			t.Fatalf("update with %+v: %v", step, err)
		}
		if got.Role != step.role || got.Disabled != step.disabled || got.TokenVersion != step.version {
			t.Errorf("update with %+v: got %+v", step, got)
		}
		if found, err := store.ByID(t.Context(), ada.ID); err != nil || found != got {
			t.Errorf("ByID after an update with %+v: got %+v, %v, want %+v", step, found, err, got)
		}
	}
	if u, err := store.ByUsername(t.Context(), "ada"); err != nil || u.PasswordHash != "fourth" {
		t.Errorf("ByUsername after the updates: got %+v, %v, want the fourth hash", u, err)
	}
	ada.TokenVersion = 6
	changed, err := store.ChangePassword(t.Context(), actorOf(ada), "fifth")
	if err != nil || changed.PasswordHash != "fifth" || changed.TokenVersion != 7 || changed.MustChangePassword {
		t.Errorf("ChangePassword: got %+v, %v, want the fifth hash, token version 7, and a password that can stay", changed, err)
	}
	if u, err := store.ByID(t.Context(), ada.ID); err != nil || u != changed {
		t.Errorf("ByID after ChangePassword: got %+v, %v, want %+v", u, err, changed)
	}
	if err := store.Delete(t.Context(), by, ada.ID); err != nil {
		t.Error(err)
	}
	if err := store.Delete(t.Context(), by, ada.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("second Delete: got error %v, want problem.NotFound", err)
	}
	want := []string{
		"setup user.created grace admin",
		"grace user.created ada user",
		"grace role.changed ada admin",
		"grace user.disabled ada",
		"grace user.enabled ada",
		"grace password.reset ada",
		"grace role.changed ada user", "grace user.disabled ada", "grace password.reset ada",
		"grace user.enabled ada", "grace password.reset ada",
		"ada password.changed ada",
		"grace user.deleted ada",
	}
	if got := servertest.AuditTrail(t, store); !slices.Equal(got, want) {
		t.Errorf("audit trail: got %q, want %q", got, want)
	}
	entries, _, err := store.Audit(t.Context(), accounts.AuditFilter{}, 100, "")
	if err != nil {
		t.Fatal(err)
	}
	first, last := entries[len(entries)-1], entries[0]
	if want := (accounts.AuditEntry{ID: first.ID, MadeAt: newClock().Now(), Action: "user.created", ActorName: "setup", UserID: grace.ID, Username: "grace", Role: "admin"}); first != want {
		t.Errorf("audit entry of setup: got %+v, want %+v", first, want)
	}
	if want := (accounts.AuditEntry{ID: last.ID, MadeAt: last.MadeAt, Action: "user.deleted", ActorID: grace.ID, ActorName: "grace", UserID: ada.ID, Username: "ada", Address: "192.0.2.1", RequestID: "request-1"}); last != want {
		t.Errorf("last audit entry: got %+v, want %+v", last, want)
	}
}

// TestPasswordOfAnotherPerson proves that users must change a password that an admin has set for them. A user who has
// set the password, including an admin who resets it, does not have to change it. Other changes have no effect on this.
// After 7 days, a user cannot sign in with a password that an admin has set.
func TestPasswordOfAnotherPerson(t *testing.T) {
	now := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	grace, ada := servertest.CreateAccount(t, store, "grace", "admin"), servertest.CreateAccount(t, store, "ada", "user")
	for _, step := range []struct {
		who   *accounts.User
		patch accounts.Patch
		must  bool
	}{
		{&ada, accounts.Patch{Role: ptr("admin")}, false},
		{&ada, accounts.Patch{PasswordHash: ptr("reset"), Role: ptr("user")}, true},
		{&ada, accounts.Patch{Disabled: ptr(true)}, true},
		{&ada, accounts.Patch{Disabled: ptr(false)}, true},
		{&grace, accounts.Patch{PasswordHash: ptr("own")}, false},
	} {
		changed, err := store.Update(t.Context(), actorOf(grace), step.who.ID, step.patch)
		if err != nil {
			t.Fatal(err)
		}
		if changed.MustChangePassword != step.must {
			t.Errorf("%s after %+v: got %t, want %t", changed.Username, step.patch, changed.MustChangePassword, step.must)
		}
		if want := now.Now().Add(7 * 24 * time.Hour); step.must && changed.PasswordExpiresAt != want || !step.must && !changed.PasswordExpiresAt.IsZero() {
			t.Errorf("%s after %+v: the password expires at %s, want %s if it must be changed", changed.Username, step.patch, changed.PasswordExpiresAt, want)
		}
		*step.who = changed
	}
	first, err := store.Create(t.Context(), accounts.Setup, accounts.NewUser{Username: "first", PasswordHash: "hash", Role: "admin", MustChangePassword: true})
	if err != nil {
		t.Fatal(err)
	}
	created, err := store.Create(t.Context(), actorOf(grace), accounts.NewUser{Username: "eve", PasswordHash: "hash", Role: "user", MustChangePassword: true})
	if err != nil {
		t.Fatal(err)
	}
	now.add(7*24*time.Hour - time.Microsecond)
	for _, expired := range []bool{false, true} {
		for u, expires := range map[accounts.User]bool{ada: true, created: true, first: false, grace: false} {
			_, err := store.Attempt(t.Context(), accounts.Attempt{Username: u.Username, Address: home}, right)
			if refused := errors.Is(err, accounts.ErrBadCredentials); err != nil && !refused || refused != (expired && expires) {
				t.Errorf("%s, after 7 days: %t: got error %v", u.Username, expired, err)
			}
		}
		now.add(time.Microsecond)
	}
	changed, err := store.ChangePassword(t.Context(), actorOf(created), "own")
	if err != nil || !changed.PasswordExpiresAt.IsZero() {
		t.Errorf("own password: got %+v and error %v, want a password that does not expire", changed, err)
	}
}

// TestPasswordsDoNotExpire proves that a password can be used for any time, and that a user can choose an earlier
// password (OWASP ASVS 4.0.3, 2.1.10).
func TestPasswordsDoNotExpire(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	ada := servertest.CreateAccount(t, store, "ada", "user")
	for _, hash := range []string{"another hash", ada.PasswordHash, "another hash"} {
		var err error
		if ada, err = store.ChangePassword(t.Context(), actorOf(ada), hash); err != nil {
			t.Fatal(err)
		}
		clock.add(10 * 365 * 24 * time.Hour)
		if got, err := store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: home}, right); err != nil || got.MustChangePassword {
			t.Errorf("after ten years: got %+v, %v, want a sign-in without a change of the password", got, err)
		}
	}
}

func TestHasAdmin(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn)
	check := func(state string, want bool) {
		t.Helper()
		if got, err := store.HasAdmin(t.Context()); got != want || err != nil {
			t.Errorf("%s: got %t, %v, want %t", state, got, err, want)
		}
	}
	check("no account", false)
	servertest.CreateAccount(t, store, "ada", "user")
	check("only a user", false)
	servertest.CreateAccount(t, store, "grace", "admin")
	check("an admin", true)
	// No function can disable the last admin, but an operator can.
	if _, err := servertest.OpenSQL(t, dsn).ExecContext(t.Context(), `UPDATE users SET disabled_at = '2026-01-01' WHERE username = 'grace'`); err != nil {
		t.Fatal(err)
	}
	check("only a disabled admin", false)
}

// TestRefusedChanges proves that forbidden and invalid changes fail with the right error. A refused change modifies no
// account and adds no audit entry.
func TestRefusedChanges(t *testing.T) {
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	grace := servertest.CreateAccount(t, store, "grace", "admin")
	ada := servertest.CreateAccount(t, store, "ada", "user")
	gone := servertest.CreateAccount(t, store, "gone", "admin")
	by := actorOf(grace)
	if _, err := store.Update(t.Context(), by, gone.ID, accounts.Patch{Disabled: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	before := servertest.AuditTrail(t, store)
	late := by
	late.Version = 0
	const nobody = "0195a3f0-0000-7000-8000-000000000000"
	makes := func(by accounts.Actor, name, role string) error {
		_, err := store.Create(t.Context(), by, accounts.NewUser{Username: name, PasswordHash: "hash", Role: role})
		return err
	}
	changes := func(by accounts.Actor, id string, patch accounts.Patch) error {
		_, err := store.Update(t.Context(), by, id, patch)
		return err
	}
	changesPassword := func(by accounts.Actor) error {
		_, err := store.ChangePassword(t.Context(), by, "x")
		return err
	}
	for name, test := range map[string]struct{ got, want error }{
		"last admin demoted":            {changes(by, grace.ID, accounts.Patch{Role: ptr("user")}), accounts.ErrLastAdmin},
		"last admin disabled":           {changes(by, grace.ID, accounts.Patch{Disabled: ptr(true)}), accounts.ErrLastAdmin},
		"last admin demoted with reset": {changes(by, grace.ID, accounts.Patch{Role: ptr("user"), PasswordHash: ptr("x")}), accounts.ErrLastAdmin},
		"last admin deleted":            {store.Delete(t.Context(), by, grace.ID), accounts.ErrLastAdmin},
		"unknown role":                  {changes(by, ada.ID, accounts.Patch{Role: ptr("root")}), problem.Unprocessable},
		"unknown user changed":          {changes(by, nobody, accounts.Patch{Role: ptr("user")}), problem.NotFound},
		"invalid ID":                    {changes(by, "x", accounts.Patch{Role: ptr("user")}), problem.NotFound},
		"ID in another form":            {store.Delete(t.Context(), by, "{"+ada.ID+"}"), problem.NotFound},
		"name already in use":           {makes(by, "Ada", "user"), problem.Conflict},
		"invalid name":                  {makes(by, " ", "user"), problem.Unprocessable},
		"new user with unknown role":    {makes(by, "eve", "root"), problem.Unprocessable},
		"created by a user":             {makes(actorOf(ada), "eve", "admin"), token.ErrStale},
		"created by a disabled admin":   {makes(actorOf(gone), "eve", "admin"), token.ErrStale},
		"created with an old token":     {makes(late, "eve", "admin"), token.ErrStale},
		"created by nobody":             {makes(accounts.Actor{Username: "eve"}, "eve", "admin"), token.ErrStale},
		"changed by a user":             {changes(actorOf(ada), ada.ID, accounts.Patch{Role: ptr("admin")}), token.ErrStale},
		"changed with an old token":     {changes(late, ada.ID, accounts.Patch{Role: ptr("admin")}), token.ErrStale},
		"deleted by a user":             {store.Delete(t.Context(), actorOf(ada), grace.ID), token.ErrStale},
		"own password, old token":       {changesPassword(late), token.ErrStale},
		"own password, disabled user":   {changesPassword(actorOf(gone)), token.ErrStale},
		"own password, unknown user":    {changesPassword(accounts.Actor{ID: nobody, Version: 1}), token.ErrStale},
	} {
		if !errors.Is(test.got, test.want) {
			t.Errorf("%s: got error %v, want %v", name, test.got, test.want)
		}
	}
	if got := servertest.AuditTrail(t, store); !slices.Equal(got, before) {
		t.Errorf("audit trail: got %q, want %q", got, before)
	}
	for _, u := range []accounts.User{grace, ada} {
		if got, err := store.ByID(t.Context(), u.ID); err != nil || got != u {
			t.Errorf("ByID: got %+v, %v, want the unchanged user %+v", got, err, u)
		}
	}
	for name, test := range map[string]struct {
		id      string
		version int
		want    error
	}{
		"current version": {grace.ID, 1, nil}, "old version": {grace.ID, 0, token.ErrStale},
		"future version": {grace.ID, 2, token.ErrStale}, "disabled user": {gone.ID, 2, token.ErrStale},
		"unknown user": {nobody, 1, token.ErrStale}, "empty ID": {"", 1, token.ErrStale},
	} {
		if _, err := store.Current(t.Context(), &token.Claims{Subject: test.id, Version: test.version}); !errors.Is(err, test.want) {
			t.Errorf("Current with %s: got error %v, want %v", name, err, test.want)
		}
	}
}

// TestLastAdminsAtOnce proves that one admin always remains. In each round, the last two admins demote, disable or
// delete themselves or each other at the same time on two replicas. Exactly one of these changes succeeds.
func TestLastAdminsAtOnce(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	stores := []*accounts.Store{servertest.OpenAccounts(t, dsn), servertest.OpenAccounts(t, dsn)}
	keeper := servertest.CreateAccount(t, stores[0], "keeper", "admin")
	demote := func(s *accounts.Store, by accounts.Actor, id string) error {
		_, err := s.Update(t.Context(), by, id, accounts.Patch{Role: ptr("user")})
		return err
	}
	disable := func(s *accounts.Store, by accounts.Actor, id string) error {
		_, err := s.Update(t.Context(), by, id, accounts.Patch{Disabled: ptr(true)})
		return err
	}
	remove := func(s *accounts.Store, by accounts.Actor, id string) error { return s.Delete(t.Context(), by, id) }
	removals := []func(*accounts.Store, accounts.Actor, string) error{demote, disable, remove}
	for round := range 18 {
		pair := make([]accounts.User, 2)
		for i := range pair {
			pair[i] = servertest.CreateAccount(t, stores[0], fmt.Sprintf("admin %d of round %d", i, round), "admin")
		}
		// Demote the admin who remained in the previous round, so that only the two new admins remain.
		if err := demote(stores[0], actorOf(pair[0]), keeper.ID); err != nil {
			t.Fatal(err)
		}
		var done atomic.Int32
		var wg sync.WaitGroup
		for i := range pair {
			wg.Go(func() {
				victim := pair[i]
				if round%2 == 1 {
					victim = pair[1-i]
				}
				err := removals[(round/2+i)%3](stores[i], actorOf(pair[i]), victim.ID)
				switch {
				case err == nil:
					done.Add(1)
				case !errors.Is(err, accounts.ErrLastAdmin) && !errors.Is(err, token.ErrStale):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if done.Load() != 1 {
			t.Fatalf("round %d: got %d successful removals, want 1", round, done.Load())
		}
		users, _, err := stores[0].List(t.Context(), 100, "")
		if err != nil {
			t.Fatal(err)
		}
		admins := slices.DeleteFunc(users, func(u accounts.User) bool { return u.Role != "admin" || u.Disabled })
		if len(admins) != 1 {
			t.Fatalf("round %d: got %d admins, want 1", round, len(admins))
		}
		keeper = admins[0]
	}
	created, removed := 0, 0
	for _, line := range servertest.AuditTrail(t, stores[1]) {
		if line[:5] == "setup" {
			created++
		} else {
			removed++
		}
	}
	if created != 37 || removed != 36 {
		t.Errorf("audit trail: got %d created and %d removed admins, want 37 and 36", created, removed)
	}
}

// TestListUsers proves that List returns all users in the order of the bytes of their names, with any page size, and
// that changes between two pages neither repeat nor skip a user. The same applies to the pages of the audit trail.
// Invalid limits and cursors are refused.
func TestListUsers(t *testing.T) {
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	if users, next, err := store.List(t.Context(), 10, ""); err != nil || len(users) != 0 || next != "" {
		t.Errorf("List without users: got %v, %q, %v, want an empty page without a cursor", users, next, err)
	}
	names := []string{"a", "b", "ba", "c d", "e", "é", "日本"} // sorted by bytes
	for _, name := range []string{"日本", "e", "b", "é", "a", "c d", "ba"} {
		servertest.CreateAccount(t, store, name, "user")
	}
	for limit := 1; limit <= 8; limit++ {
		var got []string
		for cursor, page := "", 1; ; page++ {
			users, next, err := store.List(t.Context(), limit, cursor)
			if err != nil {
				t.Fatal(err)
			}
			if len(users) != limit && next != "" {
				t.Errorf("limit %d: got %d users on a page with a cursor, want %d", limit, len(users), limit)
			}
			for _, u := range users {
				got = append(got, u.Username)
			}
			if next == "" {
				break
			}
			cursor = next
		}
		if !slices.Equal(got, names) {
			t.Errorf("limit %d: got %q, want %q", limit, got, names)
		}
	}
	// Between two pages, a new user before the cursor and the deletion of the user at the cursor do not shift the next
	// page.
	users, next, err := store.List(t.Context(), 3, "")
	if err != nil {
		t.Fatal(err)
	}
	servertest.CreateAccount(t, store, "aa", "user")
	admin := servertest.CreateAccount(t, store, "zz", "admin")
	if err := store.Delete(t.Context(), actorOf(admin), users[2].ID); err != nil {
		t.Fatal(err)
	}
	var rest []string
	users, _, err = store.List(t.Context(), 100, next)
	for _, u := range users {
		rest = append(rest, u.Username)
	}
	if want := []string{"c d", "e", "zz", "é", "日本"}; err != nil || !slices.Equal(rest, want) {
		t.Errorf("second page: got %q, %v, want %q", rest, err, want)
	}
	// A new audit entry, which is the first of the audit trail, does not shift the next page.
	entries, next, err := store.Audit(t.Context(), accounts.AuditFilter{}, 2, "")
	if err != nil {
		t.Fatal(err)
	}
	servertest.CreateAccount(t, store, "later", "user")
	older, _, err := store.Audit(t.Context(), accounts.AuditFilter{}, 1, next)
	if err != nil || older[0].ID >= entries[1].ID || older[0].Username != "aa" {
		t.Errorf("audit entry after %+v: got %+v, %v, want the creation of aa", entries, older, err)
	}
	for _, limit := range []int{0, -1, 101} {
		_, _, listErr := store.List(t.Context(), limit, "")
		_, _, auditErr := store.Audit(t.Context(), accounts.AuditFilter{}, limit, "")
		if !errors.Is(listErr, problem.BadRequest) || !errors.Is(auditErr, problem.BadRequest) {
			t.Errorf("limit %d: got the errors %v and %v, want problem.BadRequest", limit, listErr, auditErr)
		}
	}
	for _, cursor := range []string{"!", "_w", "x"} {
		_, _, listErr := store.List(t.Context(), 1, cursor)
		_, _, auditErr := store.Audit(t.Context(), accounts.AuditFilter{}, 1, cursor)
		if !errors.Is(listErr, problem.BadRequest) || !errors.Is(auditErr, problem.BadRequest) {
			t.Errorf("cursor %q: got the errors %v and %v, want problem.BadRequest", cursor, listErr, auditErr)
		}
	}
}

// TestNoChangeWithoutAudit proves that no account changes without an audit entry. If the audit table does not exist,
// each change returns problem.Unavailable and leaves the accounts unchanged.
func TestNoChangeWithoutAudit(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	store := servertest.OpenAccounts(t, dsn)
	grace, ada := servertest.CreateAccount(t, store, "grace", "admin"), servertest.CreateAccount(t, store, "ada", "user")
	root := servertest.OpenSQL(t, admin)
	if _, err := root.ExecContext(t.Context(), fmt.Sprintf("RENAME TABLE %[1]s.audit TO %[1]s.elsewhere", servertest.DatabaseName(t, dsn))); err != nil {
		t.Fatal(err)
	}
	by := actorOf(grace)
	_, created := store.Create(t.Context(), by, accounts.NewUser{Username: "eve", PasswordHash: "hash", Role: "user"})
	_, updated := store.Update(t.Context(), by, ada.ID, accounts.Patch{Disabled: ptr(true)})
	_, changed := store.ChangePassword(t.Context(), by, "x")
	for name, err := range map[string]error{
		"create": created, "update": updated, "delete": store.Delete(t.Context(), by, ada.ID),
		"password": changed,
	} {
		if !errors.Is(err, problem.Unavailable) {
			t.Errorf("%s: got error %v, want problem.Unavailable", name, err)
		}
	}
	users, _, err := store.List(t.Context(), 100, "")
	if err != nil || !slices.Equal(users, []accounts.User{ada, grace}) {
		t.Errorf("got the users %+v, %v, want the unchanged users %+v", users, err, []accounts.User{ada, grace})
	}
}
