package main

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// fakeMongo is a server with at most one user.
type fakeMongo struct {
	exists   bool
	password string
	roles    []role
	// errs are the errors of commands, by name. If raced is set, the user exists after a failed createUser.
	errs     map[string]error
	raced    bool
	commands []string
}

func (f *fakeMongo) run(_ context.Context, command bson.D, result any) error {
	name := command[0].Key
	if name != "usersInfo" {
		f.commands = append(f.commands, name)
	}
	if err := f.errs[name]; err != nil {
		f.exists = f.exists || f.raced
		return err
	}
	var reply bson.M
	switch name {
	case "usersInfo":
		users := bson.A{}
		if f.exists {
			users = append(users, bson.M{"user": command[0].Value, "roles": f.roles})
		}
		reply = bson.M{"users": users}
	case "createUser", "updateUser":
		f.exists = true
		for _, argument := range command[1:] {
			switch argument.Key {
			case "pwd":
				f.password = argument.Value.(string)
			case "roles":
				f.roles = argument.Value.([]role)
			}
			f.commands[len(f.commands)-1] += " " + argument.Key
		}
	}
	raw, err := bson.Marshal(reply)
	if err != nil {
		return err
	}
	return bson.Unmarshal(raw, result)
}

func (f *fakeMongo) signIn(context.Context) error {
	if f.password != "s3cret" {
		return mongo.CommandError{Code: 18, Name: "AuthenticationFailed"}
	}
	return f.errs["signIn"]
}

// setup must send only the commands that are needed. DocumentDB refuses to create an existing user, and to update
// roles.
func TestEnsureMongoUser(t *testing.T) {
	refused := problem.Unavailable.Because(mongo.CommandError{Code: 13, Name: "Unauthorized"}, "")
	unsupported := mongo.CommandError{Code: 2, Name: "BadValue", Message: "Role updates are currently unsupported."}
	broken := errors.New("broken")
	readWrite, root := []role{{"readWrite", "files"}}, []role{{"root", "admin"}}
	for name, test := range map[string]struct {
		server fakeMongo
		want   []string
		err    error
	}{
		"absent":                  {server: fakeMongo{}, want: []string{"createUser pwd roles"}},
		"up to date":              {server: fakeMongo{exists: true, password: "s3cret", roles: readWrite}},
		"another password":        {server: fakeMongo{exists: true, password: "old", roles: readWrite}, want: []string{"updateUser pwd"}},
		"other roles":             {server: fakeMongo{exists: true, password: "s3cret", roles: root}, want: []string{"updateUser roles"}},
		"more roles":              {server: fakeMongo{exists: true, password: "s3cret", roles: append(root, readWrite...)}, want: []string{"updateUser roles"}},
		"everything differs":      {server: fakeMongo{exists: true, password: "old"}, want: []string{"updateUser pwd", "updateUser roles"}},
		"created concurrently":    {server: fakeMongo{raced: true, password: "s3cret", roles: readWrite, errs: map[string]error{"createUser": broken}}, want: []string{"createUser"}},
		"roles cannot be updated": {server: fakeMongo{exists: true, password: "s3cret", roles: root, errs: map[string]error{"updateUser": unsupported}}, want: []string{"updateUser"}},
		"roles are refused":       {server: fakeMongo{exists: true, password: "s3cret", roles: root, errs: map[string]error{"updateUser": refused}}, want: []string{"updateUser"}, err: refused},
		"cannot be created":       {server: fakeMongo{errs: map[string]error{"createUser": broken}}, want: []string{"createUser"}, err: broken},
		"cannot be listed":        {server: fakeMongo{errs: map[string]error{"usersInfo": refused}}, err: refused},
		"cannot be updated":       {server: fakeMongo{exists: true, password: "old", errs: map[string]error{"updateUser": refused}}, want: []string{"updateUser"}, err: refused},
		"sign-in fails":           {server: fakeMongo{exists: true, password: "s3cret", errs: map[string]error{"signIn": broken}}, err: broken},
	} {
		u := mongoUser{name: "strongroom", password: "s3cret", roles: readWrite, run: test.server.run, signIn: test.server.signIn}
		if err := u.ensure(t.Context()); !errors.Is(err, test.err) {
			t.Errorf("%s: got error %v, want %v", name, err, test.err)
		}
		if !reflect.DeepEqual(test.server.commands, test.want) {
			t.Errorf("%s: got commands %q, want %q", name, test.server.commands, test.want)
		}
		if test.err == nil && (test.server.password != "s3cret" || test.server.errs == nil && !reflect.DeepEqual(test.server.roles, readWrite)) {
			t.Errorf("%s: got password %q and roles %v, want the password and roles of the user", name, test.server.password, test.server.roles)
		}
	}
}

// In both cases, setup changes no user and needs no server. No server listens at the address.
func TestEnsureMongoUserLeavesAlone(t *testing.T) {
	const admin = "mongodb://root:p@127.0.0.1:1/strongroom?authSource=admin"
	for name, runtime := range map[string]string{
		"no user":           "mongodb://127.0.0.1:1/strongroom",
		"the administrator": admin,
	} {
		if err := ensureMongoUser(t.Context(), admin, runtime); err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
	}
}
