package deploy_test

import (
	"strings"
	"testing"
)

func TestUndeploy(t *testing.T) {
	const sources, namespace = "delete --namespace strongroom --ignore-not-found", "delete --ignore-not-found --timeout=5m namespace strongroom"
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
			first, second := got.call(sources), got.call(namespace)
			if got.code != tc.code || (second >= 0) != tc.deletes || tc.deletes && (first < 0 || first > second) || !strings.Contains(got.output, tc.want) {
				t.Errorf("got exit code %d, calls %q and the output\n%s\nwant %d, the deletion of the sources and then of the namespace: %t, and %q",
					got.code, got.calls, got.output, tc.code, tc.deletes, tc.want)
			}
		})
	}
}
