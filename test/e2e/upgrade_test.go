//go:build e2e && upgrade

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUpgrade proves that an upgrade loses no account, session, audit entry or file, and replaces no volume, Secret or
// event source. It deploys an older version into a cluster without Strongroom, creates a user, uploads files, and
// deploys the working tree over the older version. FROM is the commit or tag of the older version. If testdata contains
// a patch with the name of FROM, the test applies the patch to the older version. An older version needs a patch if it
// cannot start with the stores of the cluster.
func TestUpgrade(t *testing.T) {
	from := cmp.Or(os.Getenv("FROM"), "3e5eee7")
	old := filepath.Join(t.TempDir(), "old")
	run(t, "git", "-C", root, "worktree", "add", "--detach", old, from)
	t.Cleanup(func() { run(t, "git", "-C", root, "worktree", "remove", "--force", old) })
	patch, err := filepath.Abs(filepath.Join("testdata", from+".patch"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(patch); err == nil {
		run(t, "git", "-C", old, "apply", patch)
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if out, err := deploy(t, old); err != nil {
		t.Fatalf("deploy %s: %v\n%s", from, err, out)
	}

	s := open(t)
	user := &system{client: s.client, urls: s.urls, username: fmt.Sprintf("upgrade-%d", time.Now().UnixNano()), password: "analytical-engine"}
	var created struct{ ID string }
	s.createUser(t, user.username, user.password).decode(t, http.StatusCreated, &created)
	files := []*file{newFile("one byte.bin", 1), newFile("one megabyte.bin", 1<<20), newFile("five megabytes.bin", 5<<20)}
	for _, f := range files {
		user.upload(t, f)
		user.catalogued(t, f, 2*time.Minute)
	}
	var session struct {
		RefreshToken string `json:"refresh_token"`
	}
	user.login(t, user.username, user.password).decode(t, http.StatusOK, &session)
	stored := s.records(t)
	before := identities(t)

	out, err := deploy(t, root)
	if err != nil {
		t.Fatalf("deploy the working tree over %s: %v\n%s", from, err, out)
	}
	after := identities(t)
	for object, uid := range before {
		if after[object] != uid {
			t.Errorf("UID of %s after the upgrade: got %q, want %s as before", object, after[object], uid)
		}
	}
	s = open(t)
	user.urls, user.token = s.urls, ""
	kept := s.records(t)
	for record := range stored {
		if !kept[record] {
			t.Errorf("got no %s after the upgrade, want the account or audit entry as before", record)
		}
	}
	refresh := user.call(t, http.MethodPost, "login", "/refresh", "", asJSON, []byte(`{"refresh_token":"`+session.RefreshToken+`"}`))
	if refresh.status != http.StatusOK {
		t.Errorf("refresh a session of %s: got %s, want 200", from, refresh)
	}
	for _, f := range files {
		if got := user.status(t, f); got != "catalogued" {
			t.Errorf("%s: got status %s after the upgrade, want catalogued", f.name, got)
		}
		user.download(t, f)
	}
	another := newFile("after the upgrade.bin", 1<<20)
	user.upload(t, another)
	user.catalogued(t, another, 2*time.Minute)
	t.Logf("upgraded from %s: %d objects with unchanged UIDs, %d intact files, %d accounts and audit entries", from, len(before), len(files), len(stored))
}

// records returns up to 100 accounts and the newest 100 audit entries. Each is a text with the members that all
// versions have.
func (s *system) records(t *testing.T) map[string]bool {
	t.Helper()
	type party struct{ ID, Username string }
	var list struct {
		Accounts []struct {
			ID, Username, Role string
			Disabled           bool
			CreatedAt          time.Time `json:"created_at"`
		}
	}
	s.call(t, http.MethodGet, "accounts", "/accounts?limit=100", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &list)
	var trail struct {
		Entries []struct {
			ID, Action, Role, Address string
			At                        time.Time
			Actor, Account            party
			RequestID                 string `json:"request_id"`
		}
	}
	s.call(t, http.MethodGet, "accounts", "/accounts/audit?limit=100", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &trail)
	found := map[string]bool{}
	for _, account := range list.Accounts {
		found[fmt.Sprintf("account %+v", account)] = true
	}
	for _, entry := range trail.Entries {
		found[fmt.Sprintf("audit entry %+v", entry)] = true
	}
	if len(list.Accounts) < 2 || len(trail.Entries) < 2 {
		t.Fatalf("got %d accounts and %d audit entries, want at least 2 of each", len(list.Accounts), len(trail.Entries))
	}
	return found
}

// identities returns the UIDs of the volumes, Secrets and event sources, by kind and name.
func identities(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	lines := kubectl(t, "get", "pvc,secrets,rabbitmqsources,pingsources", "--output",
		`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{"\n"}{end}`)
	for line := range strings.Lines(lines) {
		if object, uid, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found[object] = uid
		}
	}
	if len(found) < 10 {
		t.Fatalf("got %d objects, want at least 10: %v", len(found), found)
	}
	return found
}
