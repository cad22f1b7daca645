package accounts_test

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// challenge returns a challenge that has the number n and expires in five minutes.
func challenge(now time.Time, n byte) accounts.Challenge {
	return accounts.Challenge{Nonce: [16]byte{n}, Expires: now.Add(5 * time.Minute)}
}

// addPasskey adds a passkey with the credential ID n.
func addPasskey(t *testing.T, store *accounts.Store, now time.Time, u accounts.User, n byte) accounts.Passkey {
	t.Helper()
	p, err := store.AddPasskey(t.Context(), actorOf(u), accounts.Passkey{CredentialID: []byte{n}, Credential: []byte("{}"),
		Party: "files.example", Name: fmt.Sprint("Key ", n)}, challenge(now, n))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// auditActions returns the actions in the audit trail, oldest first.
func auditActions(t *testing.T, store *accounts.Store) (actions []string) {
	t.Helper()
	entries, _, err := store.Audit(t.Context(), accounts.AuditFilter{}, 100, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(entries) {
		actions = append(actions, e.Action)
	}
	return actions
}

// TestPasskeys proves that a user can add, use, rename and remove passkeys, and that the audit trail has each change.
func TestPasskeys(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	ada := servertest.CreateAccount(t, store, "ada", "user")
	first := addPasskey(t, store, clock.Now(), ada, 1)
	second := addPasskey(t, store, clock.Now(), ada, 2)
	owned, u, err := store.PasskeyOwner(t.Context(), []byte{2})
	if err != nil || !reflect.DeepEqual(owned, second) || u.ID != ada.ID || !u.HasPasskey || u.SecondFactor {
		t.Fatalf("owner of the second passkey: got %+v of %+v, %v, want %+v", owned, u, err, second)
	}
	clock.add(time.Hour)
	owned.Credential = []byte(`{"signCount":1}`)
	if err := store.UsePasskey(t.Context(), owned, challenge(clock.Now(), 3)); err != nil {
		t.Fatal(err)
	}
	renamed, err := store.RenamePasskey(t.Context(), actorOf(ada), second.ID, " My phone ")
	second.Credential, second.UsedAt, second.Name = owned.Credential, clock.Now(), "My phone"
	if err != nil || !reflect.DeepEqual(renamed, second) {
		t.Errorf("rename: got %+v, %v, want %+v", renamed, err, second)
	}
	if all, codes, err := store.Passkeys(t.Context(), ada.ID); err != nil || !reflect.DeepEqual(all, []accounts.Passkey{first, second}) || codes != 0 {
		t.Errorf("list: got %+v, %d recovery codes, %v, want both passkeys and no codes", all, codes, err)
	}
	if _, err := store.ReplaceRecoveryCodes(t.Context(), actorOf(ada)); err != nil {
		t.Fatal(err)
	}
	for i, p := range []accounts.Passkey{first, second} {
		if err := store.RemovePasskey(t.Context(), actorOf(ada), p.ID); err != nil {
			t.Fatal(err)
		}
		if all, codes, err := store.Passkeys(t.Context(), ada.ID); err != nil || len(all) != 1-i || codes != 10*(1-i) {
			t.Errorf("list after %d removals: got %d passkeys and %d recovery codes, %v", i+1, len(all), codes, err)
		}
	}
	want := []string{"user.created", "passkey.added", "passkey.added", "recovery-codes.created", "passkey.removed", "passkey.removed"}
	if got := auditActions(t, store); !slices.Equal(got, want) {
		t.Errorf("got the audit trail %q, want %q", got, want)
	}
}

// TestPasskeysRefused proves that changes of passkeys that are not allowed fail without an effect.
func TestPasskeysRefused(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	ada := servertest.CreateAccount(t, store, "ada", "user")
	eve := servertest.CreateAccount(t, store, "eve", "user")
	p := addPasskey(t, store, clock.Now(), ada, 1)
	stale := actorOf(eve)
	stale.Version--
	add := func(by accounts.Actor, p accounts.Passkey, c byte) error {
		_, err := store.AddPasskey(t.Context(), by, p, challenge(clock.Now(), c))
		return err
	}
	rename := func(id, name string) error {
		_, err := store.RenamePasskey(t.Context(), actorOf(eve), id, name)
		return err
	}
	named := func(name string) accounts.Passkey {
		return accounts.Passkey{CredentialID: []byte{9}, Credential: []byte("{}"), Name: name}
	}
	for name, test := range map[string]struct{ got, want error }{
		"existing credential ID":       {add(actorOf(eve), accounts.Passkey{CredentialID: []byte{1}, Credential: []byte("{}"), Name: "x"}, 50), problem.Conflict},
		"used challenge":               {add(actorOf(eve), named("x"), 1), accounts.ErrChallengeUsed},
		"outdated access token":        {add(stale, named("x"), 51), token.ErrStale},
		"no name":                      {add(actorOf(eve), named(" "), 52), problem.Unprocessable},
		"long name":                    {add(actorOf(eve), named(strings.Repeat("é", 65)), 53), problem.Unprocessable},
		"control character":            {add(actorOf(eve), named("a\nb"), 54), problem.Unprocessable},
		"large credential ID":          {add(actorOf(eve), accounts.Passkey{CredentialID: make([]byte, 1024), Name: "x"}, 55), problem.Unprocessable},
		"large credential":             {add(actorOf(eve), accounts.Passkey{CredentialID: []byte{9}, Credential: make([]byte, 8193), Name: "x"}, 56), problem.Unprocessable},
		"rename of another's passkey":  {rename(p.ID, "x"), problem.NotFound},
		"rename with a malformed ID":   {rename("x", "x"), problem.NotFound},
		"rename without a name":        {rename(p.ID, ""), problem.Unprocessable},
		"removal of another's passkey": {store.RemovePasskey(t.Context(), actorOf(eve), p.ID), problem.NotFound},
		"removal with a malformed ID":  {store.RemovePasskey(t.Context(), actorOf(eve), "x"), problem.NotFound},
		"removal by a user":            {store.RemovePasskeys(t.Context(), actorOf(eve), ada.ID), token.ErrStale},
		"sign-in twice":                {store.UsePasskey(t.Context(), p, challenge(clock.Now(), 1)), accounts.ErrChallengeUsed},
		"removed passkey":              {store.UsePasskey(t.Context(), accounts.Passkey{ID: eve.ID}, challenge(clock.Now(), 57)), problem.NotFound},
		"requirement by a user":        {store.SetSecondFactors(t.Context(), actorOf(eve), []string{"user"}), token.ErrStale},
	} {
		if !errors.Is(test.got, test.want) {
			t.Errorf("%s: got error %v, want %v", name, test.got, test.want)
		}
	}
	if all, _, err := store.Passkeys(t.Context(), eve.ID); err != nil || len(all) != 0 {
		t.Errorf("got the passkeys %v, %v, want none", all, err)
	}
	for n := range byte(accounts.MaxPasskeys) {
		addPasskey(t, store, clock.Now(), eve, 100+n)
	}
	if err := add(actorOf(eve), named("x"), 58); !errors.Is(err, problem.Conflict) {
		t.Errorf("add more than %d passkeys: got error %v, want %v", accounts.MaxPasskeys, err, problem.Conflict)
	}
}

// TestRecoveryCodes proves that each recovery code works once, that new codes replace the earlier codes, and that only
// a user with a passkey has codes.
func TestRecoveryCodes(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	ada := servertest.CreateAccount(t, store, "ada", "user")
	if _, err := store.ReplaceRecoveryCodes(t.Context(), actorOf(ada)); !errors.Is(err, problem.Conflict) {
		t.Errorf("create codes without a passkey: got error %v, want %v", err, problem.Conflict)
	}
	addPasskey(t, store, clock.Now(), ada, 1)
	eve := servertest.CreateAccount(t, store, "eve", "user")
	var codes [2][]string
	for i := range codes {
		var err error
		if codes[i], err = store.ReplaceRecoveryCodes(t.Context(), actorOf(ada)); err != nil || len(codes[i]) != 10 || len(codes[i][0]) != 29 {
			t.Fatalf("got the codes %q, %v, want 10 codes of 29 characters", codes[i], err)
		}
	}
	use := func(u accounts.User, code string) error {
		_, _, _, err := store.ChangeAndStartSession(t.Context(), u, accounts.Changes{RecoveryCode: code}, accounts.SignIn{}, lifetimes)
		return err
	}
	for _, step := range []struct {
		name string
		user accounts.User
		code string
		want error
	}{
		{"replaced code", ada, codes[0][0], problem.NeedsSecondFactor},
		{"code of another user", eve, codes[1][0], problem.NeedsSecondFactor},
		{"code", ada, codes[1][0], nil},
		{"used code", ada, codes[1][0], problem.NeedsSecondFactor},
		{"code in lower case, without hyphens", ada, strings.ToLower(strings.ReplaceAll(codes[1][1], "-", " ")), nil},
	} {
		if err := use(step.user, step.code); !errors.Is(err, step.want) {
			t.Errorf("%s: got error %v, want %v", step.name, err, step.want)
		}
	}
	if _, left, err := store.Passkeys(t.Context(), ada.ID); err != nil || left != 8 {
		t.Errorf("got %d codes, %v, want 8", left, err)
	}
}

// TestChangeAndStartSession proves that a sign-in uses up the recovery code, changes the password and starts the session,
// or does nothing.
func TestChangeAndStartSession(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	for i, test := range []struct {
		name    string
		code    string // instead of a valid one
		version int    // the difference to the token version of the user
		want    error
		trail   []string
	}{
		{"wrong code", "wrong", 0, problem.NeedsSecondFactor, nil},
		{"changed account", "", -1, token.ErrStale, nil},
		{"success", "", 0, nil, []string{"recovery-code.used", "password.changed", "signin.succeeded"}},
	} {
		u := servertest.CreateAccount(t, store, fmt.Sprint("user-", i), "user")
		addPasskey(t, store, clock.Now(), u, byte(i))
		codes, err := store.ReplaceRecoveryCodes(t.Context(), actorOf(u))
		if err != nil {
			t.Fatal(err)
		}
		before := len(auditActions(t, store))
		given := u
		given.TokenVersion += test.version
		changes := accounts.Changes{RecoveryCode: cmp.Or(test.code, codes[0]), PasswordHash: "new hash"}
		ctx := request.WithOrigin(t.Context(), &request.Origin{ID: "request-1", Address: home})
		changed, session, refresh, err := store.ChangeAndStartSession(ctx, given, changes, accounts.SignIn{Address: home}, lifetimes)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got error %v, want %v", test.name, err, test.want)
		}
		stored, err := store.ByID(t.Context(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		sessions, err := store.Sessions(t.Context(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		_, left, err := store.Passkeys(t.Context(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		if done := test.want == nil; (stored.PasswordHash == "new hash") != done || (len(sessions) == 1) != done || (left == 9) != done {
			t.Errorf("%s: got the user %+v, %d sessions and %d codes", test.name, stored, len(sessions), left)
		} else if done {
			if !reflect.DeepEqual(changed, stored) || sessions[0].ID != session.ID {
				t.Errorf("%s: got %+v and %+v, want %+v and %+v", test.name, changed, session, stored, sessions[0])
			}
			refreshed(t, store, refresh)
		}
		entries, _, err := store.Audit(t.Context(), accounts.AuditFilter{}, 1+len(test.trail), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries[:len(test.trail)] {
			if e.ActorID != u.ID || e.Address != home.String() || e.RequestID != "request-1" {
				t.Errorf("%s: got the audit entry %+v, want the user, the address and the request ID", test.name, e)
			}
		}
		if got := auditActions(t, store)[before:]; !slices.Equal(got, test.trail) {
			t.Errorf("%s: got the audit entries %q, want %q", test.name, got, test.trail)
		}
	}
}

// TestSecondFactor proves that an admin can require a second factor for a role, and can remove the passkeys of a user,
// which ends the user's sessions.
func TestSecondFactor(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	grace := servertest.CreateAccount(t, store, "grace", "admin")
	ada := servertest.CreateAccount(t, store, "ada", "user")
	addPasskey(t, store, clock.Now(), ada, 1)
	if _, err := store.ReplaceRecoveryCodes(t.Context(), actorOf(ada)); err != nil {
		t.Fatal(err)
	}
	for _, roles := range [][]string{
		{"user"},
		{"user", "user"}, // has no effect, and no audit entry
		{"admin", "user"},
		{"user"},
	} {
		if err := store.SetSecondFactors(t.Context(), actorOf(grace), roles); err != nil {
			t.Fatal(err)
		}
	}
	if roles, err := store.SecondFactors(t.Context()); err != nil || !slices.Equal(roles, []string{"user"}) {
		t.Errorf("got the roles %q, %v, want user", roles, err)
	}
	for _, u := range []accounts.User{ada, grace} {
		if got, err := store.ByID(t.Context(), u.ID); err != nil || got.SecondFactor != (u.Role == "user") || got.HasPasskey != (u.Role == "user") {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if err := store.SetSecondFactors(t.Context(), actorOf(grace), []string{"root"}); !errors.Is(err, problem.Unprocessable) {
		t.Errorf("unknown role: got error %v, want %v", err, problem.Unprocessable)
	}
	if err := store.RemovePasskeys(t.Context(), actorOf(grace), ada.ID); err != nil {
		t.Fatal(err)
	}
	if all, codes, err := store.Passkeys(t.Context(), ada.ID); err != nil || len(all)+codes != 0 {
		t.Errorf("after the removal: got passkeys %v and %d codes, %v, want none", all, codes, err)
	}
	if _, err := store.Current(t.Context(), &token.Claims{Subject: ada.ID, Version: ada.TokenVersion}); !errors.Is(err, token.ErrStale) {
		t.Errorf("after the removal: got error %v, want %v", err, token.ErrStale)
	}
	want := []string{"user.created", "user.created", "passkey.added", "recovery-codes.created",
		"second-factor.required", "second-factor.required", "second-factor.optional", "passkeys.removed"}
	if got := auditActions(t, store); !slices.Equal(got, want) {
		t.Errorf("got the audit trail %q, want %q", got, want)
	}
}

// TestRequiredLater proves that an access token with scopes is outdated if a second factor is required after a sign-in
// without it. A token without scopes is current.
func TestRequiredLater(t *testing.T) {
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	grace := servertest.CreateAccount(t, store, "grace", "admin")
	ada := servertest.CreateAccount(t, store, "ada", "user")
	session, _ := signIn(t, store, ada, "")
	for _, required := range []bool{false, true} {
		if required {
			if err := store.SetSecondFactors(t.Context(), actorOf(grace), []string{"user"}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			scope, acr, session string
			outdated            bool // if the second factor is required
		}{
			{"files:read", token.ACRPassword, session.ID, true},
			{"files:read", token.ACRMultiFactor, session.ID, false},
			{"", token.ACRPassword, session.ID, false},
			{"files:read", "", "", true}, // a token of an earlier version
		} {
			_, err := store.Current(t.Context(), &token.Claims{Subject: ada.ID, Version: ada.TokenVersion, Session: c.session, Scope: c.scope, ACR: c.acr})
			if outdated := errors.Is(err, token.ErrStale); err != nil && !outdated || outdated != (required && c.outdated) {
				t.Errorf("required: %t, %+v: got error %v", required, c, err)
			}
		}
	}
}

// TestDeletedUserHasNoPasskeys proves that the deletion of a user removes the user's passkeys.
func TestDeletedUserHasNoPasskeys(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	grace := servertest.CreateAccount(t, store, "grace", "admin")
	ada := servertest.CreateAccount(t, store, "ada", "user")
	addPasskey(t, store, clock.Now(), ada, 1)
	if err := store.Delete(t.Context(), actorOf(grace), ada.ID); err != nil {
		t.Fatal(err)
	}
	if p, _, err := store.PasskeyOwner(t.Context(), []byte{1}); !errors.Is(err, problem.NotFound) {
		t.Errorf("got passkey %+v and error %v, want %v", p, err, problem.NotFound)
	}
}
