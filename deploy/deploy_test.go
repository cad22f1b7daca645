// Package deploy_test runs the scripts against stand-ins of minikube, kind, docker, kubectl and ko, which record how
// they are called.
package deploy_test

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// responses maps the arguments of a program, as a pattern of bash's case, to the commands that respond to them. Bash
// tries the patterns in this order. The program fails if none matches.
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
	return runIn(t, ".", programs, settings, script, args...)
}

// typed is the standard input of each script. Only hops reads it, as the password of an admin.
const typed = `s3cr"et\`

// runIn does the same as run, with a copy of this folder.
func runIn(t *testing.T, folder string, programs map[string]responses, settings []string, script string, args ...string) result {
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
	command.Dir, command.Stdin = folder, strings.NewReader(typed)
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

// serving is what kubectl shows of the settings of Knative Serving.
type serving struct {
	class, oldClass string // ingress-class and ingress.class of config-network
	installed       string // the installed ingresses: kourier, istio
	kourier         string // use-remote-address and enable-proxy-protocol of config-kourier, with a comma after each
	domains         string // the keys of config-domain
}

// deployable is a kubectl for deploy, on a cluster that has everything. node is what kubectl shows of the node: the
// architecture, the minikube profile and the provider ID.
func deployable(s serving, node string) responses {
	return append(responses{
		text(`"config current-context"`, "lab"),
		text(`*"get ksvc -l app.kubernetes.io/name in (gateway,login) -o "*`, ""), // nothing is deployed yet
		text(`*"get networkpolicy stores --ignore-not-found -o "*`, ""),           // nothing is deployed yet
		{`"get --raw /readyz"*`, ""},
		{`"get crd "*`, ""},
		{`*"get statefulset/rabbitmq secret/rabbitmq-definitions --ignore-not-found"*`, ""}, // nothing is deployed yet
		{`*"get cronjob backup --ignore-not-found -o name"`, ""},
		{`*"delete job secrets setup --ignore-not-found"*`, ""},
		{`*"label ksvc -l app.kubernetes.io/name notin (record,sweep) networking.knative.dev/visibility-"`, ""},
		{`"kustomize .strongroom/deploy"`, "cat .strongroom/deploy/kustomization.yaml"},
		{`"get nodes "*nodeInfo.architecture*`, "echo '" + node + "'"},
	}, configured(s)...)
}

// configured is a kubectl that shows the settings of Knative Serving.
func configured(s serving) responses {
	return responses{
		text(`*"get configmap config-network --namespace knative-serving "*"{.data.ingress-class}"`, s.class),
		text(`*"get configmap config-network --namespace knative-serving "*"{.data.ingress\.class}"`, s.oldClass),
		text(`*"get configmap config-kourier --namespace knative-serving --ignore-not-found -o name"`, shown("kourier", s.installed)),
		text(`*"get configmap config-istio --namespace knative-serving --ignore-not-found -o name"`, shown("istio", s.installed)),
		text(`*"get configmap config-kourier --namespace knative-serving "*"{.data.use-remote-address},{.data.enable-proxy-protocol},"`, s.kourier),
		text(`*"get configmap config-domain --namespace knative-serving "*`, s.domains),
	}
}

// shown returns the name of the ConfigMap of an ingress, or an empty string if the ingress is not installed.
func shown(ingress, installed string) string {
	if !strings.Contains(installed, ingress) {
		return ""
	}
	return "configmap/config-" + ingress
}

// TestDeployChoosesOverlays runs deploy with a kubectl whose "kustomize" prints the generated kustomization, and a ko
// that shows what it would apply.
func TestDeployChoosesOverlays(t *testing.T) {
	gateway, none, external := "../../deploy/overlays/expose-gateway", "../../deploy/overlays/expose-none", "../../deploy/overlays/stores-external"
	available, pull, backup := "../../deploy/overlays/availability", "../../deploy/overlays/pull-secret", "../../deploy/overlays/backup"
	for name, tc := range map[string]struct {
		settings []string
		deployed string // what kubectl shows of the functions of an earlier deployment
		policy   string // what kubectl shows of the NetworkPolicy stores of an earlier deployment
		missing  string // a Secret that does not exist; registry by default
		cronJob  string // the CronJob of an earlier deployment
		want     []string
		message  string // of a rejection
		note     string
	}{
		"default":                    {want: []string{gateway}},
		"the defaults by name":       {settings: []string{"EXPOSE=gateway", "STORES=development"}, want: []string{gateway}},
		"empty settings":             {settings: []string{"EXPOSE=", "STORES="}, want: []string{gateway}},
		"all functions are public":   {settings: []string{"EXPOSE=all"}},
		"all remain public":          {deployed: "gateway: login: "},
		"the gateway remains public": {deployed: "gateway: login:cluster-local ", want: []string{gateway}},
		"no function remains public": {deployed: "gateway:cluster-local login:cluster-local ", want: []string{none}},
		"all become public":          {settings: []string{"EXPOSE=all"}, deployed: "gateway: login:cluster-local "},
		"only the gateway stays":     {settings: []string{"EXPOSE=gateway"}, deployed: "gateway: login: ", want: []string{gateway}},
		"none stays public":          {settings: []string{"EXPOSE=none"}, deployed: "gateway: login: ", want: []string{none}},
		"an incomplete deployment":   {deployed: "gateway: ", want: []string{gateway}},
		"kubectl fails":              {deployed: "fails", message: "kubectl cannot list the functions"},
		"only the gateway is public": {settings: []string{"EXPOSE=gateway"}, want: []string{gateway}},
		"external stores":            {settings: []string{"STORES=external"}, want: []string{gateway, external}},
		"both":                       {settings: []string{"EXPOSE=gateway", "STORES=external"}, want: []string{gateway, external}},
		"development stores remain":  {policy: "stores:store", want: []string{gateway}},
		"external stores remain":     {policy: "stores:", want: []string{gateway, external}},
		"another rule remains":       {policy: "stores:mysql rabbitmq", want: []string{gateway, external}},
		"the stores become external": {settings: []string{"STORES=external"}, policy: "stores:store", want: []string{gateway, external}},
		"development stores again":   {settings: []string{"STORES=development"}, policy: "stores:", want: []string{gateway}},
		"kubectl reads no policy":    {policy: "fails", message: "kubectl cannot read the NetworkPolicy stores"},
		"a Secret is missing":        {settings: []string{"STORES=external"}, missing: "mongodb", message: "lacks these Secrets: mongodb."},
		"no administrator":           {settings: []string{"STORES=external"}, missing: "mongodb-admin", want: []string{gateway, external, pull}, note: "The Secret mongodb-admin does not exist."},
		"a private registry":         {missing: "mysql", want: []string{gateway, pull}},
		"no function is public":      {settings: []string{"EXPOSE=none"}, want: []string{none}},
		"unknown EXPOSE":             {settings: []string{"EXPOSE=login"}, message: "EXPOSE is login. It must be all, gateway or none."},
		"backups":                    {settings: []string{"BACKUP=1"}, want: []string{gateway, backup}},
		"backups since earlier":      {cronJob: "cronjob.batch/backup", want: []string{gateway, backup}},
		"unknown BACKUP":             {settings: []string{"BACKUP=0"}, message: "BACKUP is 0. It must be 1 or empty."},
		"unknown STORES":             {settings: []string{"STORES=none"}, message: "STORES is none. It must be development or external."},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := append(responses{{`*"get ksvc -l app.kubernetes.io/name in (gateway,login) -o "*`, "printf %s '" + tc.deployed + "'; [[ '" + tc.deployed + "' != fails ]]"},
				{`*"get networkpolicy stores "*`, "printf %s '" + tc.policy + "'; [[ '" + tc.policy + "' != fails ]]"},
				text(`*"get cronjob backup "*`, tc.cronJob)}, deployable(serving{domains: "knative.test "}, "amd64,,")...)
			kubectl = append(kubectl, [2]string{`*" get secret ` + cmp.Or(tc.missing, "registry") + `"`, "exit 1"}, [2]string{`*" get secret "*`, ""})
			got := run(t, map[string]responses{"kubectl": kubectl, "ko": {{`*"-f -"*`, "cat >&2; exit 9"}}},
				append([]string{"KO_DOCKER_REPO=registry.example.com/lab"}, tc.settings...), "deploy")
			if applied := got.call("ko resolve", "-f -") >= 0; applied != (tc.message == "") || !strings.Contains(got.output, tc.message+tc.note) {
				t.Fatalf("got applied %t and the output\n%s\nwant the message %q", applied, got.output, tc.message+tc.note)
			}
			if slices.Contains(tc.want, external) {
				tc.want = append(tc.want, available)
			}
			for _, overlay := range []string{gateway, none, external, available, pull, backup} {
				if has, want := strings.Contains(got.output, "  - "+overlay+"\n"), slices.Contains(tc.want, overlay); has != want {
					t.Errorf("the overlay %s is used: %t, want %t, in\n%s", overlay, has, want, got.output)
				}
			}
		})
	}
}

// stopped is a ko that fails, which ends a script when it builds the first image.
var stopped = responses{{anything, `echo "ko uses ${KO_DOCKER_REPO-},${KO_DEFAULTPLATFORMS-},${DOCKER_HOST-},${KIND_CLUSTER_NAME-}" >>"$CALLS"; exit 9`}}

const kourier = "kourier.ingress.networking.knative.dev"

// TestDeployChecksServing runs platform, platform check and deploy in clusters with different settings. platform
// changes a setting if and only if the other two report it.
func TestDeployChecksServing(t *testing.T) {
	const (
		class   = `patch configmap/config-network --namespace knative-serving --type merge --patch {"data":{"ingress-class":"` + kourier + `"}}`
		address = `patch configmap/config-kourier --namespace knative-serving --type merge --patch {"data":{"use-remote-address":"true"}}`
	)
	reasons := map[string]string{class: "not the default ingress", address: "evade the sign-in lockout"}
	for name, tc := range map[string]struct {
		serving serving
		want    []string // the changes
	}{
		"kourier as published":       {serving{installed: "kourier", kourier: ",,"}, []string{class, address}},
		"kourier is the default":     {serving{class: kourier, installed: "kourier", kourier: ",,"}, []string{address}},
		"kourier by the older key":   {serving{oldClass: kourier, installed: "kourier", kourier: ",,"}, []string{address}},
		"kourier, with white space":  {serving{class: " " + kourier + "\n", kourier: ",,"}, []string{address}},
		"kourier, no config-kourier": {serving{class: kourier}, []string{address}},
		"set to false":               {serving{class: kourier, kourier: "false,,"}, []string{address}},
		"both set to false":          {serving{class: kourier, kourier: "false,False,"}, []string{address}},
		"no Go boolean":              {serving{class: kourier, kourier: "yes,,"}, []string{address}},
		"a boolean in mixed case":    {serving{class: kourier, kourier: "tRUE,,"}, []string{address}},
		"a line break":               {serving{class: kourier, kourier: "true\n,,"}, []string{address}},
		"use-remote-address":         {serving{class: kourier, kourier: "true,,"}, nil},
		"use-remote-address by key":  {serving{oldClass: kourier, kourier: "true,false,"}, nil},
		"use-remote-address: T":      {serving{class: kourier, kourier: "T,,"}, nil},
		"use-remote-address: 1":      {serving{class: kourier, kourier: "1,,"}, nil},
		"enable-proxy-protocol":      {serving{class: kourier, kourier: ",true,"}, nil},
		"enable-proxy-protocol only": {serving{class: kourier, kourier: "false,TRUE,"}, nil},
		"only the class is missing":  {serving{installed: "kourier", kourier: "true,,"}, []string{class}},
		"istio":                      {serving{installed: "istio"}, nil},
		"istio and kourier":          {serving{installed: "istio kourier", kourier: ",,"}, nil},
		"traefik by the older key":   {serving{oldClass: "traefik.ingress.networking.knative.dev"}, nil},
		"kourier is not the default": {serving{class: "contour.ingress.networking.knative.dev", installed: "kourier", kourier: ",,"}, nil},
		"the newer key wins":         {serving{class: "contour.ingress.networking.knative.dev", oldClass: kourier, kourier: ",,"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tc.serving.domains = "knative.test "
			kubectl := append(configured(tc.serving), [2]string{`"patch "*`, ""})
			got := run(t, map[string]responses{"kubectl": kubectl}, nil, "platform")
			var changes []string
			for _, call := range got.calls {
				if change, ok := strings.CutPrefix(call, "kubectl patch"); ok {
					changes = append(changes, "patch"+change)
				}
			}
			if got.code != 0 || !slices.Equal(changes, tc.want) {
				t.Errorf("platform: got exit code %d, the changes %q and the output\n%s\nwant the changes %q", got.code, changes, got.output, tc.want)
			}
			check := run(t, map[string]responses{"kubectl": kubectl}, nil, "platform", "check")
			if check.code != 0 || check.call("patch") >= 0 || strings.Count(check.output, "\n") != len(tc.want) {
				t.Errorf("platform check: got exit code %d, calls %q and the output\n%s\nwant no change and %d lines", check.code, check.calls, check.output, len(tc.want))
			}
			deploy := run(t, map[string]responses{"kubectl": deployable(tc.serving, "amd64,,"), "ko": stopped}, []string{"KO_DOCKER_REPO=registry.example.com/lab"}, "deploy")
			if built := deploy.call("ko resolve") >= 0; built != (tc.want == nil) || strings.Contains(deploy.output, "  deploy/platform\n") == built {
				t.Errorf("deploy: got images built %t and the output\n%s\nwant the changes %q", built, deploy.output, tc.want)
			}
			for _, change := range tc.want {
				if !strings.Contains(check.output, reasons[change]) || !strings.Contains(deploy.output, reasons[change]) {
					t.Errorf("platform check prints\n%s\ndeploy prints\n%s\nwant %q in both", check.output, deploy.output, reasons[change])
				}
			}
		})
	}
}

func TestDeployChecksDomain(t *testing.T) {
	for name, tc := range map[string]struct {
		domains, expose string
		refused         bool
	}{
		"a domain":                 {"knative.test ", "all", false},
		"no domain, new":           {"", "", true},
		"no domain":                {"", "all", true},
		"no domain, gateway alone": {"", "gateway", true},
		"no domain, none public":   {"", "none", false},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := deployable(serving{domains: tc.domains}, "amd64,,")
			got := run(t, map[string]responses{"kubectl": kubectl, "ko": stopped}, []string{"KO_DOCKER_REPO=registry.example.com/lab", "EXPOSE=" + tc.expose}, "deploy")
			if built := got.call("ko resolve") >= 0; built == tc.refused {
				t.Errorf("got images built %t and the output\n%s", built, got.output)
			}
			for _, hint := range []string{"`make tunnel`", "  DOMAIN=functions.example.com deploy/platform\n"} {
				if strings.Contains(got.output, hint) != tc.refused {
					t.Errorf("got the output\n%s\nwant %q: %t", got.output, hint, tc.refused)
				}
			}
		})
	}
}

func TestDeployNamesMissingComponents(t *testing.T) {
	for missing, want := range map[string]string{
		"services.serving.knative.dev":           "deploy/platform serving kourier\n",
		"pingsources.sources.knative.dev":        "deploy/platform eventing\n",
		"rabbitmqsources.sources.knative.dev":    "deploy/platform rabbitmq\n",
		"queues.rabbitmq.com":                    "deploy/platform rabbitmq\n",
		"sources.knative.dev":                    "deploy/platform eventing rabbitmq\n",
		"":                                       "deploy/platform serving kourier eventing rabbitmq\n",
		"a kind that the scripts do not look up": "",
	} {
		kubectl := append(responses{{`"get crd "*"` + missing + `"*`, "exit 1"}}, deployable(serving{domains: "knative.test "}, "amd64,,")...)
		got := run(t, map[string]responses{"kubectl": kubectl, "ko": stopped}, []string{"KO_DOCKER_REPO=registry.example.com/lab"}, "deploy")
		if built := got.call("ko resolve") >= 0; built != (want == "") || !strings.Contains(got.output, want) {
			t.Errorf("without %q: got images built %t and the output\n%s\nwant %q", missing, built, got.output, want)
		}
	}
}

// The selectors of the objects that deploy applies before and after the Job setup.
const (
	early = "apply --selector app.kubernetes.io/component notin (function,source) -f -"
	late  = "apply --selector app.kubernetes.io/component in (function,source) -f -"
)

// TestDeployOrder checks that deploy applies the functions and the event sources after setup has completed, and does
// not apply them if an earlier step fails.
func TestDeployOrder(t *testing.T) {
	const source = "rabbitmqsource/strongroom-files"
	for name, tc := range map[string]struct {
		secrets, setup string // the conditions of the Jobs
		exists         bool   // the source
		dryRun         string // the error of a dry run that applies the source
		deleted        bool   // the source
		applied        bool   // the functions and the sources
		message        string // of a failure
	}{
		"a new cluster":       {secrets: "Complete", setup: "Complete", applied: true},
		"an unchanged source": {secrets: "Complete", setup: "SuccessCriteriaMet Complete", exists: true, applied: true},
		"a changed source":    {secrets: "Complete", setup: "Complete", exists: true, dryRun: "spec: field is Immutable", deleted: true, applied: true},
		"an invalid source":   {secrets: "Complete", setup: "Complete", exists: true, dryRun: "unknown field", message: "unknown field"},
		"secrets fails":       {secrets: "Failed", setup: "Complete", exists: true, message: "The Job secrets failed"},
		"setup fails":         {secrets: "Complete", setup: "Failed", exists: true, message: "The Job setup failed"},
		"setup does not end":  {secrets: "Complete", exists: true, message: "The Job setup failed or did not complete in time."},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := append(deployable(serving{domains: "knative.test "}, "amd64,,"),
				[2]string{`*" get secret "*`, ""}, [2]string{`"` + early + `"`, "cat >/dev/null"}, [2]string{`"` + late + `"`, "cat >/dev/null; exit 9"},
				text(`*" get job secrets -o "*`, tc.secrets), text(`*" get job setup -o "*`, tc.setup))
			if tc.exists {
				dryRun := "cat >/dev/null; echo '" + tc.dryRun + "' >&2; [[ -z '" + tc.dryRun + "' ]]"
				kubectl = append(kubectl, [2]string{`*" get ` + source + `"`, ""}, [2]string{`*" delete ` + source + ` "*`, ""},
					[2]string{`*" apply --selector app.kubernetes.io/name=strongroom-files --dry-run=server -f -"`, dryRun})
			}
			got := run(t, map[string]responses{"kubectl": kubectl, "ko": {{`"resolve "*`, "cat"}}},
				[]string{"KO_DOCKER_REPO=registry.example.com/lab", "STORES=external", "WAIT=0"}, "deploy")
			steps := []int{got.call("delete job secrets setup"), got.call(early), got.call("get job secrets -o")}
			if tc.secrets == "Complete" {
				steps = append(steps, got.call("get job setup -o"))
			}
			if tc.deleted {
				steps = append(steps, got.call("delete "+source))
			}
			if tc.applied {
				steps = append(steps, got.call(late))
			}
			if steps[0] < 0 || !slices.IsSorted(steps) {
				t.Errorf("got the steps in the calls %v, want them in this order, of\n%s", steps, strings.Join(got.calls, "\n"))
			}
			if applied := got.call(late) >= 0; applied != tc.applied {
				t.Errorf("got functions applied %t, want %t, in the calls\n%q", applied, tc.applied, got.calls)
			}
			if deleted := got.call("delete "+source) >= 0; deleted != tc.deleted {
				t.Errorf("got source deleted %t, want %t, in the calls\n%q", deleted, tc.deleted, got.calls)
			}
			if !strings.Contains(got.output, tc.message) {
				t.Errorf("got the output\n%s\nwant %q", got.output, tc.message)
			}
		})
	}
}

// TestImages checks where ko stores the images, and for which platform it builds them.
func TestImages(t *testing.T) {
	const engine = "unix:///home/me/docker.sock"
	docker := responses{text(`"context inspect --format {{.Endpoints.docker.Host}}"`, engine)}
	for name, tc := range map[string]struct {
		settings []string
		node     string
		want     string // the repository, platform, Docker engine and kind cluster that ko uses
	}{
		"minikube on arm64":          {nil, "arm64,strongroom,", "ko.local,linux/arm64," + engine + ","},
		"minikube on amd64":          {nil, "amd64,other,", "ko.local,linux/amd64," + engine + ","},
		"kind on arm64":              {nil, "arm64,,kind://docker/strongroom/strongroom-control-plane", "kind.local,linux/arm64,,strongroom"},
		"kind with podman":           {nil, "amd64,,kind://podman/other/other-control-plane", "kind.local,linux/amd64,,other"},
		"a name of the kind cluster": {[]string{"KIND_CLUSTER_NAME=mine"}, "amd64,,kind://docker/other/node", "kind.local,linux/amd64,,mine"},
		"kind.local":                 {[]string{"KO_DOCKER_REPO=kind.local"}, "amd64,,kind://docker/other/node", "kind.local,linux/amd64,,other"},
		"the local engine":           {[]string{"KO_DOCKER_REPO=ko.local"}, "arm64,,", "ko.local,linux/arm64," + engine + ","},
		"a name in the local engine": {[]string{"KO_DOCKER_REPO=ko.local/me"}, "arm64,,", "ko.local/me,linux/arm64," + engine + ","},
		"another engine":             {[]string{"DOCKER_HOST=tcp://127.0.0.1:2376"}, "amd64,strongroom,", "ko.local,linux/amd64,tcp://127.0.0.1:2376,"},
		"a registry":                 {[]string{"KO_DOCKER_REPO=registry.example.com/me"}, "arm64,strongroom,", "registry.example.com/me,,,"},
		"no registry":                {nil, "arm64,,aws:///zone/instance", ""},
	} {
		t.Run(name, func(t *testing.T) {
			programs := map[string]responses{"kubectl": deployable(serving{domains: "knative.test "}, tc.node), "ko": stopped, "docker": docker, "minikube": nil}
			got := run(t, programs, tc.settings, "deploy")
			if tc.want == "" {
				if got.code != 1 || got.call("ko ") >= 0 || !strings.Contains(got.output, "KO_DOCKER_REPO is not set.") {
					t.Errorf("got exit code %d, calls %q and the output\n%s\nwant 1 and no build", got.code, got.calls, got.output)
				}
			} else if !slices.Contains(got.calls, "ko uses "+tc.want) {
				t.Errorf("got calls %q and the output\n%s\nwant %q", got.calls, got.output, tc.want)
			}
		})
	}
}

// TestScriptsUseDeployedImages checks that job and rotate-keys run the image of the deployed Job, and need no ko.
func TestScriptsUseDeployedImages(t *testing.T) {
	const image = "registry.example.com/you/program@sha256:01"
	for script, tc := range map[string]struct {
		job    string // the deployed Job
		create string // the call that creates the new Job
	}{
		"job redrive":        {"setup", "create -f -"},
		"rotate-keys status": {"secrets", "apply -f -"},
	} {
		for name, deployed := range map[string]bool{"deployed": true, "not deployed": false} {
			t.Run(script+"/"+name, func(t *testing.T) {
				shown := ""
				if deployed {
					shown = image
				}
				name, args, _ := strings.Cut(script, " ")
				got := run(t, map[string]responses{"kubectl": {
					text(`*" get job `+tc.job+` --ignore-not-found -o "*`, shown),
					{`"patch --local -f - "*`, "cat"},
					{`*" get job rotate-keys --ignore-not-found -o name"`, ""},
					{`*" ` + tc.create + `"`, `cat >>"$CALLS"; exit 9`},
					{`*" delete "*`, ""},
				}, "ko": nil}, nil, name, strings.Fields(args)...)
				created := slices.ContainsFunc(got.calls, func(line string) bool { return strings.HasSuffix(line, image) })
				if created != deployed || got.call("ko ") >= 0 || strings.Contains(got.output, "has no Job "+tc.job+": deploy Strongroom first.") == deployed {
					t.Errorf("got a Job with the image: %t, the calls %q and the output\n%s", created, got.calls, got.output)
				}
			})
		}
	}
}

// TestInterruptedJob checks that an interrupted job deletes its Job, except for restore, whose Job continues.
func TestInterruptedJob(t *testing.T) {
	for command, continues := range map[string]bool{"redrive": false, "restore 20261127T010203Z": true} {
		t.Run(command, func(t *testing.T) {
			got := run(t, map[string]responses{"kubectl": {
				text(`*" get job setup --ignore-not-found -o json"`, "{}"),
				{`"patch --local -f - "*`, "cat"},
				{`*" get pvc backup"`, ""},
				{`*" create -f -"`, "cat >/dev/null"},
				{`*" get job setup-"*`, ""},
				{`*" delete job setup-"*`, ""},
			}, "sleep": {{`*`, `kill -INT "$PPID"`}}}, nil, "job", strings.Fields(command)...)
			deleted := slices.ContainsFunc(got.calls, func(line string) bool { return strings.Contains(line, " delete job setup-") })
			hint := strings.Contains(got.output, "kubectl logs --namespace strongroom --follow job/setup-")
			if got.code != 130 || deleted == continues || hint != continues {
				t.Errorf("got exit code %d, the calls %q and the output\n%s\nwant 130, and that the Job continues: %t", got.code, got.calls, got.output, continues)
			}
		})
	}
}

// TestLoad checks that the scripts load into minikube only the images that it does not have, and that they notice if
// minikube loads none. `minikube image load` exits with 0 in this case.
func TestLoad(t *testing.T) {
	for name, tc := range map[string]struct {
		present string
		loads   string // the images that minikube has after loading
		want    string // the images that are loaded
		applied bool
	}{
		"no image":                {"registry.k8s.io/pause:3.10\n", "ko.local/a:1\nko.local/b:2\n", "ko.local/a:1 ko.local/b:2", true},
		"no image at all":         {"", "ko.local/a:1\nko.local/b:2\n", "ko.local/a:1 ko.local/b:2", true},
		"an image has changed":    {"ko.local/a:1\nko.local/b:1\n", "ko.local/a:1\nko.local/b:1\nko.local/b:2\n", "ko.local/b:2", true},
		"all images":              {"ko.local/a:1\nko.local/b:2\n", "", "", true},
		"minikube loads no image": {"ko.local/a:1\n", "ko.local/a:1\n", "ko.local/b:2", false},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := append(deployable(serving{domains: "knative.test "}, "amd64,strongroom,"), [2]string{`"apply --selector "*" -f -"`, "cat >/dev/null; exit 9"})
			got := run(t, map[string]responses{
				"kubectl": kubectl,
				"ko":      {{`"resolve "*`, `printf 'image: ko.local/%s\n' b:2 a:1 a:1; echo 'image: mysql:8.4'`}},
				"docker":  {{`"context "*`, ""}, {`"save "*`, `printf %s "${*:2}"`}},
				"minikube": {
					{`"--profile strongroom image ls"`, `if [[ -e $HOME/loaded ]]; then printf '` + tc.loads + `'; else printf '` + tc.present + `'; fi`},
					{`"--profile strongroom image load "*`, `echo "loads $(cat "$5")" >>"$CALLS"; touch "$HOME/loaded"`},
				},
			}, nil, "deploy")
			if loaded := got.call("loads "+tc.want) >= 0; loaded != (tc.want != "") {
				t.Errorf("got calls %q, want the images %q", got.calls, tc.want)
			}
			if applied := got.call("kubectl apply --selector") >= 0; applied != tc.applied || strings.Contains(got.output, "did not load these images:\nko.local/b:2") == applied {
				t.Errorf("got applied %t, calls %q and the output\n%s", applied, got.calls, got.output)
			}
		})
	}
}
