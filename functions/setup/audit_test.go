//go:build audit

package main

import (
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
)

// TestAuditDeletedFirstAdmin checks security S10: setup does not create the first admin again while there is another admin.
func TestAuditDeletedFirstAdmin(t *testing.T) {
	// An operator created grace and deleted the account admin. Then `make deploy` runs setup again.
	store := &fakeStore{users: map[string]accounts.User{"grace": {Username: "grace", Role: "admin"}}}
	users, err := firstUsers(config{AdminUsername: "admin", AdminPassword: "the password in the Secret"})
	if err != nil {
		t.Fatal(err)
	}
	if err := createUsers(t.Context(), store, fakeHasher{}, users); err != nil {
		t.Fatal(err)
	}
	if u, created := store.users["admin"]; created {
		t.Errorf("got account %s with role %s and the password in the Secret first-admin, want none", u.Username, u.Role)
	}
}
