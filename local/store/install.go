package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// installTimeout is the time limit for installing packages. It is long because the network can be slow.
const installTimeout = 5 * time.Minute

// CanInstall reports whether Install can install packages: this process must run as root, and apt-get must exist.
func CanInstall() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil && os.Getuid() == 0
}

// MariaDBPackages are the Debian packages that contain MariaDB's programs, without a system service.
// mariadb-server-core needs my_print_defaults from mariadb-client-core to create a database.
var MariaDBPackages = []string{"mariadb-server-core", "mariadb-client-core"}

// Install installs Debian packages without starting their system services. The error wraps errors.ErrUnsupported if
// CanInstall returns false.
func Install(ctx context.Context, w io.Writer, packages ...string) error {
	what := strings.Join(packages, " and ")
	if !CanInstall() {
		return fmt.Errorf("install %s: %w: installing packages requires Debian and root privileges", what, errors.ErrUnsupported)
	}
	say(w, "installing %s from Debian; this takes about half a minute", what)
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	shadows, err := shadowServices()
	if err != nil {
		return fmt.Errorf("install %s: %w", what, err)
	}
	defer os.RemoveAll(shadows)
	apt := func(args ...string) (string, error) {
		path := "DPkg::Path=" + shadows + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		// If another process is installing packages, wait for up to 120 s.
		args = append([]string{"-y", "-q", "-o", path, "-o", "DPkg::Lock::Timeout=120"}, args...)
		return run(ctx, "", environment("DEBIAN_FRONTEND=noninteractive"), "apt-get", args...)
	}
	wanted := append([]string{"--no-install-recommends", "install"}, packages...)
	out, err := apt(wanted...)
	if err != nil && ctx.Err() == nil {
		// The package lists might be missing or out of date. Update them and try again.
		if out, err = apt("update"); err == nil {
			out, err = apt(wanted...)
		}
	}
	if err != nil {
		return fmt.Errorf("install %s: %w: %s", what, err, out)
	}
	return nil
}

// shadowServices creates a directory of programs that do nothing. In apt-get's PATH, these programs replace the
// commands with which Debian packages start services.
func shadowServices() (string, error) {
	// The usual way to keep packages from starting services is a policy file at /usr/sbin/policy-rc.d, but such a
	// file would change the machine's configuration.
	dir, err := os.MkdirTemp("", "strongroom-install-")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"invoke-rc.d", "service", "deb-systemd-invoke"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}
