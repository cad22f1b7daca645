package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// maxLine bounds a line, in bytes: more than a user takes, however escaped.
	maxLine = 8 << 10
	// maxImport bounds the users of one file, who are all in memory before the first is made.
	maxImport = 200_000
	// maxFaults is how many wrong lines are told of at once.
	maxFaults = 20
)

// newcomer is a user who comes from another system.
type newcomer struct {
	Username     string `json:"username"`
	PasswordHash string `json:"password_hash"`
	Role         string `json:"role"`
	Disabled     bool   `json:"disabled"`
}

// importStore is what accounts.Store does for an import.
type importStore interface {
	Import(ctx context.Context, username, passwordHash, role string, disabled bool) (accounts.User, error)
}

// importUsers makes the users of a file of JSON lines who are not there, and writes a summary to out. A user who is
// there stays as it is, so that an import can be repeated.
func importUsers(ctx context.Context, cfg config, file string, out io.Writer) (err error) {
	if err := demand("MYSQL_DSN", cfg.DSN); err != nil {
		return err
	}
	store, err := accounts.Open(cfg.DSN)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	in := os.Stdin
	if file != "-" {
		if in, err = os.Open(file); err != nil {
			return err
		}
		defer func() { _ = in.Close() }() // it was only read
	}
	return importFrom(ctx, in, store, out)
}

// importFrom makes no user before it has read and checked all.
func importFrom(ctx context.Context, in io.Reader, store importStore, out io.Writer) error {
	users, err := readNewcomers(in)
	if err != nil {
		return fmt.Errorf("nobody is imported: %w", err)
	}
	made, there := 0, 0
	for i, user := range users {
		_, failed := store.Import(ctx, user.Username, user.PasswordHash, user.Role, user.Disabled)
		if errors.Is(failed, problem.Conflict) {
			there++
			continue
		}
		if failed != nil {
			err = fmt.Errorf("line %d: %w; run it again for the rest", i+1, failed)
			break
		}
		made++
	}
	_, noted := fmt.Fprintf(out, "users in the file: %d\nimported: %d\nthere already and left alone: %d\n", len(users), made, there)
	return errors.Join(err, noted)
}

// readNewcomers reads and checks all lines. Its error names the first wrong ones and shows nothing of them: anything in
// them may be a password.
func readNewcomers(in io.Reader) ([]newcomer, error) {
	var users []newcomer
	var faults []error
	lines := map[string]int{} // by canonical user name
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, maxLine)
	n := 0
	for scanner.Scan() {
		n++
		if n > maxImport {
			return nil, fmt.Errorf("more than %d lines: split the file", maxImport)
		}
		user, name, err := readNewcomer(scanner.Bytes())
		if first, twice := lines[name]; err == nil && twice {
			err = fmt.Errorf("the same user as in line %d", first)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("line %d: %w", n, err))
			if len(faults) == maxFaults {
				return nil, errors.Join(append(faults, errors.New("the lines after that are not read"))...)
			}
			continue
		}
		lines[name] = n
		users = append(users, user)
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		faults = append(faults, fmt.Errorf("line %d: longer than %d bytes", n+1, maxLine))
	} else if err != nil {
		faults = append(faults, fmt.Errorf("after line %d: %w", n, err))
	}
	return users, errors.Join(faults...)
}

// readNewcomer reads a line. name is the canonical user name.
func readNewcomer(line []byte) (user newcomer, name string, err error) {
	user.Role = token.RoleUser
	if err := function.DecodeJSON(line, &user); err != nil {
		return user, "", err
	}
	name, err = accounts.CanonicalUsername(user.Username)
	if token.ScopesOf([]string{user.Role}) == "" {
		err = errors.Join(err, errRole)
	}
	if wrong := password.CheckHash(user.PasswordHash); wrong != nil {
		err = errors.Join(err, fmt.Errorf("password_hash: %w", wrong))
	}
	return user, name, err
}
