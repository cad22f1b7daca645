package knative_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// endpoint is a pod, or an address outside the cluster. Its namespace has the label kubernetes.io/metadata.name and no
// other label, except in the namespaces that labeled lists.
type endpoint struct {
	namespace string // empty for an address outside the cluster
	labels    map[string]string
}

// labeled contains further labels of namespaces.
var labeled = map[string]map[string]string{
	"observability": {"strongroom.dev/monitoring": "true"},
	"nginx":         {"strongroom.dev/ingress": "true"},
}

// port is a TCP port.
type port = int32

const dns port = 53

// ports are the ports at which the pods of Strongroom listen: those of the stores, of a function (8080 and 9464) and of
// queue-proxy.
var ports = map[string][]port{
	"mysql":    {3306, 33060},
	"mongodb":  {27017},
	"rabbitmq": {5672, 15672, 15692, 25672},
	"function": {8012, 8013, 8022, 8080, 8112, 9090, 9091, 9464},
}

// outside are the destinations outside the namespace, with the ports that the test tries.
var outside = map[string]struct {
	endpoint
	ports []port
}{
	"an external address": {endpoint{}, []port{22, 53, 80, 443, 3306, 4317, 4318, 5432, 5671, 5672, 6443, 8443, 16443, 27017}},
	"kourier-system":      {endpoint{namespace: "kourier-system"}, []port{8081}},
	"nginx":               {endpoint{namespace: "nginx"}, []port{8081}},
	"knative-serving":     {endpoint{namespace: "knative-serving"}, []port{8012}},
	"default":             {endpoint{namespace: "default"}, []port{8081}},
}

// opens are the connections that each pod of Strongroom can open, except DNS.
var opens = map[string][]string{
	"accounts":    {"mysql:3306", toCollector, toIngress},
	"files":       {"mongodb:27017", toCollector, toIngress},
	"gateway":     {toCollector, toIngress},
	"login":       {"mysql:3306", toCollector, toIngress},
	"record":      {"mongodb:27017", toCollector, toIngress},
	"sweep":       {"mongodb:27017", "rabbitmq:5672", toCollector, toIngress},
	"upload":      {"mongodb:27017", "rabbitmq:5672", toCollector, toIngress},
	"validate":    {"mysql:3306", toCollector, toIngress}, // if an operator adds MYSQL_DSN_FILE
	"secrets":     {toAPI},
	"rotate-keys": {toAPI},
	"setup":       {"mysql:3306", "mongodb:27017", "rabbitmq:5672"},
	"backup":      {"mysql:3306", "mongodb:27017"},
	"source":      {"rabbitmq:5672", toIngress},
	"mysql":       nil,
	"mongodb":     nil,
	"rabbitmq":    nil,
}

// Each of these names stands for several destinations.
const (
	toCollector = "the collector of traces"
	toIngress   = "the ingress"
	toAPI       = "the Kubernetes API"
)

var groups = map[string][]string{
	toCollector: {"an external address:4317", "an external address:4318"},
	toIngress:   {"kourier-system:8081", "nginx:8081", "knative-serving:8012"},
	toAPI:       {"an external address:443", "an external address:6443", "an external address:8443", "an external address:16443"},
}

// accepts are the ports of Strongroom's pods that pods of other namespaces can reach.
var accepts = map[string][]string{
	"knative-serving":      {"function:8012", "function:8112", "function:9090"},
	"kourier-system":       {"function:8012", "function:8112"},
	"istio-system":         {"function:8012", "function:8112"},
	"contour-external":     {"function:8012", "function:8112"},
	"contour-internal":     {"function:8012", "function:8112"},
	"envoy-gateway-system": {"function:8012", "function:8112"},
	"traefik":              {"function:8012", "function:8112"},
	"nginx":                {"function:8012", "function:8112"},
	"observability":        {"function:9090", "function:9091", "function:9464", "rabbitmq:15692"},
	"default":              nil,
	"knative-eventing":     nil,
	"kube-system":          nil,
}

// workload contains the fields of the objects that create pods.
type workload struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Template    *corev1.PodTemplateSpec `json:"template"`
		JobTemplate *struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"` // of a CronJob
	} `json:"spec"`
}

// templates returns the templates of all pods in the namespace strongroom, by the name of the object that creates the
// pods. The result also contains the pods that no manifest of this repository describes: source is the pod that the
// controller of the RabbitMQ source creates (eventing-rabbitmq, pkg/reconciler/source/resources/labels.go).
func templates(t *testing.T) map[string]corev1.PodTemplateSpec {
	t.Helper()
	labeled := func(key, value string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{key: value}}}
	}
	found := map[string]corev1.PodTemplateSpec{
		"source": labeled("eventing.knative.dev/SourceName", "strongroom-files"),
		"backup": labeled("app.kubernetes.io/component", "backup"),
	}
	for _, dir := range []string{".", "../config", "../deploy"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(strings.TrimSuffix(path, ".tmpl"), ".yaml") {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, document := range bytes.Split(content, []byte("\n---\n")) {
				var w workload
				if err := yaml.Unmarshal(document, &w); err != nil || w.Namespace != "strongroom" {
					continue // a list of patches, or an object of another namespace
				}
				if w.Spec.JobTemplate != nil {
					found[w.Name] = w.Spec.JobTemplate.Spec.Template
				} else if w.Spec.Template != nil {
					found[w.Name] = *w.Spec.Template
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// policies returns the network policies, and fails the test unless a policy denies all connections by default.
func policies(t *testing.T) []*networkingv1.NetworkPolicy {
	t.Helper()
	var found []*networkingv1.NetworkPolicy
	denies := false
	for _, o := range all(t) {
		policy, ok := o.typed.(*networkingv1.NetworkPolicy)
		if !ok {
			continue
		}
		found = append(found, policy)
		spec := policy.Spec
		denies = denies || len(spec.PodSelector.MatchLabels)+len(spec.PodSelector.MatchExpressions)+len(spec.Ingress)+len(spec.Egress) == 0 &&
			slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress) && slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	if !denies {
		t.Error("no network policy denies all connections of all pods")
	}
	return found
}

// matches reports whether a selector selects an object with the given labels.
func matches(t *testing.T, selector *metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Matches(labels.Set(of))
}

// allowed reports whether a rule allows a connection to the given port, from or to other. A rule without peers allows
// connections to all addresses. The test supports only the features of network policies that the manifests use.
func allowed(t *testing.T, peers []networkingv1.NetworkPolicyPeer, rulePorts []networkingv1.NetworkPolicyPort, other endpoint, to port) bool {
	t.Helper()
	if len(rulePorts) > 0 && !slices.ContainsFunc(rulePorts, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol == nil || p.Port == nil || p.EndPort != nil || p.Port.IntVal == 0 {
			t.Fatalf("got the port %v, want a protocol and a number", p)
		}
		return *p.Protocol == corev1.ProtocolTCP && p.Port.IntVal == to
	}) {
		return false
	}
	return len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			t.Fatal("got a rule with an address, want only selectors")
		}
		if peer.NamespaceSelector == nil {
			return other.namespace == "strongroom" && matches(t, peer.PodSelector, other.labels)
		}
		namespace := map[string]string{"kubernetes.io/metadata.name": other.namespace}
		maps.Copy(namespace, labeled[other.namespace])
		return other.namespace != "" && matches(t, peer.NamespaceSelector, namespace) &&
			(peer.PodSelector == nil || matches(t, peer.PodSelector, other.labels))
	})
}

// connects reports whether the policies allow a connection from one endpoint to a port of another endpoint.
func connects(t *testing.T, policies []*networkingv1.NetworkPolicy, from, to endpoint, at port) bool {
	t.Helper()
	opens, accepts := from.namespace != "strongroom", to.namespace != "strongroom"
	for _, policy := range policies {
		if from.namespace == "strongroom" && matches(t, &policy.Spec.PodSelector, from.labels) {
			for _, rule := range policy.Spec.Egress {
				opens = opens || allowed(t, rule.To, rule.Ports, to, at)
			}
		}
		if to.namespace == "strongroom" && matches(t, &policy.Spec.PodSelector, to.labels) {
			for _, rule := range policy.Spec.Ingress {
				accepts = accepts || allowed(t, rule.From, rule.Ports, from, at)
			}
		}
	}
	return opens && accepts
}

// TestNetworkPolicies checks each connection that the network policies allow against the tables opens and accepts.
// A new pod, such as that of a new function, must be in the table opens.
func TestNetworkPolicies(t *testing.T) {
	policies, pods := policies(t), templates(t)
	reachable := func(from endpoint) (found []string) {
		for name, template := range pods {
			kind := name
			if template.Labels["app.kubernetes.io/component"] == "function" {
				kind = "function"
			}
			for _, at := range ports[kind] {
				if connects(t, policies, from, endpoint{"strongroom", template.Labels}, at) {
					found = append(found, fmt.Sprintf("%s:%d", kind, at))
				}
			}
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	for name, template := range pods {
		from := endpoint{"strongroom", template.Labels}
		got := reachable(from)
		for destination, to := range outside {
			for _, at := range to.ports {
				if connects(t, policies, from, to.endpoint, at) && at != dns {
					got = append(got, fmt.Sprintf("%s:%d", destination, at))
				}
			}
		}
		table, listed := opens[name]
		if !listed {
			t.Errorf("the pod %s is not in the table of connections", name)
		}
		var want []string
		for _, entry := range table {
			if group := groups[entry]; group != nil {
				want = append(want, group...)
			} else {
				want = append(want, entry)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the pod %s can open the connections\n%q\nwant\n%q", name, got, want)
		}
		resolves := connects(t, policies, from, endpoint{}, dns)
		if store := template.Labels["app.kubernetes.io/component"] == "store"; resolves == store {
			t.Errorf("the pod %s can resolve names: %t, want %t", name, resolves, !store)
		}
	}
	for namespace, want := range accepts {
		if got := reachable(endpoint{namespace, map[string]string{"app": "any"}}); !slices.Equal(got, want) {
			t.Errorf("a pod of the namespace %s reaches %q, want %q", namespace, got, want)
		}
	}
}

// needed maps variables to the entry of the table opens that a pod with the variable needs.
var needed = map[string]string{
	"MYSQL_DSN_FILE": "mysql:3306", "MYSQL_ADMIN_DSN_FILE": "mysql:3306", "MONGODB_URI_FILE": "mongodb:27017", "MONGODB_ADMIN_URI_FILE": "mongodb:27017",
	"EVENTS_URL_FILE": "rabbitmq:5672", "EVENTS_ADMIN_URL_FILE": "rabbitmq:5672",
	"LOGIN_URL": toIngress, "VALIDATE_URL": toIngress, "UPLOAD_URL": toIngress, "FILES_URL": toIngress, "ACCOUNTS_URL": toIngress,
}

// TestNetworkPoliciesAllowTheSettings checks that each pod can open the connections that its settings require.
func TestNetworkPoliciesAllowTheSettings(t *testing.T) {
	checked := map[string]bool{}
	for name, template := range templates(t) {
		wants := map[string]bool{}
		for _, container := range template.Spec.Containers {
			for _, variable := range container.Env {
				if entry := needed[variable.Name]; entry != "" {
					wants[entry], checked[variable.Name] = true, true
				} else if regexp.MustCompile(`_(URL|URI|DSN)(_FILE)?$`).MatchString(variable.Name) {
					t.Errorf("the pod %s has the address %s, which the test does not know", name, variable.Name)
				}
			}
			if len(container.EnvFrom) > 0 { // OTEL_EXPORTER_OTLP_ENDPOINT
				wants[toCollector] = true
			}
		}
		if token := template.Spec.AutomountServiceAccountToken; token != nil && *token {
			wants[toAPI] = true
		}
		for entry := range wants {
			if !slices.Contains(opens[name], entry) {
				t.Errorf("the settings of the pod %s require a connection to %s", name, entry)
			}
		}
	}
	for variable := range needed {
		if !checked[variable] {
			t.Errorf("no pod has the setting %s", variable)
		}
	}
}
