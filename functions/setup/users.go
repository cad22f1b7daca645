package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/strictjson"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// seed is a user that setup creates if no user with the same name exists.
type seed struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Role     string `json:"role"`
}

// seeds is the list of users in the setting DEMO_USERS.
type seeds []seed

// UnmarshalText parses a JSON list of users. It rejects a user object with unknown or missing members. Its error does
// not show the text, because the text contains passwords.
func (s *seeds) UnmarshalText(text []byte) error {
	var list []json.RawMessage
	if json.Unmarshal(text, &list) != nil {
		return errSeeds
	}
	*s = make(seeds, len(list))
	for i, user := range list {
		if strictjson.Decode(user, &(*s)[i]) != nil {
			return errSeeds
		}
	}
	return nil
}

var errSeeds = errors.New(`DEMO_USERS: want a JSON list like [{"username":"…","password":"…","role":"user"}]`)

// firstUsers returns the first admin and the demo users from cfg. It returns an error if a user name, a role or a
// password is invalid.
func firstUsers(cfg config) ([]seed, error) {
	var users []seed
	if (cfg.AdminUsername == "") != (cfg.AdminPassword == "") {
		return nil, errors.New("ADMIN_USERNAME and ADMIN_PASSWORD: set both or neither")
	}
	if cfg.AdminUsername != "" {
		admin := seed{cfg.AdminUsername, cfg.AdminPassword, token.RoleAdmin}
		if err := admin.check(); err != nil {
			return nil, fmt.Errorf("ADMIN_USERNAME and ADMIN_PASSWORD: %w", err)
		}
		users = append(users, admin)
	}
	for i, user := range cfg.DemoUsers {
		if err := user.check(); err != nil {
			return nil, fmt.Errorf("DEMO_USERS: user %d: %w", i+1, err)
		}
		users = append(users, user)
	}
	return users, nil
}

var errRole = errors.New("unknown role: want user or admin")

func (s seed) check() error {
	_, err := accounts.CanonicalUsername(s.Username)
	if token.ScopesOf([]string{s.Role}) == "" {
		err = errors.Join(err, errRole)
	}
	return errors.Join(err, password.Check(s.Password))
}

// userStore contains the methods of accounts.Store that createUsers uses.
type userStore interface {
	ByUsername(ctx context.Context, username string) (accounts.User, error)
	Create(ctx context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error)
}

// hasher contains the method of password.Hasher that createUsers uses.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
}

// createUsers creates the users that do not exist yet. It never changes an existing user, because an admin or the
// user might have changed the password or the role.
func createUsers(ctx context.Context, store userStore, hasher hasher, users []seed) error {
	for _, user := range users {
		_, err := store.ByUsername(ctx, user.Username)
		if err == nil {
			slog.InfoContext(ctx, "user already exists, so setup does not change it", "username", user.Username)
			continue
		}
		if !errors.Is(err, problem.NotFound) {
			return err
		}
		hash, err := hasher.Hash(ctx, user.Password)
		if err != nil {
			return err
		}
		made, err := store.Create(ctx, accounts.Setup, accounts.NewUser{Username: user.Username, PasswordHash: hash, Role: user.Role})
		switch {
		case errors.Is(err, problem.Conflict): // another setup process has created the user in the meantime
			slog.InfoContext(ctx, "user already exists, so setup does not change it", "username", user.Username)
		case err != nil:
			return err
		default:
			slog.InfoContext(ctx, "created user", "username", made.Username, "user_id", made.ID, "role", made.Role)
		}
	}
	return nil
}
