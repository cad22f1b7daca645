package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree copies the files that build-images and release read to a temporary folder, and returns the path of the folder.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"config", "deploy", "knative"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile("../ko.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ko.yaml"), string(content))
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// digest is the digest of all images that builder prints.
var digest = "sha256:" + strings.Repeat("0", 63) + "1"

// builder is a ko that prints the names of the images with a suffix, and writes an SBOM if a folder is given.
func builder(suffix string) responses {
	return responses{{`"build "*`, `previous=
		for argument; do
			case $argument in github.com/*) echo "$KO_DOCKER_REPO/${argument##*/}` + suffix + `" ;; esac
			[[ $previous != --sbom-dir ]] || { mkdir -p "$argument" && echo "$KO_DEFAULTBASEIMAGE" >"$argument/login-linux-amd64.spdx.json"; }
			previous=$argument
		done`}}
}

func TestBuildImages(t *testing.T) {
	for name, tc := range map[string]struct {
		repo, suffix string
		message      string // of a failure
	}{
		"a registry":          {repo: "registry.example.com/you", suffix: "@" + digest},
		"a port and a tag":    {repo: "10.0.0.1:5000", suffix: ":v0.1.0@" + digest},
		"no registry":         {suffix: "@" + digest, message: `KO_DOCKER_REPO is "". It must be a registry`},
		"the local engine":    {repo: "ko.local", suffix: "@" + digest, message: `KO_DOCKER_REPO is "ko.local". It must be a registry`},
		"an image is missing": {repo: "registry.example.com/you", suffix: ":latest", message: "ko has not printed the image of ko://github.com/strongroom-dev/strongroom/functions/accounts"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t)
			got := runIn(t, filepath.Join(dir, "deploy"), map[string]responses{"ko": builder(tc.suffix)}, []string{"KO_DOCKER_REPO=" + tc.repo}, "build-images")
			content, err := os.ReadFile(filepath.Join(dir, "deploy/overlays/images/kustomization.yaml"))
			if tc.message != "" {
				if got.code != 1 || err == nil || !strings.Contains(got.output, tc.message) {
					t.Errorf("got exit code %d, the component\n%s\nand the output\n%s\nwant no component and %q", got.code, content, got.output, tc.message)
				}
				return
			}
			if got.code != 0 || err != nil {
				t.Fatalf("got exit code %d, %v and the output\n%s", got.code, err, got.output)
			}
			functions, err := os.ReadDir("../functions")
			if err != nil {
				t.Fatal(err)
			}
			for _, function := range functions {
				want := "  - name: ko://github.com/strongroom-dev/strongroom/functions/" + function.Name() +
					"\n    newName: " + tc.repo + "/" + function.Name() + "\n    digest: " + digest + "\n"
				if !strings.Contains(string(content), want) {
					t.Errorf("got the component\n%s\nwant\n%s", content, want)
				}
			}
		})
	}
}

func TestRelease(t *testing.T) {
	const base = "registry.example.com/base:1@sha256:02"
	for name, tc := range map[string]struct {
		settings []string
		spoil    func(t *testing.T, dir string, git func(args ...string))
		cosign   bool
		base     string // the expected base image
		message  string // of a failure
	}{
		"without cosign":        {base: "cgr.dev/chainguard/static:latest@sha256:03"},
		"with cosign":           {cosign: true, base: "cgr.dev/chainguard/static:latest@sha256:03"},
		"another base":          {settings: []string{"KO_DEFAULTBASEIMAGE=10.0.0.1:5000/base"}, base: "10.0.0.1:5000/base@sha256:03"},
		"a base with a digest":  {settings: []string{"KO_DEFAULTBASEIMAGE=" + base}, base: base},
		"no version":            {settings: []string{"VERSION="}, message: `VERSION is "". It must have the form`},
		"a version without a v": {settings: []string{"VERSION=0.1.0"}, message: `VERSION is "0.1.0". It must have the form`},
		"another version":       {settings: []string{"VERSION=v0.1.1"}, message: "The tag v0.1.1 does not exist"},
		"no section":            {settings: []string{"VERSION=v0.2.0"}, message: "CHANGELOG.md has no section for 0.2.0."},
		"an empty section":      {settings: []string{"VERSION=v0.3.0"}, message: "CHANGELOG.md has no section for 0.3.0."},
		"a changed file": {message: "changes that are not committed", spoil: func(t *testing.T, dir string, _ func(args ...string)) {
			write(t, filepath.Join(dir, "ko.yaml"), "defaultBaseImage: other\n")
		}},
		"a new file": {message: "changes that are not committed", spoil: func(t *testing.T, dir string, _ func(args ...string)) {
			write(t, filepath.Join(dir, "config/new.yaml"), "")
		}},
		"a later commit": {message: "is not a tag of the current commit", spoil: func(_ *testing.T, _ string, git func(args ...string)) {
			git("commit", "--quiet", "--allow-empty", "--message", "later")
		}},
		"an existing folder": {message: "release exists. Delete it", spoil: func(t *testing.T, dir string, _ func(args ...string)) {
			if err := os.Mkdir(filepath.Join(dir, "release"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t)
			write(t, filepath.Join(dir, ".gitignore"), "/release/\n")
			write(t, filepath.Join(dir, "CHANGELOG.md"),
				"# Changelog\n\n## Unreleased\n\nnot yet\n\n## 0.3.0 (2026-12-24)\n\n## 0.1.0 (2026-12-01)\n\n### Added\n\n- Files.\n\n## 0.0.1 (2026-11-01)\n\nolder\n")
			git := func(args ...string) {
				t.Helper()
				command := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=test", "-c", "user.email=test@example.com"}, args...)...)
				if output, err := command.CombinedOutput(); err != nil {
					t.Fatalf("git %q: %v\n%s", args, err, output)
				}
			}
			git("init", "--quiet")
			git("add", ".")
			git("commit", "--quiet", "--message", "all")
			for _, tag := range []string{"v0.1.0", "v0.2.0", "v0.3.0"} {
				git("tag", tag)
			}
			if tc.spoil != nil {
				tc.spoil(t, dir, git)
			}
			programs := map[string]responses{
				"ko":      builder(":v0.1.0@" + digest),
				"crane":   {text(`"digest "*`, "sha256:03")},
				"kubectl": {{`"kustomize "*`, `sed -n 's/^    newName: /image: /p' "$2/../images/kustomization.yaml"`}},
			}
			if tc.cosign {
				programs["cosign"] = responses{{`"sign "*`, ""}, {`"sign-blob --yes --bundle "*`, `echo signed >"$4"`}}
			}
			out := filepath.Join(dir, "release")
			settings := append([]string{"VERSION=v0.1.0", "KO_DOCKER_REPO=registry.example.com/you", "OUT=" + out}, tc.settings...)
			got := runIn(t, filepath.Join(dir, "deploy"), programs, settings, "release")
			if tc.message != "" {
				if got.code != 1 || got.call("ko build") >= 0 || !strings.Contains(got.output, tc.message) {
					t.Errorf("got exit code %d, the calls %q and the output\n%s\nwant no build and %q", got.code, got.calls, got.output, tc.message)
				}
				return
			}
			if got.code != 0 {
				t.Fatalf("got exit code %d and the output\n%s", got.code, got.output)
			}
			read := func(name string) string {
				t.Helper()
				content, err := os.ReadFile(filepath.Join(out, name))
				if err != nil {
					t.Error(err)
				}
				return string(content)
			}
			if got, want := read("release-notes.md"), "### Added\n\n- Files.\n"; got != want {
				t.Errorf("release notes: got %q, want %q", got, want)
			}
			if got, want := read("base-image.txt"), tc.base+"\n"; got != want || read("login-linux-amd64.spdx.json") != want {
				t.Errorf("base image: got %q, want %q", got, want)
			}
			if crane := got.call("crane digest") >= 0; crane == (tc.base == base) {
				t.Errorf("got the digest of the base image looked up: %t", crane)
			}
			images := strings.Fields(read("images.txt"))
			if !slices.Contains(images, "registry.example.com/you/login@"+digest) || !strings.Contains(read("strongroom.yaml"), "image: registry.example.com/you/login\n") {
				t.Errorf("got the images %q and the manifests\n%s", images, read("strongroom.yaml"))
			}
			check := exec.CommandContext(t.Context(), "shasum", "-a", "256", "-c", "checksums.txt")
			check.Dir = out
			if output, err := check.CombinedOutput(); err != nil || strings.Count(string(output), ": OK\n") != 5 {
				t.Errorf("shasum -c checksums.txt: %v\n%s\nwant 5 files", err, output)
			}
			signed := got.call("cosign sign --yes "+strings.Join(images, " ")) >= 0
			_, err := os.Stat(filepath.Join(out, "checksums.txt.sigstore.json"))
			bundle := err == nil
			if signed != tc.cosign || bundle != tc.cosign || strings.Contains(got.output, "NOTHING IS SIGNED") == tc.cosign {
				t.Errorf("got images signed %t, checksums signed %t and the output\n%s\nwant %t", signed, bundle, got.output, tc.cosign)
			}
		})
	}
}
