package function

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Secret is a setting whose environment variable contains the path of a file. Its value is the content of the file,
// without line breaks at the end. The secret itself must not be in the environment, because /proc/PID/environ shows the
// environment with which a process started, even after os.Unsetenv.
type Secret string

// UnmarshalText reads the file at path.
func (s *Secret) UnmarshalText(path []byte) error {
	value, err := readSecret(string(path))
	*s = Secret(value)
	return err
}

// OptionalSecret is a Secret whose file can be missing. Its value is then empty, as if the variable were not set.
// Kubernetes mounts no file for a key of an optional Secret that does not exist.
type OptionalSecret string

// UnmarshalText reads the file at path.
func (s *OptionalSecret) UnmarshalText(path []byte) error {
	value, err := readSecret(string(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	*s = OptionalSecret(value)
	return err
}

// maxSecret is the maximum size of a secret's file, in bytes. Kubernetes has the same limit for a Secret.
const maxSecret = 1 << 20

func readSecret(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err != nil {
		return "", err
	}
	value := strings.TrimRight(string(content), "\r\n")
	if value == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	if len(content) > maxSecret {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxSecret)
	}
	return value, nil
}
