package deploy_test

import (
	"slices"
	"strings"
	"testing"
)

func TestUndeploy(t *testing.T) {
	steps := []string{
		"delete --namespace strongroom --ignore-not-found --timeout=2m rabbitmqsource,pingsource --all",
		"delete --namespace strongroom --ignore-not-found --cascade=foreground --timeout=11m ksvc --all",
		"delete --ignore-not-found --timeout=5m namespace strongroom",
	}
	for name, tc := range map[string]struct {
		settings []string
		deployed bool
		code     int
		deletes  bool
		want     string // in the output
	}{
		"confirmed":     {[]string{"YES=1"}, true, 0, true, "Strongroom is removed from lab."},
		"not confirmed": {nil, true, 1, false, "with all files, accounts and backups. To confirm, run it with YES=1."},
		"not deployed":  {[]string{"YES=1"}, false, 0, false, "Strongroom is not deployed to lab."},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := responses{text(`"config current-context"`, "lab"), {`"delete "*`, ""}}
			if tc.deployed {
				kubectl = append(kubectl, [2]string{`"get namespace strongroom"`, ""})
			}
			got := run(t, map[string]responses{"kubectl": kubectl}, tc.settings, "undeploy")
			var deleted []string
			for _, call := range got.calls {
				if command, ok := strings.CutPrefix(call, "kubectl "); ok && strings.HasPrefix(command, "delete") {
					deleted = append(deleted, command)
				}
			}
			want := steps
			if !tc.deletes {
				want = nil
			}
			if got.code != tc.code || !slices.Equal(deleted, want) || !strings.Contains(got.output, tc.want) {
				t.Errorf("got exit code %d, deletions %q and the output\n%s\nwant %d, %q and %q", got.code, deleted, got.output, tc.code, want, tc.want)
			}
		})
	}
}
