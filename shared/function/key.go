package function

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
)

// LoadKey reads an HMAC key from a file. It removes white space around the key, such as a newline at the end of the
// file. Errors begin with the name of the setting that contains the file's path (the parameter variable). The key must
// be at least as long as a SHA-256 hash, because a shorter key would weaken the HMAC (RFC 2104, section 3).
func LoadKey(variable, path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	key := []byte(strings.TrimSpace(string(content)))
	if len(key) < sha256.Size {
		return nil, fmt.Errorf("%s: the key must have at least %d bytes, not %d", variable, sha256.Size, len(key))
	}
	return key, nil
}
