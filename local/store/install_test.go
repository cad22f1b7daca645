package store

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestInstallTakesRoot(t *testing.T) {
	if CanInstall() {
		t.Setenv("PATH", t.TempDir()) // hides apt-get
	}
	if err := Install(t.Context(), t.Output(), "hello"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v, want %v", err, errors.ErrUnsupported)
	}
	if CanInstall() {
		t.Error("CanInstall returned true, want false")
	}
}

// TestInstallUpdatesThePackageLists runs a script instead of apt-get.
func TestInstallUpdatesThePackageLists(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: run this test as root")
	}
	for name, tc := range map[string]struct {
		script string // $last is "update" or the name of the package
		calls  string
		want   string // text of the error; empty if no error is expected
	}{
		"current lists are not updated":             {"", "hello\n", ""},
		"missing lists are updated":                 {`[ "$last" = update ] && : >"$0.lists"; [ -e "$0.lists" ]`, "hello\nupdate\nhello\n", ""},
		"a package that does not exist is reported": {`echo no such package; [ "$last" = update ]`, "hello\nupdate\nhello\n", "install hello: exit status 1: no such package"},
		"lists that cannot be updated are reported": {"echo no network; exit 100", "hello\nupdate\n", "install hello: exit status 100: no network"},
	} {
		t.Run(name, func(t *testing.T) {
			apt := filepath.Join(t.TempDir(), "apt-get")
			script := "#!/bin/sh\nfor last; do :; done\necho \"$last\" >>\"$0.calls\"\n" + tc.script + "\n"
			if err := os.WriteFile(apt, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", filepath.Dir(apt))
			err := Install(t.Context(), t.Output(), "hello")
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || err.Error() != tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if calls, err := os.ReadFile(apt + ".calls"); err != nil || string(calls) != tc.calls {
				t.Errorf("got the calls %q, %v, want %q", calls, err, tc.calls)
			}
		})
	}
}

func TestShadowsStartNoService(t *testing.T) {
	dir, err := shadowServices()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"invoke-rc.d", "service", "deb-systemd-invoke"} {
		if out, err := exec.Command(filepath.Join(dir, name), "anything", "start").CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: got output %q and error %v, want neither", name, out, err)
		}
	}
}
