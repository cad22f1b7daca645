package main

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// fakeStore keeps users by name. For a name in race, Create fails as if another process had created the user just
// before.
type fakeStore struct {
	users map[string]accounts.User
	race  map[string]bool
	err   error
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
	user := accounts.User{Username: n.Username, PasswordHash: n.PasswordHash, Role: n.Role}
	s.users[n.Username] = user
	return user, nil
}

type fakeHasher struct{ err error }

func (h fakeHasher) Hash(_ context.Context, given string) (string, error) {
	return "[" + given + "]", h.err
}

func TestCreateUsers(t *testing.T) {
	there := accounts.User{Username: "ada", PasswordHash: "[changed since]", Role: "admin", Disabled: true}
	store := &fakeStore{users: map[string]accounts.User{"ada": there}, race: map[string]bool{"eve": true}}
	users := []seed{{"eve", "password", "user"}, {"ada", "lovelace-1843", "user"}, {"grace", "hopper-1906", "admin"}}
	for range 2 {
		if err := createUsers(t.Context(), store, fakeHasher{}, users); err != nil {
			t.Fatal(err)
		}
		want := map[string]accounts.User{"ada": there, "grace": {Username: "grace", PasswordHash: "[hopper-1906]", Role: "admin"}}
		if !reflect.DeepEqual(store.users, want) {
			t.Errorf("got users %+v, want %+v", store.users, want)
		}
	}
}

func TestCreateUsersFails(t *testing.T) {
	away := problem.Unavailable.With("the account store is unavailable")
	users := []seed{{"ada", "lovelace-1843", "user"}}
	if err := createUsers(t.Context(), &fakeStore{err: away}, fakeHasher{}, users); !errors.Is(err, away) {
		t.Errorf("unavailable store: got error %v, want problem.Unavailable", err)
	}
	if err := createUsers(t.Context(), &fakeStore{}, fakeHasher{away}, users); !errors.Is(err, away) {
		t.Errorf("failed hash: got error %v, want problem.Unavailable", err)
	}
}
