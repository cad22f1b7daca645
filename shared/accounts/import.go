package accounts

import (
	"context"
	"database/sql"
)

// Import creates a user as Create does. If disabled is true, Import also disables the user in the same transaction, so
// that the user cannot sign in before it is disabled.
func (s *Store) Import(ctx context.Context, username, passwordHash, role string, disabled bool) (User, error) {
	u, err := s.newUser(username, passwordHash, role)
	if err != nil {
		return User{}, err
	}
	key, err := parseID(u.ID)
	if err != nil {
		return User{}, err
	}
	u.Disabled = disabled
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := s.insert(ctx, tx, setup, u); err != nil || !disabled {
			return err
		}
		if err := s.replace(ctx, tx, key, &u); err != nil {
			return err
		}
		return s.note(ctx, tx, setup, ActionDisabled, u, "")
	})
	if err != nil {
		return User{}, fail("import user", err)
	}
	return u, nil
}
