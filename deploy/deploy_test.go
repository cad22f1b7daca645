// Package deploy_test runs the scripts against stand-ins of minikube, kubectl and ko, which record how they are called.
package deploy_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// responses maps the arguments of a program, as a pattern of bash's case, to the commands that respond to them. Bash tries the
// patterns in this order. The program fails if none matches.
type responses [][2]string

// anything is the pattern that matches all arguments.
const anything = "*"

// text responds with a text and without a line break, as kubectl does for a jsonpath.
func text(pattern, output string) [2]string {
	return [2]string{pattern, "printf %s '" + output + "'"}
}

// result is how a script ended, and which programs it called.
type result struct {
	code   int
	output string
	calls  []string
}

// call returns the index of the first call that contains all parts, or -1 if no call does.
func (r result) call(parts ...string) int {
	return slices.IndexFunc(r.calls, func(call string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(call, part) })
	})
}

// run runs a script with its arguments, with settings in its environment, and with stand-ins in place of the programs.
func run(t *testing.T, programs map[string]responses, settings []string, script string, args ...string) result {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	for name, responses := range programs {
		stub := "#!/usr/bin/env bash\nprintf '%s\\n' \"" + name + " $*\" >>\"$CALLS\"\ncase \"$*\" in\n"
		for _, response := range responses {
			stub += response[0] + ")\n" + response[1] + "\n;;\n"
		}
		stub += "*)\nexit 1\n;;\nesac\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(stub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "./"+script, args...)
	command.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "HOME=" + dir, "CALLS=" + calls}, settings...)
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile(calls)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return result{command.ProcessState.ExitCode(), string(output), strings.Split(strings.TrimSpace(string(recorded)), "\n")}
}

func TestCluster(t *testing.T) {
	for name, tc := range map[string]struct {
		version  string
		settings []string
		refused  bool
		want     string // in the call of minikube start, or in the message
	}{
		"the oldest version":   {"v1.38.0", nil, false, "--container-runtime docker"},
		"a newer version":      {"v1.39.2", nil, false, "--container-runtime docker"},
		"a beta version":       {"v1.40.0-beta.0", nil, false, "--container-runtime docker"},
		"the next major":       {"v2.0.0", nil, false, "--container-runtime docker"},
		"the default memory":   {"v1.38.1", nil, false, "--memory 6g"},
		"another memory":       {"v1.38.1", []string{"MEMORY=4g"}, false, "--memory 4g"},
		"a version too old":    {"v1.37.0", nil, true, "minikube is v1.37.0. Kubernetes v1.35.0 requires minikube v1.38.0 or newer"},
		"a much older version": {"v1.9.2", nil, true, "minikube is v1.9.2"},
		"not a version":        {"minikube", nil, true, "minikube is minikube"},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, map[string]responses{
				"minikube": {text(`"version --short"`, tc.version), {"start*", ""}},
				"kubectl":  {{anything, ""}},
			}, tc.settings, "cluster")
			start := got.call("minikube start")
			if tc.refused {
				if got.code != 1 || start >= 0 || !strings.Contains(got.output, tc.want) {
					t.Errorf("got exit code %d, calls %q and the output\n%s\nwant 1, no start and %q", got.code, got.calls, got.output, tc.want)
				}
				return
			}
			if got.code != 0 || start < 0 || !strings.Contains(got.calls[start], tc.want) {
				t.Fatalf("got exit code %d, calls %q and the output\n%s\nwant 0 and a start with %q", got.code, got.calls, got.output, tc.want)
			}
			webhook, patch := got.call("wait --namespace knative-serving"), got.call("patch configmap")
			if webhook < 0 || patch < webhook {
				t.Errorf("waits for the webhook in call %d and patches a ConfigMap in call %d", webhook, patch)
			}
			if got.call("config-kourier", `"use-remote-address":"true"`) < 0 {
				t.Errorf("does not set use-remote-address: %q", got.calls)
			}
			if i := got.call("config-domain"); i >= 0 {
				t.Errorf("sets a domain before Kourier has an address: %s", got.calls[i])
			}
		})
	}
}

func TestTunnel(t *testing.T) {
	const address, domains = `*"get service/kourier"*jsonpath*`, `*"get configmap/config-domain"*`
	installed := [2]string{`*"get service/kourier"*`, ""}
	patched := [2]string{`*"patch configmap/config-domain"*`, ""}
	// Ends as soon as the domain is set.
	tunnel := responses{{`"--profile strongroom tunnel"`, `until grep -q "kubectl.*patch" "$CALLS"; do sleep 0.05; done`}}
	for name, tc := range map[string]struct{ domains, want string }{
		"no domain":            {"_example ", `{"data":{"10.96.7.8.sslip.io":""}}`},
		"an earlier domain":    {"127.0.0.1.sslip.io _example ", `{"data":{"127.0.0.1.sslip.io":null,"10.96.7.8.sslip.io":""}}`},
		"two earlier domains":  {"10.0.0.1.sslip.io 127.0.0.1.sslip.io ", `{"data":{"10.0.0.1.sslip.io":null,"127.0.0.1.sslip.io":null,"10.96.7.8.sslip.io":""}}`},
		"the same domain":      {"10.96.7.8.sslip.io _example ", `{"data":{"10.96.7.8.sslip.io":""}}`},
		"a domain of the user": {"_example files.example.com ", `{"data":{"10.96.7.8.sslip.io":""}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, map[string]responses{
				"minikube": tunnel,
				// Kourier has no address when the script asks for the first time.
				"kubectl": {{address, `[[ $(grep -c jsonpath "$CALLS") == 1 ]] || printf 10.96.7.8`}, installed, text(domains, tc.domains), patched},
			}, nil, "tunnel")
			patch := got.call("--context strongroom patch configmap/config-domain --namespace knative-serving --type merge")
			if got.code != 0 || patch < 0 || !strings.HasSuffix(got.calls[patch], "--patch "+tc.want) {
				t.Errorf("got exit code %d, calls %q and the output\n%s\nwant the patch %s", got.code, got.calls, got.output, tc.want)
			}
			if !strings.Contains(got.output, ".10.96.7.8.sslip.io") {
				t.Errorf("the output does not name the domain:\n%s", got.output)
			}
		})
	}
	t.Run("minikube ends without an address", func(t *testing.T) {
		got := run(t, map[string]responses{"minikube": {{anything, "exit 3"}}, "kubectl": {{anything, ""}}}, nil, "tunnel")
		if got.code != 3 || got.call("patch") >= 0 {
			t.Errorf("got exit code %d and calls %q, want 3 and no patch", got.code, got.calls)
		}
	})
	t.Run("no Kourier", func(t *testing.T) {
		got := run(t, map[string]responses{"minikube": {}, "kubectl": {}}, nil, "tunnel")
		if got.code != 1 || got.call("minikube") >= 0 || !strings.Contains(got.output, "make cluster") {
			t.Errorf("got exit code %d, calls %q and the output\n%s\nwant 1 and no tunnel", got.code, got.calls, got.output)
		}
	})
}

// serving is what kubectl shows of the settings of Knative Serving.
type serving struct {
	class, oldClass string // ingress-class and ingress.class of config-network
	kourier         string // use-remote-address and enable-proxy-protocol of config-kourier, with a comma after each
	domains         string // the keys of config-domain
}

// deployable is a kubectl for deploy, on a cluster that has everything.
func deployable(s serving, architecture string) responses {
	return responses{
		text(`"config current-context"`, "lab"),
		{`"get --raw /readyz"*`, ""},
		{`"get crd "*`, ""},
		{`*"get statefulset/rabbitmq secret/rabbitmq-definitions --ignore-not-found"*`, ""}, // nothing is deployed yet
		{`*"delete job secrets setup --ignore-not-found"*`, ""},
		{`*"label ksvc -l app.kubernetes.io/name notin (record,sweep) networking.knative.dev/visibility-"`, ""},
		{`"kustomize .strongroom/deploy"`, "cat .strongroom/deploy/kustomization.yaml"},
		text(`"get nodes "*nodeInfo.architecture*`, architecture),
		text(`"get configmap config-network --namespace knative-serving "*"{.data.ingress-class}"`, s.class),
		text(`"get configmap config-network --namespace knative-serving "*"{.data.ingress\.class}"`, s.oldClass),
		text(`"get configmap config-kourier --namespace knative-serving "*"{.data.use-remote-address},{.data.enable-proxy-protocol},"`, s.kourier),
		text(`"get configmap config-domain --namespace knative-serving "*`, s.domains),
	}
}

// TestDeployChoosesOverlays runs deploy with a kubectl whose "kustomize" prints the generated kustomization, and a ko that
// shows what it would apply.
func TestDeployChoosesOverlays(t *testing.T) {
	gateway, external := "../../deploy/overlays/expose-gateway", "../../deploy/overlays/stores-external"
	for name, tc := range map[string]struct {
		settings []string
		missing  string // a Secret that does not exist
		want     []string
		message  string // of a rejection
	}{
		"default":                    {},
		"the defaults by name":       {settings: []string{"EXPOSE=all", "STORES=development"}},
		"only the gateway is public": {settings: []string{"EXPOSE=gateway"}, want: []string{gateway}},
		"external stores":            {settings: []string{"STORES=external"}, want: []string{external}},
		"both":                       {settings: []string{"EXPOSE=gateway", "STORES=external"}, want: []string{gateway, external}},
		"a Secret is missing":        {settings: []string{"STORES=external"}, missing: "mongodb-admin", message: "lacks these Secrets: mongodb-admin."},
		"unknown EXPOSE":             {settings: []string{"EXPOSE=none"}, message: "EXPOSE is none. It must be all or gateway."},
		"unknown STORES":             {settings: []string{"STORES=none"}, message: "STORES is none. It must be development or external."},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := deployable(serving{domains: "knative.test "}, "amd64")
			if tc.missing != "" {
				kubectl = append(kubectl, [2]string{`*" get secret ` + tc.missing + `"`, "exit 1"})
			}
			kubectl = append(kubectl, [2]string{`*" get secret "*`, ""})
			got := run(t, map[string]responses{"kubectl": kubectl, "ko": {{`*"-f -"*`, "cat; exit 9"}}},
				append([]string{"KO_DOCKER_REPO=registry.example.com/lab"}, tc.settings...), "deploy")
			if applied := got.call("ko apply", "-f -") >= 0; applied != (tc.message == "") || !strings.Contains(got.output, tc.message) {
				t.Fatalf("got applied %t and the output\n%s\nwant the message %q", applied, got.output, tc.message)
			}
			for _, overlay := range []string{gateway, external} {
				if has, want := strings.Contains(got.output, "  - "+overlay+"\n"), slices.Contains(tc.want, overlay); has != want {
					t.Errorf("the overlay %s is used: %t, want %t, in\n%s", overlay, has, want, got.output)
				}
			}
		})
	}
}

// stopped is a ko that fails, which ends a script when it builds the first image.
var stopped = responses{{anything, `printf '%s\n' "platforms=${KO_DEFAULTPLATFORMS-}" >>"$CALLS"; exit 9`}}

func TestDeployChecksServing(t *testing.T) {
	const (
		kourier = "kourier.ingress.networking.knative.dev"
		fix     = `  kubectl patch configmap/config-kourier --namespace knative-serving --type merge --patch '{"data":{"use-remote-address":"true"}}'` + "\n"
		domain  = "knative.test "
	)
	for name, tc := range map[string]struct {
		serving serving
		expose  string
		message string // of a refusal
	}{
		"kourier as published":       {serving{kourier, "", ",,", domain}, "all", fix},
		"kourier, gateway alone":     {serving{kourier, "", ",,", domain}, "gateway", fix},
		"kourier by the older key":   {serving{"", kourier, ",,", domain}, "all", fix},
		"kourier, with white space":  {serving{" " + kourier + "\n", "", ",,", domain}, "all", fix},
		"kourier, no config-kourier": {serving{kourier, "", "", domain}, "all", fix},
		"set to false":               {serving{kourier, "", "false,,", domain}, "all", fix},
		"both set to false":          {serving{kourier, "", "false,False,", domain}, "all", fix},
		"no Go boolean":              {serving{kourier, "", "yes,,", domain}, "all", fix},
		"a boolean in mixed case":    {serving{kourier, "", "tRUE,,", domain}, "all", fix},
		"a line break":               {serving{kourier, "", "true\n,,", domain}, "all", fix},
		"use-remote-address":         {serving{kourier, "", "true,,", domain}, "all", ""},
		"use-remote-address by key":  {serving{"", kourier, "true,false,", domain}, "all", ""},
		"use-remote-address: T":      {serving{kourier, "", "T,,", domain}, "all", ""},
		"use-remote-address: 1":      {serving{kourier, "", "1,,", domain}, "all", ""},
		"enable-proxy-protocol":      {serving{kourier, "", ",true,", domain}, "all", ""},
		"enable-proxy-protocol only": {serving{kourier, "", "false,TRUE,", domain}, "all", ""},
		"another ingress":            {serving{"istio.ingress.networking.knative.dev", "", ",,", domain}, "all", ""},
		"the newer key wins":         {serving{"contour.ingress.networking.knative.dev", kourier, ",,", domain}, "all", ""},
		"no ingress class":           {serving{"", "", ",,", domain}, "all", ""},
		"no domain":                  {serving{kourier, "", "true,,", ""}, "all", "`make tunnel` sets the domain"},
		"no domain, gateway alone":   {serving{kourier, "", "true,,", ""}, "gateway", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, map[string]responses{"kubectl": deployable(tc.serving, "amd64"), "ko": stopped},
				[]string{"KO_DOCKER_REPO=registry.example.com/lab", "EXPOSE=" + tc.expose}, "deploy")
			if built := got.call("ko apply") >= 0; built != (tc.message == "") || !strings.Contains(got.output, tc.message) || got.code == 0 {
				t.Errorf("got exit code %d, images built %t, and the output\n%s\nwant the message %q", got.code, built, got.output, tc.message)
			}
		})
	}
}

func TestDeployCreatesAgain(t *testing.T) {
	const source = "rabbitmqsource/strongroom-files"
	for name, tc := range map[string]struct {
		exists  bool
		dryRun  string // the error of a dry run that applies the source
		deleted bool
		applied bool // deploy applies all manifests
	}{
		"no source":           {applied: true},
		"an unchanged source": {exists: true, applied: true},
		"a changed source":    {exists: true, dryRun: "spec: field is Immutable", deleted: true, applied: true},
		"an invalid source":   {exists: true, dryRun: "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := deployable(serving{kourier: ",,", domains: "knative.test "}, "amd64")
			if tc.exists {
				kubectl = append(kubectl, [2]string{`*" get ` + source + `"`, ""}, [2]string{`*" delete ` + source + ` "*`, ""})
			}
			ko := responses{{`*--dry-run=server`, ""}}
			if tc.dryRun != "" {
				ko[0][1] = "echo '" + tc.dryRun + "' >&2; exit 1"
			}
			got := run(t, map[string]responses{"kubectl": kubectl, "ko": append(ko, stopped...)}, []string{"KO_DOCKER_REPO=registry.example.com/lab"}, "deploy")
			jobs, apply := got.call("delete job secrets setup"), got.call("ko apply", "-f -")
			if jobs < 0 || tc.applied != (apply > jobs) {
				t.Errorf("deletes the Jobs in call %d and applies the manifests in call %d, of\n%q", jobs, apply, got.calls)
			}
			if deleted := got.call("delete "+source) >= 0; deleted != tc.deleted {
				t.Errorf("got source deleted %t, want %t, in the calls\n%q", deleted, tc.deleted, got.calls)
			}
		})
	}
}

func TestPlatformOfTheImages(t *testing.T) {
	for name, tc := range map[string]struct{ repository, architecture, want string }{
		"minikube on arm64":          {"ko.local", "arm64", "platforms=linux/arm64"},
		"minikube on amd64":          {"ko.local", "amd64", "platforms=linux/amd64"},
		"a name in the local engine": {"ko.local/strongroom", "arm64", "platforms=linux/arm64"},
		"kind on arm64":              {"kind.local", "arm64", "platforms=linux/arm64"},
		"a registry":                 {"registry.example.com/lab", "arm64", "platforms="},
	} {
		for _, script := range []string{"deploy", "job redrive", "rotate-keys status"} {
			t.Run(name+"/"+script, func(t *testing.T) {
				kubectl := deployable(serving{kourier: ",,", domains: "knative.test "}, tc.architecture)
				name, args, _ := strings.Cut(script, " ")
				got := run(t, map[string]responses{"kubectl": kubectl, "ko": stopped}, []string{"KO_DOCKER_REPO=" + tc.repository}, name, strings.Fields(args)...)
				if !slices.Contains(got.calls, tc.want) {
					t.Errorf("got calls %q and the output\n%s\nwant %q", got.calls, got.output, tc.want)
				}
			})
		}
	}
	for _, script := range []string{"deploy", "job redrive", "rotate-keys status"} {
		t.Run("no repository/"+script, func(t *testing.T) {
			name, args, _ := strings.Cut(script, " ")
			got := run(t, map[string]responses{"kubectl": deployable(serving{}, "amd64"), "ko": stopped}, nil, name, strings.Fields(args)...)
			if got.call("ko ") >= 0 || !strings.Contains(got.output, `eval "$(minikube -p strongroom docker-env)"`) {
				t.Errorf("got calls %q and the output\n%s\nwant the hint for minikube", got.calls, got.output)
			}
		})
	}
}

// newer matches what bash 3.2, which macOS has, does not support.
var newer = regexp.MustCompile(strings.Join([]string{
	`\b(mapfile|readarray|coproc)\b`,
	`\b(declare|typeset|local|readonly|export)\s+(-\w+\s+)*-\w*[Agnlu]`,
	`\$\{[^}]*[\w\]@*](,|\^)`,
	`\$\{[^}]*@[A-Za-z]\}`,
	`\$\{[^}]*\[-\d`,
	`\$\{\w+:[^}]*:\s*-\d`,
	`\bwait\s+(-\w+\s+)*-n\b`,
	`\bread\s+(-\w+\s+)*-\w*[iN]\b`,
	`\bread\s+(-\w+\s+)*-t\s*\d*\.\d`,
	`\bprintf\b.*%\([^)]*\)T`,
	`(\[\[|\btest|\s\[)\s+(!\s+)?-[vR]\s`,
	`\bshopt\s+-s\s.*\b(globstar|lastpipe|inherit_errexit|dirspell|autocd)\b`,
	`\$\{?(BASHPID|EPOCHSECONDS|EPOCHREALTIME|SRANDOM)\b`,
	`&>>|\|&|;;?&(\s|$)`,
	`(^|\s)\{\w+\}[<>]`,
	`\{0\d+\.\.\d+\}|\{-?\d+\.\.-?\d+\.\.-?\d+\}`,
	`\$'[^']*\\[uU][0-9a-fA-F]`,
}, "|"))

func TestScriptsRunWithBash3(t *testing.T) {
	for _, line := range []string{
		"mapfile -t names <file", "readarray -t names", "declare -A seen", "local -A seen", "declare -g -A seen", "declare -n name=other", "local -u name",
		`echo "${name,,}"`, `echo "${name^^}"`, `echo "${name^}"`, `echo "${names[@]^^}"`, `echo "${name@Q}"`, `echo "${names[-1]}"`, `echo "${name:0:-1}"`,
		"wait -n", "coproc cat", "run &>>log", "run |& tee log", "a) b ;&", "a) b ;;&", "read -N 1 key", "read -r -t 0.5 line",
		`printf '%(%s)T' -1`, "[[ -v name ]]", "test -v name", "shopt -s globstar", "shopt -s nullglob lastpipe", `echo "$BASHPID"`, `echo "${EPOCHSECONDS}"`,
		"exec {fd}<file", "echo {01..10}", "echo {1..9..2}", `echo $'\u2026'`,
	} {
		if !newer.MatchString(line) {
			t.Errorf("does not find the construct in %q", line)
		}
	}
	for _, line := range []string{
		"declare -a names", "local -r name=1", `names+=("x")`, `echo "${name//,/ }" "${name:-,}" "${names[@]}" "${#names[@]}" "${name%%@*}" "${1//./\\.}"`, "wait", "run >>log 2>&1",
		"a || b", "a) b ;;", "read -r -n 1 -t 5 key", "printf -v name %s value", "[[ -n $name ]]", "echo {1..9}", `[[ $a =~ ^v([0-9]+) ]]`, "cat <<<\"$a\"", `IFS=, read -r a b < <(run)`,
	} {
		if newer.MatchString(line) {
			t.Errorf("finds %q in %q, which bash 3.2 supports", newer.FindString(line), line)
		}
	}
	scripts := []string{"../Makefile"}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == "" && !entry.IsDir() {
			scripts = append(scripts, entry.Name())
		}
	}
	if len(scripts) < 9 {
		t.Fatalf("found the scripts %q only", scripts)
	}
	for _, script := range scripts {
		content, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(content), "\n") {
			if found := newer.FindString(line); found != "" && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				t.Errorf("%s:%d: bash 3.2 does not support %q", script, i+1, found)
			}
		}
	}
}
