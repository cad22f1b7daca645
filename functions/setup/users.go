package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// seed is a user that is made unless there is one of that name.
type seed struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Role     string `json:"role"`
}

// seeds are users as the environment names them.
type seeds []seed

// UnmarshalText reads a JSON list, strictly. Its error does not show the text, which has passwords in it.
func (s *seeds) UnmarshalText(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode((*[]seed)(s)); err != nil {
		return errSeeds
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errSeeds
	}
	return nil
}

var errSeeds = errors.New(`DEMO_USERS: want a JSON list like [{"username":"…","password":"…","role":"user"}]`)

// firstUsers returns the users that cfg names, after a check of what accounts and package password demand of them.
func firstUsers(cfg config) ([]seed, error) {
	var users []seed
	if (cfg.AdminUsername == "") != (cfg.AdminPassword == "") {
		return nil, errors.New("ADMIN_USERNAME and ADMIN_PASSWORD: set both or neither")
	}
	if cfg.AdminUsername != "" {
		admin := seed{cfg.AdminUsername, cfg.AdminPassword, token.RoleAdmin}
		if err := admin.check(); err != nil {
			return nil, fmt.Errorf("ADMIN_USERNAME, ADMIN_PASSWORD: %w", err)
		}
		users = append(users, admin)
	}
	for i, user := range cfg.DemoUsers {
		if err := user.check(); err != nil {
			return nil, fmt.Errorf("DEMO_USERS, number %d: %w", i+1, err)
		}
		users = append(users, user)
	}
	return users, nil
}

var errRole = errors.New("the role is none of those that there are")

func (s seed) check() error {
	_, err := accounts.CanonicalUsername(s.Username)
	if token.ScopesOf([]string{s.Role}) == "" {
		err = errors.Join(err, errRole)
	}
	return errors.Join(err, password.Check(s.Password))
}

// userStore is what accounts.Store does for createUsers.
type userStore interface {
	ByUsername(ctx context.Context, username string) (accounts.User, error)
	Create(ctx context.Context, username, passwordHash, role string) (accounts.User, error)
}

// hasher is what password.Hasher does for createUsers.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
}

// createUsers makes those of users that are not there. One that is keeps its password and its role: they may have been
// changed since, and must not come back with the next deployment.
func createUsers(ctx context.Context, store userStore, hasher hasher, users []seed) error {
	for _, user := range users {
		_, err := store.ByUsername(ctx, user.Username)
		if err == nil {
			slog.InfoContext(ctx, "the user is there already and stays as it is", "username", user.Username)
			continue
		}
		if !errors.Is(err, problem.NotFound) {
			return err
		}
		hash, err := hasher.Hash(ctx, user.Password)
		if err != nil {
			return err
		}
		made, err := store.Create(ctx, user.Username, hash, user.Role)
		switch {
		case errors.Is(err, problem.Conflict): // by another setup, since we looked
			slog.InfoContext(ctx, "the user is there already and stays as it is", "username", user.Username)
		case err != nil:
			return err
		default:
			slog.InfoContext(ctx, "made a user", "username", made.Username, "user_id", made.ID, "role", made.Role)
		}
	}
	return nil
}
