package main

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

func TestPutMongoUser(t *testing.T) {
	refused := func(code int32) error { return mongo.CommandError{Code: code, Message: "refused"} }
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		errs []error // of the successive commands
		want []string
		err  error
	}{
		"new":                   {[]error{nil}, []string{"createUser with a role"}, nil},
		"there":                 {[]error{refused(codeUserExists), nil}, []string{"createUser with a role", "updateUser with a role"}, nil},
		"made at the same time": {[]error{refused(codeDuplicateKey), nil}, []string{"createUser with a role", "updateUser with a role"}, nil},
		"without roles":         {[]error{refused(codeNotImplemented), nil}, []string{"createUser with a role", "createUser"}, nil},
		"without roles, there": {[]error{refused(codeNotImplemented), refused(codeUserExists), nil},
			[]string{"createUser with a role", "createUser", "updateUser"}, nil},
		"broken": {[]error{broken}, []string{"createUser with a role"}, broken},
	} {
		user, err := mongoURI("MONGODB_URI", "mongodb://strongroom:s3cret@127.0.0.1:1/files?authSource=users")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = putMongoUser(t.Context(), user, func(_ context.Context, command bson.D) error {
			line := command[0].Key
			roles := bson.A{}
			if len(command[2].Value.(bson.A)) > 0 {
				line += " with a role"
				roles = bson.A{bson.D{{Key: "role", Value: "readWrite"}, {Key: "db", Value: "files"}}}
			}
			want := bson.D{{Key: command[0].Key, Value: "strongroom"}, {Key: "pwd", Value: "s3cret"}, {Key: "roles", Value: roles}}
			if !reflect.DeepEqual(command, want) {
				t.Errorf("%s: command %v, want %v", name, command, want)
			}
			got = append(got, line)
			return test.errs[len(got)-1]
		})
		if !reflect.DeepEqual(got, test.want) || !errors.Is(err, test.err) {
			t.Errorf("%s: commands %q, %v; want %q, %v", name, got, err, test.want, test.err)
		}
	}
}

// Neither needs the administrator, who is not there.
func TestMakeMongoUserLeavesAlone(t *testing.T) {
	const admin = "mongodb://root:p@127.0.0.1:1/strongroom?authSource=admin"
	for name, runtime := range map[string]string{
		"no user":           "mongodb://127.0.0.1:1/strongroom",
		"the administrator": admin,
	} {
		if err := makeMongoUser(t.Context(), admin, runtime); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
