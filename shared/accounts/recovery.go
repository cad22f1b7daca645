package accounts

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// recoveryCodes is the number of recovery codes that a user gets.
	recoveryCodes = 10
	// recoveryCodeSize is the number of random bytes in a recovery code. ASVS 4.0.3, 2.6.2, requires 112 bits. With 120
	// bits, neither guessing a code nor finding a code for a stored hash is feasible, and the text has 24 characters.
	recoveryCodeSize = 15
	// recoveryCodeGroup is the number of characters between two hyphens.
	recoveryCodeGroup = 4
)

// ErrRecoveryCode reports that a recovery code does not exist or was already used.
var ErrRecoveryCode = problem.NeedsSecondFactor.With("the recovery code is wrong or was already used: try another recovery code")

// ReplaceRecoveryCodes creates new recovery codes for the actor, and invalidates the earlier codes. The database stores
// only hashes, so the codes cannot be read again. The error is a problem.Conflict if the actor has no passkey.
func (s *Store) ReplaceRecoveryCodes(ctx context.Context, actor Actor) (codes []string, err error) {
	err = s.asSelf(ctx, actor, func(ctx context.Context, tx *sql.Tx, u User, key uuid.UUID) error {
		if !u.HasPasskey {
			return problem.Conflict.With("recovery codes replace a lost passkey: add a passkey first")
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM recovery_codes WHERE user_id = ?`, key[:]); err != nil {
			return err
		}
		codes = codes[:0] // transact can call this function again
		for range recoveryCodes {
			code := newRecoveryCode()
			hash := recoveryHash(code)
			if _, err := tx.ExecContext(ctx, `INSERT INTO recovery_codes (user_id, hash) VALUES (?, ?)`, key[:], hash[:]); err != nil {
				return err
			}
			codes = append(codes, code)
		}
		return s.note(ctx, tx, actor, ActionRecoveryCodesCreated, u, "")
	})
	if err != nil {
		return nil, fail("create recovery codes", err)
	}
	return codes, nil
}

// newRecoveryCode returns a random code such as ABCD-EFGH-IJKL-MNOP-QRST-UVWX. The alphabet of base32 has neither 0 nor
// 1, which look like O and I.
func newRecoveryCode() string {
	random := make([]byte, recoveryCodeSize)
	rand.Read(random) // rand.Read never fails
	text := []byte(base32.StdEncoding.EncodeToString(random))
	return string(bytes.Join(slices.Collect(slices.Chunk(text, recoveryCodeGroup)), []byte("-")))
}

// recoveryHash returns the hash of a recovery code. It ignores case, spaces and hyphens.
func recoveryHash(code string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.NewReplacer("-", "", " ", "").Replace(strings.ToUpper(code))))
}

// useRecoveryCode invalidates a recovery code of u. The error is ErrRecoveryCode if u has no such code.
func (s *Store) useRecoveryCode(ctx context.Context, tx *sql.Tx, by Actor, u User, code string) error {
	key, err := parseID(u.ID)
	if err != nil {
		return err
	}
	hash := recoveryHash(code)
	result, err := tx.ExecContext(ctx, `DELETE FROM recovery_codes WHERE user_id = ? AND hash = ?`, key[:], hash[:])
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(ErrRecoveryCode, err)
	}
	return s.note(ctx, tx, by, ActionRecoveryCodeUsed, u, "")
}

// SecondFactors returns the roles whose users need a second factor.
func (s *Store) SecondFactors(ctx context.Context) (roles []string, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		roles, err = queryAll(ctx, s.db, scanValue[string], `SELECT role FROM second_factors ORDER BY role`)
		return err
	})
	return roles, fail("list the roles that require a second factor", err)
}

// SetSecondFactors sets the roles whose users need a second factor. The actor must be an admin. The error is a
// problem.Unprocessable if a role is unknown.
func (s *Store) SetSecondFactors(ctx context.Context, actor Actor, roles []string) error {
	for _, role := range roles {
		if err := checkRole(role); err != nil {
			return err
		}
	}
	return fail("set the roles that require a second factor", s.asAdmin(ctx, actor, func(ctx context.Context, tx *sql.Tx, _ int) error {
		for _, role := range []string{token.RoleUser, token.RoleAdmin} {
			statement, action := `DELETE FROM second_factors WHERE role = ?`, ActionSecondFactorOptional
			if slices.Contains(roles, role) {
				statement, action = `INSERT IGNORE INTO second_factors (role) VALUES (?)`, ActionSecondFactorRequired
			}
			result, err := tx.ExecContext(ctx, statement, role)
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return err
			}
			if n == 0 {
				continue // the role already has this setting
			}
			if err := s.note(ctx, tx, actor, action, User{ID: actor.ID, Username: actor.Username}, role); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Roles returns the roles that apply to u after a sign-in with the given value of the acr claim. A user who needs a
// second factor, and signed in without it, has no roles.
func (u User) Roles(acr string) []string {
	if u.SecondFactor && acr != token.ACRMultiFactor {
		return []string{}
	}
	return []string{u.Role}
}
