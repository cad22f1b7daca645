package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
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

// seeds is the list of users in the setting DEMO_USERS_FILE.
type seeds []seed

// UnmarshalText reads a JSON list of users from the file at path. It rejects a user object with unknown or missing
// members. Its error does not show the text of the file, because the text contains passwords.
func (s *seeds) UnmarshalText(path []byte) error {
	var text function.Secret
	if err := text.UnmarshalText(path); err != nil {
		return err
	}
	var list []json.RawMessage
	if json.Unmarshal([]byte(text), &list) != nil {
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

var errSeeds = errors.New(`want a JSON list like [{"username":"…","password":"…","role":"user"}]`)

// checkUsers returns an error if the first admin or a demo user in cfg has an invalid user name or role. It does not
// check the passwords, because they have no effect if the users exist.
func (cfg config) checkUsers() error {
	if (cfg.AdminUsername == "") != (cfg.AdminPassword == "") {
		return errors.New("ADMIN_USERNAME_FILE and ADMIN_PASSWORD_FILE: set both or neither")
	}
	if cfg.AdminUsername != "" {
		if err := cfg.firstAdmin().check(); err != nil {
			return fmt.Errorf("ADMIN_USERNAME_FILE: %w", err)
		}
	}
	for i, user := range cfg.DemoUsers {
		if err := user.check(); err != nil {
			return fmt.Errorf("DEMO_USERS_FILE: user %d: %w", i+1, err)
		}
	}
	return nil
}

func (cfg config) firstAdmin() seed {
	return seed{string(cfg.AdminUsername), string(cfg.AdminPassword), token.RoleAdmin}
}

var errRole = errors.New("unknown role: want user or admin")

func (s seed) check() error {
	_, err := accounts.CanonicalUsername(s.Username)
	if token.ScopesOf([]string{s.Role}) == "" {
		err = errors.Join(err, errRole)
	}
	return err
}

// userStore contains the methods of accounts.Store that createUsers uses.
type userStore interface {
	HasAdmin(ctx context.Context) (bool, error)
	ByUsername(ctx context.Context, username string) (accounts.User, error)
	Create(ctx context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error)
}

// hasher contains the method of password.Hasher that createUsers uses.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
}

// createUsers creates the first admin if no admin exists, and the demo users that do not exist yet. It never changes an
// existing user, because an admin or the user might have changed the password or the role.
func createUsers(ctx context.Context, cfg config, store userStore, hasher hasher, policy password.Policy) error {
	if cfg.AdminUsername != "" {
		exists, err := store.HasAdmin(ctx)
		if err != nil {
			return err
		}
		// An operator can have deleted the first admin. Its password is still in a Secret, so do not create it again.
		if exists {
			slog.InfoContext(ctx, "an admin exists, so setup does not create the first admin")
		} else if err := createUser(ctx, store, hasher, policy, cfg.firstAdmin(), true); err != nil {
			return fmt.Errorf("ADMIN_USERNAME_FILE and ADMIN_PASSWORD_FILE: %w", err)
		}
	}
	for i, user := range cfg.DemoUsers {
		if err := createUser(ctx, store, hasher, policy, user, false); err != nil {
			return fmt.Errorf("DEMO_USERS_FILE: user %d: %w", i+1, err)
		}
	}
	return nil
}

// createUser creates a user if no user has the same name. If mustChange is true, the user must choose a new password at
// the first sign-in.
func createUser(ctx context.Context, store userStore, hasher hasher, policy password.Policy, user seed, mustChange bool) error {
	_, err := store.ByUsername(ctx, user.Username)
	if err == nil {
		slog.InfoContext(ctx, "user already exists, so setup does not change it", "username", user.Username)
		return nil
	}
	if !errors.Is(err, problem.NotFound) {
		return err
	}
	if err := policy.Check(user.Password, user.Username); err != nil {
		return err
	}
	hash, err := hasher.Hash(ctx, user.Password)
	if err != nil {
		return err
	}
	made, err := store.Create(ctx, accounts.Setup, accounts.NewUser{
		Username: user.Username, PasswordHash: hash, Role: user.Role, MustChangePassword: mustChange})
	switch {
	case errors.Is(err, problem.Conflict): // another setup process has created the user in the meantime
		slog.InfoContext(ctx, "user already exists, so setup does not change it", "username", user.Username)
	case err != nil:
		return err
	default:
		slog.InfoContext(ctx, "created user", "username", made.Username, "user_id", made.ID, "role", made.Role)
	}
	return nil
}
