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
