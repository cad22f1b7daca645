package function

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecret reads a required and an optional secret from each file. An error names the setting, and shows neither the
// content of the file nor the value of the variable.
func TestSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	locked := write("locked", "s3cret")
	if err := os.Chmod(locked, 0); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path           string
		want           string
		err            string // part of the error for the required secret; if it is empty, no error is expected
		optional       string // part of the error for the optional secret
		otherUsersOnly bool   // root can read the file in spite of its mode
	}{
		"secret":                {path: write("plain", "s3cret"), want: "s3cret"},
		"line break":            {path: write("line", "s3cret\n"), want: "s3cret"},
		"line break, Windows":   {path: write("windows", "s3cret\r\n"), want: "s3cret"},
		"space":                 {path: write("space", " s3cret "), want: " s3cret "},
		"two lines":             {path: write("lines", "s3\ncret\n\n"), want: "s3\ncret"},
		"largest":               {path: write("largest", strings.Repeat("s", maxSecret)), want: strings.Repeat("s", maxSecret)},
		"too large":             {path: write("large", strings.Repeat("s3cret!", maxSecret)), err: "is larger than 1048576 bytes", optional: "larger"},
		"empty":                 {path: write("empty", ""), err: "is empty", optional: "is empty"},
		"only a line break":     {path: write("break", "\n"), err: "is empty", optional: "is empty"},
		"missing":               {path: filepath.Join(dir, "gone"), err: "no such file or directory"},
		"missing folder":        {path: filepath.Join(dir, "none", "gone"), err: "no such file or directory"},
		"folder":                {path: dir, err: "is a directory", optional: "is a directory"},
		"unreadable":            {path: locked, err: "permission denied", optional: "permission denied", otherUsersOnly: true},
		"secret in variable":    {path: "user:s3cret@tcp(127.0.0.1:3306)/x", err: "want the absolute path of a file", optional: "want the absolute path of a file"},
		"URI in variable":       {path: "mongodb://u:s3cret@h/x", err: "want the absolute path of a file", optional: "want the absolute path of a file"},
		"variable without path": {path: "", err: "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.otherUsersOnly && os.Getuid() == 0 {
				t.Skip("root can read all files")
			}
			check := func(kind, got, wantErr string, err error) {
				t.Helper()
				if wantErr == "" {
					if err != nil || got != test.want {
						t.Errorf("%s: got %q and error %v, want %q", kind, got[:min(len(got), 20)], err, test.want[:min(len(test.want), 20)])
					}
				} else if err == nil || !strings.Contains(err.Error(), "SAMPLE_FILE") || !strings.Contains(err.Error(), wantErr) || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("%s: got error %v, want SAMPLE_FILE and %q in it, and no secret", kind, err, wantErr)
				}
			}
			t.Setenv("SAMPLE_FILE", test.path)
			var required struct {
				Value Secret `env:"SAMPLE_FILE,required,notEmpty"`
			}
			err := Parse(&required)
			check("required", string(required.Value), test.err, err)
			var optional struct {
				Value OptionalSecret `env:"SAMPLE_FILE"`
			}
			err = Parse(&optional)
			check("optional", string(optional.Value), test.optional, err)
		})
	}
}

// TestSecretInTheEnvironment proves that a program does not start if a variable contains a secret instead of the path
// of its file.
func TestSecretInTheEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = "SAMPLE must not be set: set SAMPLE_FILE to the path of a file that contains the value"
	for name, test := range map[string]struct {
		value, file, key string
		want             string // part of the error; if it is empty, no error is expected
	}{
		"file":             {value: "", file: path},
		"value":            {value: "s3cret", want: want},
		"value and file":   {value: "s3cret", file: path, want: want},
		"key for its path": {file: path, key: "s3cret", want: "SAMPLE_KEY_FILE: want the absolute path of a file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SAMPLE", test.value)
			t.Setenv("SAMPLE_FILE", test.file)
			t.Setenv("SAMPLE_KEY_FILE", test.key)
			var cfg struct {
				Value Secret `env:"SAMPLE_FILE"`
				Key   string `env:"SAMPLE_KEY_FILE"`
			}
			err := Parse(&cfg)
			if test.want == "" && (err != nil || cfg.Value != "s3cret") {
				t.Errorf("got %q and error %v, want the secret", cfg.Value, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret")) {
				t.Errorf("got error %v, want %q in it and no secret", err, test.want)
			}
		})
	}
}
