package function

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadKey(t *testing.T) {
	const key = "s3cret-s3cret-s3cret-s3cret-1234" // 32 bytes
	for name, c := range map[string]struct {
		content string // empty if there is no file
		want    string // a part of the error, or empty for no error
	}{
		"a key of the minimum length":             {key, ""},
		"a key with white space around it":        {" " + key + "\r\n", ""},
		"a key that is one byte too short":        {key[1:], "must have at least 32 bytes, but has 31"},
		"a short key, filled up with white space": {key[1:] + "\n\n", "must have at least 32 bytes, but has 31"},
		"a file with only white space":            {"\n", "must have at least 32 bytes, but has 0"},
		"a file that does not exist":              {"", "no such file"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if c.content != "" {
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := LoadKey("SAMPLE_KEY_FILE", path)
		switch {
		case c.want == "" && (err != nil || string(got) != key):
			t.Errorf("%s: got %q and error %v, want %q", name, got, err, key)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "SAMPLE_KEY_FILE: ") || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got error %v, want one that names SAMPLE_KEY_FILE and contains %q", name, err, c.want)
		case c.want != "" && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: got error %v, want one that does not show the key", name, err)
		}
	}
	if _, err := LoadKey("SAMPLE_KEY_FILE", t.TempDir()); err == nil || !strings.HasPrefix(err.Error(), "SAMPLE_KEY_FILE: ") {
		t.Errorf("a folder instead of a file: got error %v, want one that names SAMPLE_KEY_FILE", err)
	}
}
