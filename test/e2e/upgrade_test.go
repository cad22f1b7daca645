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

// TestUpgrade proves that an upgrade loses no user data and replaces no volume, Secret or event source. It deploys an
// older version into a cluster without Strongroom, uploads files, and deploys the working tree over the older version.
// FROM is the commit or tag of the older version. If testdata contains a patch with the name of FROM, the test applies
// the patch to the older version. An older version needs a patch if it cannot start with the stores of the cluster.
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
	user := &system{urls: s.urls, username: fmt.Sprintf("upgrade-%d", time.Now().UnixNano()), password: "analytical-engine"}
	var created struct{ ID string }
	s.createUser(t, user.username, user.password).decode(t, http.StatusCreated, &created)
	files := []*file{newFile("one byte.bin", 1), newFile("one megabyte.bin", 1<<20), newFile("five megabytes.bin", 5<<20)}
	for _, f := range files {
		user.upload(t, f)
		user.catalogued(t, f, 2*time.Minute)
	}
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
	user.urls, user.token = open(t).urls, ""
	for _, f := range files {
		if got := user.status(t, f); got != "catalogued" {
			t.Errorf("%s: got status %s after the upgrade, want catalogued", f.name, got)
		}
		user.download(t, f)
	}
	another := newFile("after the upgrade.bin", 1<<20)
	user.upload(t, another)
	user.catalogued(t, another, 2*time.Minute)
	t.Logf("upgraded from %s: %d objects with unchanged UIDs, %d intact files", from, len(before), len(files))
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
