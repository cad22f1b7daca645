//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHopsConfirmsTheSetting proves that deploy/hops confirms the deployed value of TRUSTED_HOPS. The script can
// compare the address only on a machine whose address the ingress receives.
func TestHopsConfirmsTheSetting(t *testing.T) {
	s := open(t)
	_, known := ownAddress(t, s.urls["gateway"])
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	hops := exec.CommandContext(ctx, filepath.Join(root, "deploy/hops"))
	hops.Env, hops.Stdin = append(os.Environ(), "ADMIN="+s.username), strings.NewReader(s.password)
	out, err := hops.CombinedOutput()
	deployed := "TRUSTED_HOPS is " + kubectl(t, "get", "configmap", "strongroom", "-o", "jsonpath={.data.TRUSTED_HOPS}") + "."
	if !strings.Contains(string(out), deployed) || strings.Contains(string(out), "a client can forge") {
		t.Errorf("got %v and the output\n%s\nwant %q, and that no client can forge its address", err, out, deployed)
	}
	if known && (err != nil || !strings.Contains(string(out), "The number is correct")) {
		t.Errorf("got %v and the output\n%s\nwant that the number is correct", err, out)
	}
}
