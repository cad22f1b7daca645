package deploy_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestClusterChecksVersion(t *testing.T) {
	for name, tc := range map[string]struct {
		platform, version string
		message           string // of a refusal
	}{
		"the oldest minikube":          {"minikube", "v1.36.0", ""},
		"a beta version":               {"minikube", "v1.40.0-beta.0", ""},
		"the next major":               {"minikube", "v2.0.0", ""},
		"a minikube that is too old":   {"minikube", "v1.35.0", "minikube is v1.35.0, but `make cluster` requires minikube v1.36.0 or newer"},
		"a much older minikube":        {"minikube", "v1.9.2", "minikube is v1.9.2"},
		"not a version":                {"minikube", "minikube", "minikube is minikube"},
		"the oldest kind":              {"kind", "0.30.0", ""},
		"an alpha version":             {"kind", "0.34.0-alpha+e6cbd8f1a5a1d3", ""},
		"a kind that is too old":       {"kind", "0.29.0", "kind is v0.29.0, but `make cluster` requires kind v0.30.0 or newer"},
		"a kind without a version":     {"kind", "", "kind is v,"},
		"neither minikube nor kind":    {"k3d", "v5.0.0", "PLATFORM is k3d. It must be minikube or kind."},
		"minikube in a different case": {"Minikube", "v1.36.0", "PLATFORM is Minikube."},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, map[string]responses{
				"minikube": {text(`"version --short"`, tc.version), {`"start "*`, ""}},
				"kind":     {text(`"version --quiet"`, tc.version), {`"get clusters"`, ""}, {`"create cluster "*`, ""}},
				"kubectl":  {{anything, ""}},
			}, []string{"PLATFORM=" + tc.platform}, "cluster")
			created := got.call("minikube start") >= 0 || got.call("kind create cluster") >= 0
			if created != (tc.message == "") || (got.code == 0) != created || !strings.Contains(got.output, tc.message) {
				t.Errorf("got exit code %d, calls %q and the output\n%s\nwant the message %q", got.code, got.calls, got.output, tc.message)
			}
		})
	}
}

func TestClusterSettings(t *testing.T) {
	for name, tc := range map[string]struct {
		settings []string
		want     string // a call, or a part of it
	}{
		"minikube by default": {nil, "minikube start --profile strongroom"},
		"the defaults":        {nil, "--cpus 4 --memory 6g"},
		"less":                {[]string{"CPUS=2", "MEMORY=5g"}, "--cpus 2 --memory 5g"},
		"a driver":            {[]string{"DRIVER=kvm2"}, "--memory 6g --driver kvm2"},
		"a name":              {[]string{"PROFILE=lab"}, "minikube start --profile lab"},
		"the context":         {[]string{"PROFILE=lab"}, "kubectl --context lab apply"},
		"a kind cluster":      {[]string{"PLATFORM=kind", "PROFILE=lab"}, "kind create cluster --name lab"},
		"the context of kind": {[]string{"PLATFORM=kind", "PROFILE=lab"}, "kubectl --context kind-lab apply"},
		"an existing cluster": {[]string{"PLATFORM=kind", "PROFILE=old"}, "kind export kubeconfig --name old"},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, map[string]responses{
				"minikube": {text(`"version --short"`, "v1.38.1"), {`"start "*`, ""}},
				"kind":     {text(`"version --quiet"`, "0.31.0"), {`"get clusters"`, "printf 'a\nold\nlab2\n'"}, {`"create "*`, ""}, {`"export "*`, ""}},
				"kubectl":  {{anything, ""}},
			}, tc.settings, "cluster")
			if got.code != 0 || got.call(tc.want) < 0 {
				t.Errorf("got exit code %d, calls %q and the output\n%s\nwant a call with %q", got.code, got.calls, got.output, tc.want)
			}
		})
	}
	t.Run("minikube fails", func(t *testing.T) {
		got := run(t, map[string]responses{"minikube": {text(`"version --short"`, "v1.38.1")}, "kubectl": nil}, nil, "cluster")
		if got.code != 1 || got.call("kubectl") >= 0 || !strings.Contains(got.output, "CPUS=2 MEMORY=5g make cluster") {
			t.Errorf("got exit code %d, calls %q and the output\n%s\nwant 1 and the settings", got.code, got.calls, got.output)
		}
	})
}

func TestPlatformInstalls(t *testing.T) {
	const apply = "kubectl apply --server-side --force-conflicts -f https://"
	fails := func(times int) responses { // fails the first calls of kubectl apply
		return responses{{`"apply "*`, fmt.Sprintf(`(($(grep -c "kubectl apply" "$CALLS") > %d))`, times)}, {anything, ""}}
	}
	for name, tc := range map[string]struct {
		args    []string
		kubectl responses
		code    int
		applied int // the number of calls of kubectl apply
		pauses  int
	}{
		"no component":        {nil, responses{{anything, ""}}, 0, 0, 0},
		"one component":       {[]string{"eventing"}, responses{{anything, ""}}, 0, 2, 0},
		"two components":      {[]string{"kourier", "eventing"}, responses{{anything, ""}}, 0, 3, 0},
		"without an operator": {[]string{"rabbitmq"}, responses{{`"get crd "*`, "exit 1"}, {anything, ""}}, 0, 4, 0},
		"with an operator":    {[]string{"rabbitmq"}, responses{{anything, ""}}, 0, 1, 0},
		"two failures":        {[]string{"kourier"}, fails(2), 0, 3, 2},
		"five failures":       {[]string{"kourier"}, fails(5), 0, 6, 5},
		"six failures":        {[]string{"kourier"}, fails(6), 1, 6, 5},
		"an unknown one":      {[]string{"istio"}, responses{{anything, ""}}, 1, 0, 0},
		"check with another":  {[]string{"check", "eventing"}, responses{{anything, ""}}, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, map[string]responses{"kubectl": tc.kubectl, "sleep": {{`10`, ""}}}, nil, "platform", tc.args...)
			count := func(prefix string) (n int) {
				for _, call := range got.calls {
					if strings.HasPrefix(call, prefix) {
						n++
					}
				}
				return n
			}
			if got.code != tc.code || count(apply) != tc.applied || count("sleep") != tc.pauses {
				t.Errorf("got exit code %d, calls %q and the output\n%s\nwant %d, %d manifests and %d pauses",
					got.code, got.calls, got.output, tc.code, tc.applied, tc.pauses)
			}
			if tc.code != 0 && (got.call("wait") >= 0 || got.call("get configmap") >= 0) {
				t.Errorf("continues after a failure: %q", got.calls)
			}
		})
	}
}

func TestPlatformSetsDomain(t *testing.T) {
	for name, tc := range map[string]struct {
		domains string
		domain  string
		want    string // the patch
	}{
		"no domain":                        {"", "10.96.7.8.sslip.io", `{"data":{"10.96.7.8.sslip.io":""}}`},
		"an earlier domain":                {"127.0.0.1.sslip.io ", "10.96.7.8.sslip.io", `{"data":{"127.0.0.1.sslip.io":null,"10.96.7.8.sslip.io":""}}`},
		"two earlier domains":              {"1.2.3.4.sslip.io 127.0.0.1.sslip.io ", "10.96.7.8.sslip.io", `{"data":{"1.2.3.4.sslip.io":null,"127.0.0.1.sslip.io":null,"10.96.7.8.sslip.io":""}}`},
		"the same domain":                  {"10.96.7.8.sslip.io ", "10.96.7.8.sslip.io", `{"data":{"10.96.7.8.sslip.io":""}}`},
		"a domain of the user":             {"files.example.com ", "10.96.7.8.sslip.io", `{"data":{"10.96.7.8.sslip.io":""}}`},
		"a domain that Knative would keep": {"alpha.example.com ", "zeta.example.com", ""},
		"a domain after the new domain":    {"zeta.example.com ", "alpha.example.com", `{"data":{"alpha.example.com":""}}`},
		"not a domain":                     {"", `a":"b`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			kubectl := append(configured(serving{domains: tc.domains}), [2]string{`"patch "*`, ""})
			got := run(t, map[string]responses{"kubectl": kubectl}, []string{"DOMAIN=" + tc.domain}, "platform")
			patch := got.call("patch")
			if tc.want == "" {
				if got.code != 1 || patch >= 0 {
					t.Errorf("got exit code %d and calls %q, want 1 and no patch", got.code, got.calls)
				}
			} else if want := "kubectl patch configmap/config-domain --namespace knative-serving --type merge --patch " + tc.want; patch < 0 || got.calls[patch] != want {
				t.Errorf("got exit code %d, calls %q and the output\n%s\nwant %s", got.code, got.calls, got.output, want)
			}
		})
	}
}

func TestTunnel(t *testing.T) {
	t.Run("Kourier gets an address later", func(t *testing.T) {
		got := run(t, map[string]responses{
			// Ends as soon as the domain is set.
			"minikube": {{`"--profile lab tunnel"`, `until grep -q "kubectl.*patch" "$CALLS"; do sleep 0.05; done`}},
			"kubectl": {
				{`*"get service/kourier"*jsonpath*`, `[[ $(grep -c "service/kourier.*jsonpath" "$CALLS") == 1 ]] || printf 10.96.7.8`},
				{anything, ""},
			},
		}, []string{"PROFILE=lab"}, "tunnel")
		if got.code != 0 || got.call(`kubectl --context lab patch configmap/config-domain`, `{"data":{"10.96.7.8.sslip.io":""}}`) < 0 {
			t.Errorf("got exit code %d, calls %q and the output\n%s\nwant the domain 10.96.7.8.sslip.io", got.code, got.calls, got.output)
		}
		if !strings.Contains(got.output, ".10.96.7.8.sslip.io") {
			t.Errorf("the output does not name the domain:\n%s", got.output)
		}
	})
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

// words are the words in @ that the sequences of calls below contain. They can contain other words: the versions in
// deploy/versions, and the values of a laptop.
var words = map[string]string{
	"apply":     "@kubectl@ apply --server-side --force-conflicts -f https://",
	"available": "--for=condition=Available deployment --all --timeout=10m",
	"topology":  "raw.githubusercontent.com/rabbitmq/messaging-topology-operator/@RABBITMQ_TOPOLOGY_OPERATOR@/config/crd/bases/rabbitmq.com_",
	"get":       "get configmap",
	"of":        "--namespace knative-serving --ignore-not-found -o",
	"patch":     "@kubectl@ patch configmap",
	"with":      "--namespace knative-serving --type merge --patch",
	"appends":   "jsonpath={.data.use-remote-address},{.data.enable-proxy-protocol},",
	"keys":      "go-template={{range $key, $value := .data}}{{if not $value}}{{$key}} {{end}}{{end}}",
}

// The sequences of calls for a new cluster.
const (
	startsMinikube = `
minikube version --short
minikube start --profile strongroom --kubernetes-version @KUBERNETES@ --container-runtime containerd --cpus 4 --memory 6g`
	startsKind = `
kind version --quiet
kind get clusters
kind create cluster --name strongroom --image @KIND_NODE@ --wait 5m --config -
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
    extraPortMappings:
      - {listenAddress: 127.0.0.1, hostPort: 80, containerPort: 31080}`
	installs = `
@apply@github.com/knative/serving/releases/download/@SERVING@/serving-crds.yaml
@apply@github.com/knative/serving/releases/download/@SERVING@/serving-core.yaml
@kubectl@ wait --namespace knative-serving @available@
@apply@github.com/knative-extensions/net-kourier/releases/download/@KOURIER@/kourier.yaml
@kubectl@ wait --namespace knative-serving @available@
@kubectl@ wait --namespace kourier-system @available@
@apply@github.com/knative/eventing/releases/download/@EVENTING@/eventing-crds.yaml
@apply@github.com/knative/eventing/releases/download/@EVENTING@/eventing-core.yaml
@kubectl@ wait --namespace knative-eventing @available@
@kubectl@ get crd bindings.rabbitmq.com
@apply@@topology@bindings.yaml
@kubectl@ get crd exchanges.rabbitmq.com
@apply@@topology@exchanges.yaml
@kubectl@ get crd queues.rabbitmq.com
@apply@@topology@queues.yaml
@apply@github.com/knative-extensions/eventing-rabbitmq/releases/download/@RABBITMQ_SOURCE@/rabbitmq-source.yaml
@kubectl@ wait --namespace knative-sources @available@
@kubectl@ @get@ config-network @of@ jsonpath={.data.ingress-class}
@kubectl@ @get@ config-network @of@ jsonpath={.data.ingress\.class}
@kubectl@ @get@ config-kourier @of@ name
@kubectl@ @get@ config-istio @of@ name
@patch@/config-network @with@ {"data":{"ingress-class":"kourier.ingress.networking.knative.dev"}}
@kubectl@ @get@ config-kourier @of@ @appends@
@patch@/config-kourier @with@ {"data":{"use-remote-address":"true"}}`
	opensKind = `
@kubectl@ @get@ config-domain @of@ @keys@
@patch@/config-domain @with@ {"data":{"127.0.0.1.sslip.io":""}}
@kubectl@ patch service/kourier --namespace kourier-system --patch {"spec":{"ports":[{"port":80,"nodePort":31080}]}}`
	// The tunnel starts at the same time.
	opensMinikube = `
@kubectl@ --request-timeout=10s get service/kourier --namespace kourier-system
@kubectl@ --request-timeout=10s get service/kourier --namespace kourier-system -o jsonpath={.status.loadBalancer.ingress[0].ip}
@kubectl@ @get@ config-network @of@ jsonpath={.data.ingress-class}
@kubectl@ @get@ config-kourier @of@ @appends@
@kubectl@ @get@ config-domain @of@ @keys@
@patch@/config-domain @with@ {"data":{"@address@.sslip.io":""}}`
	checks = `
kubectl config current-context
kubectl get --raw /readyz --request-timeout=10s
kubectl get crd services.serving.knative.dev
kubectl get crd pingsources.sources.knative.dev
kubectl get crd rabbitmqsources.sources.knative.dev bindings.rabbitmq.com exchanges.rabbitmq.com queues.rabbitmq.com
kubectl get nodes -o jsonpath={range .items[*]}{.status.nodeInfo.architecture},{.metadata.labels.minikube\.k8s\.io/name},{.spec.providerID}{"\n"}{end}`
	findsEngine = `
docker context inspect --format {{.Endpoints.docker.Host}}`
	deploys = `
kubectl --namespace strongroom get ksvc -l app.kubernetes.io/name in (gateway,login) -o jsonpath={range .items[*]}{.metadata.name}:{.metadata.labels.networking\.knative\.dev/visibility} {end}
kubectl --namespace strongroom get networkpolicy stores --ignore-not-found -o jsonpath={.metadata.name}:{.spec.egress[*].to[*].podSelector.matchLabels.app\.kubernetes\.io/component}
kubectl --context lab @get@ config-network @of@ jsonpath={.data.ingress-class}
kubectl --context lab @get@ config-kourier @of@ @appends@
kubectl @get@ config-domain @of@ go-template={{range $key, $value := .data}}{{if ne $key "_example"}}{{$key}} {{end}}{{end}}
kubectl --namespace strongroom get statefulset/rabbitmq secret/rabbitmq-definitions --ignore-not-found -o name
kubectl --namespace strongroom delete job secrets setup --ignore-not-found --timeout=2m
kubectl --namespace strongroom get cronjob backup --ignore-not-found -o name
kubectl --namespace strongroom get secret registry
kubectl kustomize .strongroom/deploy
ko resolve --base-import-paths -f -
ko uses @repository@,linux/@architecture@,@engine@,@kind@`
	loads = `
minikube --profile strongroom image ls
docker save ko.local/gateway:1 ko.local/setup:2
minikube --profile strongroom image load images.tar
minikube --profile strongroom image ls`
	applies = `
kubectl apply --selector app.kubernetes.io/component notin (function,source) -f -
image: @repository@/gateway:1
image: @repository@/setup:2`
)

// sequence returns the calls in texts, with the words replaced by values.
func sequence(values map[string]string, texts ...string) []string {
	var pairs []string
	for _, values := range []map[string]string{words, values} {
		for word, value := range values {
			pairs = append(pairs, "@"+word+"@", value)
		}
	}
	replacer := strings.NewReplacer(pairs...)
	text := strings.Join(texts, "")
	for range 3 { // a word can contain a word that contains a word
		text = replacer.Replace(text)
	}
	return strings.Split(strings.TrimSpace(text), "\n")
}

// versions returns the variables in deploy/versions.
func versions(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile("versions")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, match := range regexp.MustCompile(`(?m)^(\w+)=(.+)$`).FindAllStringSubmatch(string(content), -1) {
		found[match[1]] = os.Expand(match[2], func(name string) string { return found[name] })
	}
	return found
}

// TestLaptops runs the scripts behind `make cluster`, `make tunnel` and `make deploy` with the programs of different
// laptops, and compares all calls until deploy has applied the manifests. Then it checks that deploy prints the URLs.
func TestLaptops(t *testing.T) {
	systems := map[string]struct{ uname, engine, address string }{
		"Linux": {"Linux", "unix:///var/run/docker.sock", "10.109.246.69"},
		"macOS": {"Darwin", "unix:///Users/me/.docker/run/docker.sock", "127.0.0.1"},
	}
	for system, programs := range systems {
		for _, architecture := range []string{"amd64", "arm64"} {
			for _, tool := range []string{
				"minikube v1.36.0", "minikube v1.37.0", "minikube v1.38.0", "minikube v1.38.1", "minikube v1.39.0", "minikube v1.40.0",
				"kind 0.30.0", "kind 0.31.0", "kind 0.33.0",
			} {
				t.Run(system+" "+architecture+" "+tool, func(t *testing.T) {
					t.Parallel()
					platform, version, _ := strings.Cut(tool, " ")
					values := versions(t)
					values["architecture"] = architecture
					var node string
					if platform == "minikube" {
						values["kubectl"], values["address"] = "kubectl --context strongroom", programs.address
						values["repository"], values["engine"], values["kind"] = "ko.local", programs.engine, ""
						node = architecture + ",strongroom,"
					} else {
						values["kubectl"], values["address"] = "kubectl --context kind-strongroom", "127.0.0.1"
						values["repository"], values["engine"], values["kind"] = "kind.local", "", "strongroom"
						node = architecture + ",,kind://docker/strongroom/strongroom-control-plane"
					}
					domain := values["address"] + ".sslip.io"
					laptop := map[string]responses{
						// A script that depends on the system calls uname.
						"uname": {{`"-m"`, "echo " + architecture}, {anything, "echo " + programs.uname}},
						"minikube": {
							{`"version --short"`, "echo " + version},
							{`"start "*`, ""},
							{`"--profile strongroom tunnel"`, `until grep -q "patch configmap/config-domain" "$CALLS"; do sleep 0.05; done`},
							{`"--profile strongroom image ls"`, `cat "$HOME/images" 2>/dev/null || true`},
							{`"--profile strongroom image load "*`, `cat "$5" >"$HOME/images"`},
						},
						"kind": {
							{`"version --quiet"`, "echo " + version},
							{`"get clusters"`, "echo 'No kind clusters found.' >&2"},
							{`"create cluster "*`, `cat >>"$CALLS"`},
						},
						"docker": {text(`"context inspect "*`, programs.engine), {`"save "*`, `printf '%s\n' "${@:2}"`}},
						"ko": {{`"resolve "*`, `cat >/dev/null
							echo "ko uses $KO_DOCKER_REPO,$KO_DEFAULTPLATFORMS,${DOCKER_HOST-},${KIND_CLUSTER_NAME-}" >>"$CALLS"
							printf "image: $KO_DOCKER_REPO/%s\n" gateway:1 setup:2`}},
					}
					check := func(script string, want []string) {
						t.Helper()
						got := run(t, laptop, []string{"PLATFORM=" + platform}, script)
						calls := slices.DeleteFunc(got.calls, func(call string) bool { return call == "minikube --profile strongroom tunnel" })
						for i, call := range calls {
							calls[i] = regexp.MustCompile(`\S+/images\.tar`).ReplaceAllString(call, "images.tar")
						}
						if script == "deploy" {
							calls = calls[:min(len(calls), len(want))]
						}
						if got.code != 0 || !slices.Equal(calls, want) {
							t.Errorf("%s: got exit code %d, the output\n%s\nand the calls\n%s\nwant the calls\n%s",
								script, got.code, got.output, strings.Join(calls, "\n"), strings.Join(want, "\n"))
						}
						if url := "http://gateway.strongroom." + domain; script == "deploy" && !strings.Contains(got.output, url) {
							t.Errorf("deploy does not print %s:\n%s", url, got.output)
						}
					}

					settings := serving{installed: "kourier", kourier: ",,", domains: ""}
					laptop["kubectl"] = slices.Concat(responses{{`*" get crd "*`, "exit 1"}}, configured(settings), responses{{anything, ""}})
					if platform == "minikube" {
						check("cluster", sequence(values, startsMinikube, installs))
					} else {
						check("cluster", sequence(values, startsKind, installs, opensKind))
					}
					settings = serving{class: kourier, installed: "kourier", kourier: "true,,", domains: domain + " "}
					laptop["kubectl"] = slices.Concat(responses{text(`*"get service/kourier"*jsonpath*`, programs.address)}, configured(settings), responses{{anything, ""}})
					if platform == "minikube" {
						check("tunnel", sequence(values, opensMinikube))
					}
					laptop["kubectl"] = slices.Concat(deployable(settings, node), responses{
						{`*" get rabbitmqsource/strongroom-files"`, "exit 1"},
						{`"apply --selector "*`, `cat >>"$CALLS"`},
						text(`*" get job "*" -o "*`, "Complete"),
						text(`*" get statefulset "*"{.status.availableReplicas}"`, "1"),
						{`*" get ksvc -o custom-columns="*`, "echo 'gateway   http://gateway.strongroom." + domain + "'"},
						{anything, ""},
					})
					if platform == "minikube" {
						check("deploy", sequence(values, checks, findsEngine, deploys, loads, applies))
					} else {
						check("deploy", sequence(values, checks, deploys, applies))
					}
				})
			}
		}
	}
}
