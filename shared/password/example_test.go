package password_test

import (
	"context"
	"fmt"
	"time"

	"github.com/strongroom-dev/strongroom/shared/password"
)

func ExampleHasher() {
	ctx := context.Background()
	hasher := password.NewHasher(1, time.Second)
	hash, err := hasher.Hash(ctx, "lovelace-1843")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(hash[:30])
	fmt.Println(hasher.Verify(ctx, hash, "lovelace-1843"))
	// An imported hash also matches, but should be replaced.
	fmt.Println(hasher.Verify(ctx, "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"))
	// Output:
	// $argon2id$v=19$m=19456,t=2,p=1
	// true false <nil>
	// true true <nil>
}
