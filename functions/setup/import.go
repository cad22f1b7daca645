package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/strictjson"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// maxLine is the maximum length of a line in an import file, in bytes. It is large enough for every valid
	// user, even if every character is written as a JSON escape sequence.
	maxLine = 8 << 10
	// maxImport is the maximum number of users in an import file. The number is limited, because the import holds
	// all users in memory.
	maxImport = 200_000
	// maxFaults is the maximum number of invalid lines that one error reports.
	maxFaults = 20
)

// newcomer is a user from another system. Each line of an import file contains one newcomer as a JSON object.
type newcomer struct {
	Username     string `json:"username"`
	PasswordHash string `json:"password_hash"`
	Role         string `json:"role,omitempty"`
	Disabled     bool   `json:"disabled,omitempty"`
}

// importStore contains the method of accounts.Store that the import uses.
type importStore interface {
	Create(ctx context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error)
}

// importUsers imports the users in the named file ("-" for standard input) and writes a summary to out. It does not
// change existing users, so an import can be repeated.
func importUsers(ctx context.Context, cfg config, file string, out io.Writer) error {
	if err := demand("MYSQL_DSN_FILE", string(cfg.DSN)); err != nil {
		return err
	}
	return withStore("MYSQL_DSN_FILE", string(cfg.DSN), openAccounts, func(store *accounts.Store) error {
		if file == "-" {
			return importFrom(ctx, os.Stdin, store, out)
		}
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }() // closing cannot lose data, because the file was only read
		return importFrom(ctx, in, store, out)
	})
}

// importFrom creates the users in an import file. It checks all lines before it creates the first user, so that an
// invalid line prevents the whole import.
func importFrom(ctx context.Context, in io.Reader, store importStore, out io.Writer) error {
	users, err := readNewcomers(in)
	if err != nil {
		return fmt.Errorf("no users were imported: %w", err)
	}
	made, there := 0, 0
	for i, user := range users {
		_, failed := store.Create(ctx, accounts.Setup, accounts.NewUser{
			Username: user.Username, PasswordHash: user.PasswordHash, Role: user.Role, Disabled: user.Disabled})
		if errors.Is(failed, problem.Conflict) {
			there++
			continue
		}
		if failed != nil {
			err = fmt.Errorf("line %d: %w; run the import again to import the remaining users", i+1, failed)
			break
		}
		made++
	}
	_, noted := fmt.Fprintf(out, "users in the file: %d\nimported: %d\nalready existed (unchanged): %d\n", len(users), made, there)
	return errors.Join(err, noted)
}

// readNewcomers reads and checks all lines of an import file. Its error identifies invalid lines by number and never
// quotes them, because any part of a line can be a password.
func readNewcomers(in io.Reader) ([]newcomer, error) {
	var users []newcomer
	var faults []error
	lines := map[string]int{} // the line number for each canonical user name
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, maxLine)
	n := 0
	for scanner.Scan() {
		n++
		if n > maxImport {
			return nil, fmt.Errorf("the file has more than %d lines: split the file", maxImport)
		}
		user, name, err := readNewcomer(scanner.Bytes())
		if first, twice := lines[name]; err == nil && twice {
			err = fmt.Errorf("the user name is already used on line %d", first)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("line %d: %w", n, err))
			if len(faults) == maxFaults {
				return nil, errors.Join(append(faults, errors.New("the remaining lines were not read"))...)
			}
			continue
		}
		lines[name] = n
		users = append(users, user)
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		faults = append(faults, fmt.Errorf("line %d is longer than %d bytes", n+1, maxLine))
	} else if err != nil {
		faults = append(faults, fmt.Errorf("read line %d: %w", n+1, err))
	}
	return users, errors.Join(faults...)
}

// readNewcomer parses and checks a line of an import file. It returns the user and the user's canonical name.
func readNewcomer(line []byte) (user newcomer, name string, err error) {
	user.Role = token.RoleUser
	if err := strictjson.Decode(line, &user); err != nil {
		return user, "", err
	}
	name, err = accounts.CanonicalUsername(user.Username)
	if token.ScopesOf([]string{user.Role}) == "" {
		err = errors.Join(err, errRole)
	}
	if wrong := password.CheckHash(user.PasswordHash); wrong != nil {
		err = errors.Join(err, fmt.Errorf("invalid password_hash: %w", wrong))
	}
	return user, name, err
}
