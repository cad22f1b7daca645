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

// installTimeout bounds the installation of a package, over a slow network.
const installTimeout = 5 * time.Minute

// CanInstall says whether the Install functions may be tried: by root on a Debian.
func CanInstall() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil && os.Getuid() == 0
}

// InstallMariaDB installs Debian's packages of MariaDB's server without its service, so that FindMySQL finds it.
func InstallMariaDB(ctx context.Context, w io.Writer) error {
	// The second has my_print_defaults, without which the first cannot make a database.
	return install(ctx, w, "mariadb-server-core", "mariadb-client-core")
}

// InstallRabbitMQ installs Debian's RabbitMQ, so that FindRabbitMQ finds it. Its service is not started.
func InstallRabbitMQ(ctx context.Context, w io.Writer) error {
	return install(ctx, w, "rabbitmq-server")
}

// InstallNginx installs Debian's nginx, with which docs/forward-auth.md is tested. Its service is not started.
func InstallNginx(ctx context.Context, w io.Writer) error {
	return install(ctx, w, "nginx-light")
}

// InstallNode installs Debian's Node.js and npm, which the tests drive clients and browsers with.
func InstallNode(ctx context.Context, w io.Writer) error {
	return install(ctx, w, "nodejs", "npm")
}

// InstallChromium installs Debian's Chromium, with which the web console is tested.
func InstallChromium(ctx context.Context, w io.Writer) error {
	return install(ctx, w, "chromium")
}

// install installs Debian packages and starts none of their services. It waits for other installations to end.
func install(ctx context.Context, w io.Writer, packages ...string) error {
	what := strings.Join(packages, " and ")
	if !CanInstall() {
		return fmt.Errorf("install %s: %w: it takes root on a Debian", what, errors.ErrUnsupported)
	}
	say(w, "installing Debian's %s, which takes about half a minute", what)
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	shadows, err := shadowServices()
	if err != nil {
		return fmt.Errorf("install %s: %w", what, err)
	}
	defer os.RemoveAll(shadows)
	apt := func(args ...string) (string, error) {
		path := "DPkg::Path=" + shadows + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		args = append([]string{"-y", "-q", "-o", path, "-o", "DPkg::Lock::Timeout=120"}, args...)
		return run(ctx, "", environment("DEBIAN_FRONTEND=noninteractive"), "apt-get", args...)
	}
	wanted := append([]string{"--no-install-recommends", "install"}, packages...)
	out, err := apt(wanted...)
	if err != nil && ctx.Err() == nil {
		// The lists of packages may be missing or old: bring them up to date and try once more.
		if out, err = apt("update"); err == nil {
			out, err = apt(wanted...)
		}
	}
	if err != nil {
		return fmt.Errorf("install %s: %w: %s", what, err, out)
	}
	return nil
}

// shadowServices makes a directory of programs that do nothing, under the names of those through which a package starts
// its services. So the machine's own policy for that (/usr/sbin/policy-rc.d) is left alone.
func shadowServices() (string, error) {
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
