package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

const (
	bcryptHash = "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
	djangoHash = "pbkdf2_sha256$24000$seasalt$V9DfCAVoweeLwxC/L2mb+7swhzF0XYdyQMqmusZqiTc="
)

// fakeImport records the imported users. For the user name in breaks, it fails with err.
type fakeImport struct {
	calls  []string
	there  map[string]bool
	breaks string
	err    error
}

func (s *fakeImport) Create(_ context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error) {
	if n.Username == s.breaks {
		return accounts.User{}, s.err
	}
	s.calls = append(s.calls, fmt.Sprint(by.Username, ": ", n.Username, " ", n.PasswordHash, " ", n.Role, " ", n.Disabled, n.MustChangePassword))
	if s.there[n.Username] {
		return accounts.User{}, problem.Conflict.With("the user name is taken")
	}
	return accounts.User{Username: n.Username}, nil
}

func TestImport(t *testing.T) {
	lines := `{"username":"ada","password_hash":"` + bcryptHash + `"}` + "\n" +
		`{"username":"Grace","password_hash":"` + djangoHash + `","role":"admin","disabled":false}` + "\r\n" +
		`{"disabled":true,"role":"user","password_hash":"` + bcryptHash + `","username":"eve"}` // no line break
	store := &fakeImport{there: map[string]bool{"ada": true, "eve": true}}
	var out strings.Builder
	if err := importFrom(t.Context(), strings.NewReader(lines), store, &out); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(store.calls, "\n"),
		"setup: ada "+bcryptHash+" user false false\nsetup: Grace "+djangoHash+" admin false false\nsetup: eve "+bcryptHash+" user true false"; got != want {
		t.Errorf("got imported users\n%s\nwant\n%s", got, want)
	}
	if got, want := out.String(), "users in the file: 3\nimported: 1\nalready existed (unchanged): 2\n"; got != want {
		t.Errorf("got output %q, want %q", got, want)
	}
}

func TestImportBreaksOff(t *testing.T) {
	lines := strings.Repeat(`{"username":"user-%d","password_hash":"`+bcryptHash+`"}`+"\n", 3)
	away := problem.Unavailable.With("the account store is unavailable")
	store := &fakeImport{breaks: "user-2", err: away}
	var out strings.Builder
	err := importFrom(t.Context(), strings.NewReader(fmt.Sprintf(lines, 1, 2, 3)), store, &out)
	if !errors.Is(err, away) || !strings.Contains(err.Error(), "line 2: ") {
		t.Errorf("got error %v, want line 2 in it and problem.Unavailable", err)
	}
	if got, want := out.String(), "users in the file: 3\nimported: 1\nalready existed (unchanged): 0\n"; got != want {
		t.Errorf("got output %q, want %q", got, want)
	}
}

// The first and the last line are valid. They are not imported either.
func TestImportRefuses(t *testing.T) {
	good := func(name string) string {
		return `{"username":"` + name + `","password_hash":"` + bcryptHash + `"}`
	}
	for name, test := range map[string]struct{ line, want string }{
		"empty line":         {want: "line 2: "},
		"not JSON":           {line: bcryptHash, want: "line 2: "},
		"a list":             {line: "[" + good("eve") + "]", want: "line 2: "},
		"two objects":        {line: good("eve") + good("mallory"), want: "line 2: want exactly one JSON object"},
		"unknown member":     {line: `{"username":"eve","password_hash":"` + bcryptHash + `","password":"s3cret"}`, want: "line 2: "},
		"another case":       {line: `{"Username":"eve","password_hash":"` + bcryptHash + `"}`, want: "line 2: "},
		"member twice":       {line: `{"username":"eve","username":"mallory","password_hash":"` + bcryptHash + `"}`, want: "line 2: "},
		"null":               {line: `{"username":"eve","password_hash":null}`, want: "line 2: "},
		"number":             {line: `{"username":1,"password_hash":"` + bcryptHash + `"}`, want: "line 2: username must be a string"},
		"no name":            {line: `{"password_hash":"` + bcryptHash + `"}`, want: "line 2: missing members: username"},
		"invalid name":       {line: good(" eve"), want: "line 2: unprocessable: the user name"},
		"no hash":            {line: `{"username":"eve"}`, want: "line 2: missing members: password_hash"},
		"a password":         {line: `{"username":"eve","password_hash":"s3cret"}`, want: "line 2: invalid password_hash: "},
		"too costly":         {line: `{"username":"eve","password_hash":"` + strings.Replace(bcryptHash, "12", "31", 1) + `"}`, want: "line 2: invalid password_hash: "},
		"unknown role":       {line: `{"username":"eve","password_hash":"` + bcryptHash + `","role":"root"}`, want: "line 2: unknown role"},
		"empty role":         {line: `{"username":"eve","password_hash":"` + bcryptHash + `","role":""}`, want: "line 2: unknown role"},
		"a name twice":       {line: good("ADA"), want: "line 2: the user name is already used on line 1"},
		"not UTF-8":          {line: good("\xff"), want: "line 2: "},
		"long line":          {line: good("eve") + strings.Repeat(" ", maxLine), want: "line 2 is longer than"},
		"more than one line": {line: good("") + "\n" + good(""), want: "line 3: "},
	} {
		store := &fakeImport{}
		var out strings.Builder
		err := importFrom(t.Context(), strings.NewReader(good("ada")+"\n"+test.line+"\n"+good("zoe")+"\n"), store, &out)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "no users were imported") {
			t.Errorf("%s: got error %v, want %q in it", name, err, test.want)
			continue
		}
		for _, secret := range []string{bcryptHash[7:], "s3cret"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: got error %v, want no %s in it", name, err, secret)
			}
		}
		if len(store.calls) != 0 || out.Len() != 0 {
			t.Errorf("%s: got imported users %v and output %q, want neither", name, store.calls, &out)
		}
	}
}

func TestImportBounds(t *testing.T) {
	store := &fakeImport{}
	err := importFrom(t.Context(), strings.NewReader(strings.Repeat("wrong\n", 3*maxFaults)), store, io.Discard)
	if err == nil || strings.Count(err.Error(), "line ") != maxFaults || !strings.Contains(err.Error(), "not read") {
		t.Errorf("got error %v, want the first %d invalid lines", err, maxFaults)
	}
	broken := errors.New("broken")
	err = importFrom(t.Context(), iotest.ErrReader(broken), store, io.Discard)
	if !errors.Is(err, broken) {
		t.Errorf("unreadable file: got error %v, want %v", err, broken)
	}
	var many strings.Builder
	for i := range maxImport + 1 {
		fmt.Fprintf(&many, `{"username":"user-%d","password_hash":"%s"}`+"\n", i, bcryptHash)
	}
	err = importFrom(t.Context(), strings.NewReader(many.String()), store, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "split the file") || len(store.calls) != 0 {
		t.Errorf("too many users: got error %v after %d imported users, want an error before the first", err, len(store.calls))
	}
}

// An import does not need the settings of the other stores.
func TestImportNeedsMySQLOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.jsonl")
	if err := os.WriteFile(file, []byte(`{"username":"ada","password_hash":"`+bcryptHash+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	err := setup(t.Context(), config{DSN: "u:p@tcp(127.0.0.1:1)/strongroom"}, []string{"users", "import", file})
	if !errors.Is(err, problem.Unavailable) || !strings.Contains(err.Error(), "line 1: ") {
		t.Errorf("got error %v, want problem.Unavailable at line 1", err)
	}
}

func TestRedriveNeedsRabbitMQOnly(t *testing.T) {
	err := setup(t.Context(), config{EventsURL: "amqp://u:s3cret@127.0.0.1:1"}, []string{"redrive"})
	if !errors.Is(err, problem.Unavailable) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got error %v, want problem.Unavailable and no password in it", err)
	}
}

// TestRescueCommand proves that the command in docs/operations.md, "No admin can sign in", imports an admin with the
// password that the operator types. htpasswd and deploy/job are stand-ins.
func TestRescueCommand(t *testing.T) {
	command, err := commands.Block("../..", "docs/operations.md", "sh", "htpasswd ")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("a typed password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for path, script := range map[string]string{
		"htpasswd":   "printf '%s:%s\\n\\n' \"$3\" '" + strings.Replace(string(hash), "$2a$", "$2y$", 1) + "'",
		"deploy/job": `[[ $* == "users import -" ]] && cat`,
	} {
		path = filepath.Join(dir, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte("#!/usr/bin/env bash\n"+script+"\n"), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	shell := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", command)
	shell.Dir, shell.Env = dir, append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := shell.Output()
	if err != nil {
		t.Fatalf("run the command: %v", err)
	}
	users, err := readNewcomers(bytes.NewReader(out))
	if err != nil || len(users) != 1 || users[0].Username != "rescue" || users[0].Role != "admin" || users[0].Disabled {
		t.Fatalf("got the users %+v and error %v, want the enabled admin rescue", users, err)
	}
	ok, _, err := password.NewHasher(1, time.Minute).Verify(t.Context(), users[0].PasswordHash, "a typed password")
	if !ok || err != nil {
		t.Errorf("verify the typed password: got %t, %v, want true", ok, err)
	}
}
