package function

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
)

// LoadKey reads an HMAC key from the file at path and removes white space around the key. The variable parameter is
// the name of the setting that contains the path. Errors begin with this name.
func LoadKey(variable, path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	key := []byte(strings.TrimSpace(string(content)))
	// A key that is shorter than a SHA-256 hash would weaken the HMAC (RFC 2104, section 3).
	if len(key) < sha256.Size {
		return nil, fmt.Errorf("%s: the key must have at least %d bytes, but has %d", variable, sha256.Size, len(key))
	}
	return key, nil
}
