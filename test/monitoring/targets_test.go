package monitoring

import (
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1alpha1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"sigs.k8s.io/yaml"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestTargets checks which addresses the PodMonitors select. Prometheus has one target for each container and each port
// that the container declares.
func TestTargets(t *testing.T) {
	text, err := os.ReadFile(folder + "podmonitors.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, document := range strings.Split(string(text), "\n---\n") {
		var monitor v1.PodMonitor
		if err := yaml.UnmarshalStrict([]byte(document), &monitor); err != nil {
			t.Fatal(err)
		}
		pods := map[string][]map[string]string{
			"strongroom": {
				{"container_name": "login", "container_port_name": "user-port", "pod_ip": "10.0.0.1"},
				{"container_name": "queue-proxy", "container_port_name": "queue-port", "pod_ip": "10.0.0.1"},
				{"container_name": "queue-proxy", "container_port_name": "http-usermetric", "pod_ip": "10.0.0.1"},
			},
			"strongroom-rabbitmq": {
				{"container_name": "rabbitmq", "container_port_name": "amqp", "pod_ip": "10.0.0.2"},
				{"container_name": "rabbitmq", "container_port_name": "management", "pod_ip": "10.0.0.2"},
			},
		}
		for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
			for _, container := range pods[monitor.Name] {
				builder := labels.NewBuilder(labels.EmptyLabels())
				for name, v := range container {
					builder.Set("__meta_kubernetes_"+strings.Replace("pod_"+name, "pod_pod_", "pod_", 1), v)
				}
				if relabel.ProcessBuilder(builder, relabelings(t, endpoint.RelabelConfigs)...) {
					got[monitor.Name] = append(got[monitor.Name], builder.Get("__address__")+endpoint.Path)
				}
			}
		}
	}
	want := map[string][]string{
		"strongroom":          {"10.0.0.1:9464"},
		"strongroom-rabbitmq": {"10.0.0.2:15692", "10.0.0.2:15692/metrics/detailed"},
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got the targets %v, want %v", got, want)
	}
}

// TestScrapeConfigs checks which addresses the example in docs/monitoring.md selects, and the label that an alert needs.
func TestScrapeConfigs(t *testing.T) {
	text, err := commands.Block("../..", "docs/monitoring.md", "yaml", "apiVersion: monitoring.coreos.com/v1alpha1\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, document := range strings.Split(text, "\n---\n") {
		var config v1alpha1.ScrapeConfig
		if err := yaml.UnmarshalStrict([]byte(document), &config); err != nil {
			t.Fatal(err)
		}
		path := "/metrics"
		if config.Spec.MetricsPath != nil {
			path = *config.Spec.MetricsPath + "?" + url.Values(config.Spec.Params).Encode()
		}
		for _, static := range config.Spec.StaticConfigs {
			for _, target := range static.Targets {
				got = append(got, static.Labels["namespace"]+" "+string(target)+path)
			}
		}
	}
	var want []string
	for _, path := range []string{"/metrics", "/metrics/detailed?family=queue_coarse_metrics&family=queue_consumer_count"} {
		for _, node := range []string{"0", "1", "2"} {
			want = append(want, "strongroom rabbitmq-"+node+".example.com:15692"+path)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got the targets %q, want %q", got, want)
	}
}

// relabelings converts the relabelings of a PodMonitor to those of Prometheus.
func relabelings(t *testing.T, of []v1.RelabelConfig) (configs []*relabel.Config) {
	t.Helper()
	for _, r := range of {
		config := relabel.DefaultRelabelConfig
		for _, label := range r.SourceLabels {
			config.SourceLabels = append(config.SourceLabels, model.LabelName(label))
		}
		if r.Regex != "" {
			config.Regex = relabel.MustNewRegexp(r.Regex)
		}
		if r.Replacement != nil {
			config.Replacement = *r.Replacement
		}
		if r.Action != "" {
			config.Action = relabel.Action(r.Action)
		}
		config.TargetLabel, config.NameValidationScheme = r.TargetLabel, model.UTF8Validation
		if err := config.Validate(model.UTF8Validation); err != nil {
			t.Fatal(err)
		}
		configs = append(configs, &config)
	}
	return configs
}
