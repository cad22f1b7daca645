package main

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// fakeStore keeps users by name. For a name in race, Create fails as if another process had created the user just
// before.
type fakeStore struct {
	users map[string]accounts.User
	race  map[string]bool
	err   error
}

func (s *fakeStore) HasAdmin(context.Context) (bool, error) {
	for _, user := range s.users {
		if user.Role == "admin" && !user.Disabled {
			return true, s.err
		}
	}
	return false, s.err
}

func (s *fakeStore) ByUsername(_ context.Context, username string) (accounts.User, error) {
	user, ok := s.users[username]
	if !ok && s.err == nil {
		return user, problem.NotFound.With("no such user")
	}
	return user, s.err
}

func (s *fakeStore) Create(_ context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error) {
	if s.race[n.Username] || by != accounts.Setup {
		return accounts.User{}, problem.Conflict.With("the user name is taken")
	}
	user := accounts.User{Username: n.Username, PasswordHash: n.PasswordHash, Role: n.Role, MustChangePassword: n.MustChangePassword}
	s.users[n.Username] = user
	return user, nil
}

type fakeHasher struct{ err error }

func (h fakeHasher) Hash(_ context.Context, given string) (string, error) {
	return "[" + given + "]", h.err
}

// TestCreateUsers checks that setup creates the users that do not exist, and changes no existing user. The first admin
// must change the password, because the Secret contains it.
func TestCreateUsers(t *testing.T) {
	there := accounts.User{Username: "ada", PasswordHash: "[changed since]", Role: "admin", Disabled: true}
	store := &fakeStore{users: map[string]accounts.User{"ada": there}, race: map[string]bool{"eve": true}}
	cfg := config{
		AdminUsername: "admin", AdminPassword: "the first password",
		DemoUsers: seeds{{"eve", "analytical-engine", "user"}, {"ada", "lovelace-1843", "user"}, {"grace", "murray-hopper-1906", "admin"}},
	}
	for range 2 {
		if err := createUsers(t.Context(), cfg, store, fakeHasher{}, newPolicy(t)); err != nil {
			t.Fatal(err)
		}
		want := map[string]accounts.User{
			"admin": {Username: "admin", PasswordHash: "[the first password]", Role: "admin", MustChangePassword: true},
			"ada":   there,
			"grace": {Username: "grace", PasswordHash: "[murray-hopper-1906]", Role: "admin"},
		}
		if !reflect.DeepEqual(store.users, want) {
			t.Errorf("got users %+v, want %+v", store.users, want)
		}
	}
}

// TestFirstAdmin checks that setup creates the first admin only if no enabled admin exists. If an operator has replaced
// the first admin with another admin, the next deployment must not create the first admin again.
func TestFirstAdmin(t *testing.T) {
	for name, test := range map[string]struct {
		users []accounts.User
		want  bool // whether the first admin is created
	}{
		"new system":                      {nil, true},
		"only users":                      {[]accounts.User{{Username: "ada", Role: "user"}}, true},
		"only a disabled admin":           {[]accounts.User{{Username: "grace", Role: "admin", Disabled: true}}, true},
		"deleted, with another admin":     {[]accounts.User{{Username: "grace", Role: "admin"}}, false},
		"another deployment":              {[]accounts.User{{Username: "admin", Role: "admin"}}, false},
		"the name belongs to a user":      {[]accounts.User{{Username: "admin", Role: "user"}}, false},
		"the first admin is disabled":     {[]accounts.User{{Username: "admin", Role: "admin", Disabled: true}}, false},
		"demoted, with another admin":     {[]accounts.User{{Username: "admin", Role: "user"}, {Username: "grace", Role: "admin"}}, false},
		"weak password, but not needed":   {[]accounts.User{{Username: "grace", Role: "admin", PasswordHash: "weak"}}, false},
		"weak password, user of the name": {[]accounts.User{{Username: "admin", Role: "user", PasswordHash: "weak"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			store := &fakeStore{users: map[string]accounts.User{}}
			cfg := config{AdminUsername: "admin", AdminPassword: "the first password"}
			for _, u := range test.users {
				store.users[u.Username] = u
				if u.PasswordHash == "weak" {
					cfg.AdminPassword = "weak"
				}
			}
			if err := createUsers(t.Context(), cfg, store, fakeHasher{}, newPolicy(t)); err != nil {
				t.Fatal(err)
			}
			if created := len(store.users) > len(test.users); created != test.want {
				t.Errorf("got users %+v, want the first admin to be created: %t", store.users, test.want)
			}
		})
	}
}

func TestCreateUsersFails(t *testing.T) {
	away := problem.Unavailable.With("the account store is unavailable")
	admin := config{AdminUsername: "admin", AdminPassword: "the first password"}
	demo := config{DemoUsers: seeds{{"ada", "lovelace-1843", "user"}}}
	weakAdmin := config{AdminUsername: "admin", AdminPassword: "s3cret"}
	weakDemo := config{DemoUsers: seeds{{"ada", "lovelace-1843", "user"}, {"eve", "s3cret", "user"}}}
	for name, test := range map[string]struct {
		cfg    config
		store  fakeStore
		hasher fakeHasher
		is     error
		want   string
	}{
		"unavailable store, admin":     {cfg: admin, store: fakeStore{err: away}, is: away},
		"unavailable store, demo user": {cfg: demo, store: fakeStore{err: away}, is: away},
		"failed hash":                  {cfg: demo, hasher: fakeHasher{away}, is: away},
		"weak password of the admin":   {cfg: weakAdmin, is: problem.Unprocessable, want: "ADMIN_PASSWORD_FILE"},
		"weak password of a demo user": {cfg: weakDemo, is: problem.Unprocessable, want: "DEMO_USERS_FILE: user 2"},
	} {
		test.store.users = map[string]accounts.User{}
		err := createUsers(t.Context(), test.cfg, &test.store, test.hasher, newPolicy(t))
		if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got error %v, want %v and %s in it and no password", name, err, test.is, test.want)
		}
	}
}

func newPolicy(t *testing.T) password.Policy {
	t.Helper()
	policy, err := password.PolicySettings{MinLength: 12}.Policy()
	if err != nil {
		t.Fatal(err)
	}
	return policy
}
