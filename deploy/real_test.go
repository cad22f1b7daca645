package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRealRun runs test/real/run with stand-ins for all programs that it calls.
func TestRealRun(t *testing.T) {
	const (
		deletesKind     = "kind delete cluster --name strongroom-real"
		deletesMinikube = "minikube delete --profile strongroom-real"
	)
	steps := []string{"make integration", "make cluster", "make deploy", "make e2e"}
	for name, tc := range map[string]struct {
		platform string
		fails    string // the arguments of the call of make, docker or kind that fails
		how      string // the commands of this call
		steps    int    // how many of the steps run
		deletes  string
		result   string // a pattern that matches the end of the recorded row
		code     int
	}{
		"kind":                       {"kind", "", "exit 1", 4, deletesKind, `integration \d+ s, cluster \d+ s, deploy \d+ s, e2e \d+ s \| passed`, 0},
		"minikube":                   {"minikube", "", "exit 1", 4, deletesMinikube, `cluster \d+ s, tunnel \d+ s, deploy \d+ s, e2e \d+ s \| passed`, 0},
		"a store does not start":     {"kind", "run -d --name strongroom-real-mongodb", "exit 1", 0, "", ` \| stores failed after \d+ s`, 1},
		"make integration fails":     {"kind", "integration", "exit 1", 1, "", `stores \d+ s \| integration failed after \d+ s`, 1},
		"make cluster fails":         {"kind", "cluster", "exit 1", 2, deletesKind, `integration \d+ s \| cluster failed after \d+ s`, 1},
		"make deploy fails":          {"minikube", "deploy", "exit 1", 3, deletesMinikube, `tunnel \d+ s \| deploy failed after \d+ s`, 1},
		"make e2e fails":             {"kind", "e2e", "exit 1", 4, deletesKind, `deploy \d+ s \| e2e failed after \d+ s`, 1},
		"the cluster is not deleted": {"kind", "delete", "exit 1", 4, deletesKind, `passed; the cleanup failed`, 1},
		"SIGTERM during make e2e":    {"kind", "e2e", "kill -TERM $PPID", 4, deletesKind, `deploy \d+ s \| interrupted during e2e`, 143},
		"SIGINT during make e2e":     {"minikube", "e2e", "kill -INT $PPID; exit 2", 4, deletesMinikube, `deploy \d+ s \| interrupted during e2e`, 130},
		"SIGTERM before the first step": {"kind", "container ls", `mkdir "$CALLS.once" && kill -TERM $PPID`, 0, "",
			` \| interrupted during the start`, 143},
	} {
		t.Run(name, func(t *testing.T) {
			// Each stand-in first checks whether its call is the one that fails.
			fails := [2]string{`"` + tc.fails + `"*`, tc.how}
			calls := func(other ...[2]string) responses { return append(responses{fails}, other...) }
			if tc.fails == "" {
				calls = func(other ...[2]string) responses { return other }
			}
			record := filepath.Join(t.TempDir(), "real-runs.md")
			got := run(t, map[string]responses{
				"docker": calls([2]string{`"version "*`, "echo 29.1.0"}, [2]string{`"run "*`, "echo ID"}, [2]string{`"exec "*`, ""},
					[2]string{`"port strongroom-real-mysql 3306/tcp"`, "echo 127.0.0.1:32001"}, [2]string{`"port strongroom-real-mongodb 27017/tcp"`, "echo 127.0.0.1:32002"},
					[2]string{`"port strongroom-real-rabbitmq 5672/tcp"`, "echo 127.0.0.1:32003"}, [2]string{`"port strongroom-real-rabbitmq 15672/tcp"`, "echo 127.0.0.1:32004"},
					[2]string{`"container ls "*`, `all="$*"; store=${all#*=^}; ! grep -q "docker run .*--name ${store%?} " "$CALLS" || echo ID`}, [2]string{`"rm "*`, ""}),
				"kind":     calls([2]string{"version", "echo kind v0.31.0"}, [2]string{`"get clusters"`, "echo other"}, [2]string{`"delete "*`, ""}),
				"minikube": {{`"version --short"`, "echo v1.39.0"}, {`"profile list "*`, "echo '{}'"}, {`"delete "*`, ""}},
				"kubectl":  {{`"version --client"`, "echo 'Client Version: v1.34.2'"}, {`"get configmap/config-domain"*`, `! grep -q "make tunnel" "$CALLS" || echo 10.96.7.8.sslip.io`}, {anything, ""}},
				"make": calls([2]string{"integration", `printf '%s\n' "$MYSQL_ADMIN_DSN $MONGODB_ADMIN_URI $EVENTS_ADMIN_URL $EVENTS_MANAGEMENT_URL" >>"$CALLS"`},
					[2]string{"tunnel", `trap 'kill $!; echo the tunnel ends >>"$CALLS"; exit' INT; sleep 60 & wait`}, [2]string{anything, `printf '%s\n' "$PLATFORM $PROFILE ${KO_DOCKER_REPO-unset} ${KUBECONFIG##*/}" >>"$CALLS"`}),
				"sudo": {{"-v", ""}}, "go": {{`"env GOVERSION"`, "echo go1.26.1"}}, "kn": {{"version", "echo 'Version:      v1.20.0'"}}, "ko": {{"version", "echo 0.18.1"}},
			}, []string{"PLATFORM=" + tc.platform, "RECORD=" + record, "KO_DOCKER_REPO=registry.example.com/other"}, "../test/real/run")

			var made []string
			for _, call := range got.calls {
				if strings.HasPrefix(call, "make ") && call != "make tunnel" {
					made = append(made, call)
				}
			}
			if got.code != tc.code || strings.Join(made, ", ") != strings.Join(steps[:tc.steps], ", ") {
				t.Errorf("got exit code %d and the steps %q, want %d and %q, with the output\n%s", got.code, made, tc.code, steps[:tc.steps], got.output)
			}
			row, err := os.ReadFile(record)
			if err != nil {
				t.Fatalf("%v, with the output\n%s", err, got.output)
			}
			if want := regexp.MustCompile(`^\| \d{4}-\d\d-\d\d \| [^|]+ \| [^|]+, Docker 29\.1\.0 \| go1\.26\.1, kubectl v1\.34\.2, kn v1\.20\.0, ko 0\.18\.1 \| ` +
				`(kind|minikube) v[^|]+, Knative v1[^|]+, Kourier v1[^|]+ \| mysql:[^|]+, mongo:[^|]+, rabbitmq:[^|]+ \| .*` + tc.result + ` \|\n$`); !want.Match(row) {
				t.Errorf("got the row\n%s\nwant a match of %s", row, want)
			}
			for _, store := range []string{"mysql", "mongodb", "rabbitmq"} {
				started, removed := got.call("docker run", "--name strongroom-real-"+store), got.call("docker rm -f -v strongroom-real-"+store)
				if started >= 0 && removed < started {
					t.Errorf("starts %s in call %d and removes it in call %d", store, started, removed)
				}
			}
			if deletes := got.call("delete "); tc.deletes == "" != (deletes < 0) || deletes >= 0 && got.calls[deletes] != tc.deletes {
				t.Errorf("got call %d of %q, want %q", deletes, got.calls, tc.deletes)
			}
			if deletes, ends := got.call("minikube delete"), got.call("the tunnel ends"); deletes >= 0 && (ends < 0 || ends > deletes) {
				t.Errorf("the tunnel ends in call %d of %q, want before the deletion", ends, got.calls)
			}
			if tc.steps > 0 && got.call("root:secret@tcp(127.0.0.1:32001)/ mongodb://root:secret@127.0.0.1:32002 "+
				"amqp://guest:guest@127.0.0.1:32003 http://guest:guest@127.0.0.1:32004") < 0 && tc.fails != "integration" {
				t.Errorf("make integration does not get the addresses of the stores: %q", got.calls)
			}
			if tc.steps == 4 && tc.fails == "" && got.call(tc.platform+" strongroom-real unset kubeconfig") < 0 {
				t.Errorf("make gets other settings: %q", got.calls)
			}
		})
	}
	t.Run("the cluster exists", func(t *testing.T) {
		got := run(t, map[string]responses{
			"docker": {{`"version "*`, "echo 29.1.0"}}, "kind": {{"version", "echo kind v0.31.0"}, {`"get clusters"`, "echo strongroom-real"}},
			"kubectl": {}, "make": {}, "go": {}, "kn": {}, "ko": {},
		}, nil, "../test/real/run")
		if got.code != 1 || got.call("delete") >= 0 || got.call("rm ") >= 0 || !strings.Contains(got.output, "The cluster strongroom-real exists") {
			t.Errorf("got exit code %d, calls %q and the output\n%s\nwant 1 and no deletion", got.code, got.calls, got.output)
		}
	})
}
