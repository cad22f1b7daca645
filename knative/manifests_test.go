package knative_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/serving/pkg/apis/autoscaling"
	apiconfig "knative.dev/serving/pkg/apis/config"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/yaml"
)

// rabbitmqSource has the fields of the RabbitmqSource in eventing-rabbitmq v0.48.0 (pkg/apis/sources/v1alpha1). The
// module eventing-rabbitmq itself is not used, because it depends on all of Knative Eventing.
type rabbitmqSource struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		RabbitmqClusterReference struct {
			Name             string                      `json:"name,omitempty"`
			Namespace        string                      `json:"namespace,omitempty"`
			ConnectionSecret corev1.LocalObjectReference `json:"connectionSecret"`
		} `json:"rabbitmqClusterReference"`
		Delivery *struct {
			Retry         int32  `json:"retry"`
			BackoffPolicy string `json:"backoffPolicy"`
			BackoffDelay  string `json:"backoffDelay"`
		} `json:"delivery"`
		RabbitmqResourcesConfig struct {
			Vhost        string `json:"vhost,omitempty"`
			QueueName    string `json:"queueName"`
			ExchangeName string `json:"exchangeName,omitempty"`
			Parallelism  int    `json:"parallelism"`
			Predeclared  bool   `json:"predeclared"`
		} `json:"rabbitmqResourcesConfig"`
		Sink struct {
			Ref struct {
				APIVersion string `json:"apiVersion"`
				Kind       string `json:"kind"`
				Name       string `json:"name"`
			} `json:"ref"`
		} `json:"sink"`
		ServiceAccountName string `json:"serviceAccountName,omitempty"`
	} `json:"spec"`
}

// pingSource has the fields of a sources.knative.dev/v1 PingSource that sends no data.
type pingSource struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Schedule string `json:"schedule"`
		Sink     struct {
			Ref struct {
				APIVersion string `json:"apiVersion"`
				Kind       string `json:"kind"`
				Name       string `json:"name"`
			} `json:"ref"`
		} `json:"sink"`
	} `json:"spec"`
}

// object is one document of a manifest.
type object struct {
	path              string
	typed             any
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

// decode strictly decodes every document below dirs. An unknown or duplicate field fails the test.
func decode(t *testing.T, dirs ...string) []object {
	t.Helper()
	kinds := map[string]func() any{
		"v1/Namespace":                                func() any { return &corev1.Namespace{} },
		"v1/ConfigMap":                                func() any { return &corev1.ConfigMap{} },
		"v1/Service":                                  func() any { return &corev1.Service{} },
		"v1/ServiceAccount":                           func() any { return &corev1.ServiceAccount{} },
		"apps/v1/StatefulSet":                         func() any { return &appsv1.StatefulSet{} },
		"batch/v1/Job":                                func() any { return &batchv1.Job{} },
		"networking.k8s.io/v1/NetworkPolicy":          func() any { return &networkingv1.NetworkPolicy{} },
		"rbac.authorization.k8s.io/v1/Role":           func() any { return &rbacv1.Role{} },
		"rbac.authorization.k8s.io/v1/RoleBinding":    func() any { return &rbacv1.RoleBinding{} },
		"serving.knative.dev/v1/Service":              func() any { return &servingv1.Service{} },
		"sources.knative.dev/v1alpha1/RabbitmqSource": func() any { return &rabbitmqSource{} },
		"sources.knative.dev/v1/PingSource":           func() any { return &pingSource{} },
	}
	var objects []object
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, document := range bytes.Split(content, []byte("\n---\n")) {
				o := object{path: path}
				if err := yaml.Unmarshal(document, &o); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				kind, known := kinds[o.APIVersion+"/"+o.Kind]
				if !known {
					t.Fatalf("%s: unexpected kind %s/%s", path, o.APIVersion, o.Kind)
				}
				o.typed = kind()
				if err := yaml.UnmarshalStrict(document, o.typed); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				objects = append(objects, o)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return objects
}

// all decodes every manifest of the project.
func all(t *testing.T) []object {
	t.Helper()
	return decode(t, ".", "../config")
}

// services returns the Knative Services by name.
func services(t *testing.T) map[string]*servingv1.Service {
	t.Helper()
	found := map[string]*servingv1.Service{}
	for _, o := range all(t) {
		if service, ok := o.typed.(*servingv1.Service); ok {
			if want := service.Name + ".yaml"; o.path != want {
				t.Errorf("Service %s: got the file %s, want %s", service.Name, o.path, want)
			}
			found[service.Name] = service
		}
	}
	if len(found) == 0 {
		t.Fatal("found no Services")
	}
	return found
}

func TestEveryObjectIsNamedPlacedAndLabelled(t *testing.T) {
	seen := map[string]string{}
	for _, o := range all(t) {
		id := o.APIVersion + "/" + o.Kind + "/" + o.Name
		if other, twice := seen[id]; twice {
			t.Errorf("%s is both in %s and in %s", id, other, o.path)
		}
		seen[id] = o.path
		if namespaced := o.Kind != "Namespace"; namespaced != (o.Namespace == "strongroom") {
			t.Errorf("%s: wrong namespace %q", id, o.Namespace)
		}
		if got := o.Labels["app.kubernetes.io/part-of"]; got != "strongroom" {
			t.Errorf("%s: label app.kubernetes.io/part-of: got %q, want strongroom", id, got)
		}
	}
}

// TestNamespaceComesFirst checks that the Namespace is the first object in lexical order of the files. In this order,
// `ko apply -R -f config/` applies the files, and the Namespace must exist before the other objects.
func TestNamespaceComesFirst(t *testing.T) {
	objects := decode(t, "../config")
	if got := objects[0].Kind; got != "Namespace" {
		t.Errorf("first object: got kind %s, want Namespace", got)
	}
}

func TestServicesAreValid(t *testing.T) {
	for name, service := range services(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			service.SetDefaults(ctx)
			if err := service.Validate(ctx); err != nil {
				t.Fatal(err)
			}
			spec := service.Spec.Template.Spec
			if spec.TimeoutSeconds == nil || *spec.TimeoutSeconds > 600 {
				t.Error("timeoutSeconds must be set to at most 600")
			} else if spec.ResponseStartTimeoutSeconds == nil || *spec.ResponseStartTimeoutSeconds > *spec.TimeoutSeconds {
				t.Error("responseStartTimeoutSeconds must be set to at most timeoutSeconds")
			}
			if spec.IdleTimeoutSeconds != nil {
				t.Error("idleTimeoutSeconds must not be set, because only response writes reset it and it would end uploads")
			}
			if spec.ContainerConcurrency == nil || *spec.ContainerConcurrency < 1 {
				t.Error("containerConcurrency must be set, because Knative has no limit by default")
			}
			for _, labels := range []map[string]string{service.Labels, service.Spec.Template.Labels} {
				for label, want := range map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/component": "function"} {
					if got := labels[label]; got != want {
						t.Errorf("label %s: got %q, want %q", label, got, want)
					}
				}
			}
		})
	}
}

// TestAnnotationsAndVisibilityAreKnown checks the names and values of annotations and labels. Knative ignores an
// annotation or label with a misspelled name and reports no error.
func TestAnnotationsAndVisibilityAreKnown(t *testing.T) {
	known := []string{
		autoscaling.ClassAnnotationKey, autoscaling.MinScaleAnnotationKey, autoscaling.MaxScaleAnnotationKey,
		autoscaling.InitialScaleAnnotationKey, autoscaling.ScaleDownDelayAnnotationKey, autoscaling.MetricAnnotationKey,
		autoscaling.TargetAnnotationKey, autoscaling.ScaleToZeroPodRetentionPeriodKey, autoscaling.MetricAggregationAlgorithmKey,
		autoscaling.WindowAnnotationKey, autoscaling.TargetUtilizationPercentageKey, autoscaling.TargetBurstCapacityKey,
		autoscaling.PanicWindowPercentageAnnotationKey, autoscaling.PanicThresholdPercentageAnnotationKey, autoscaling.ActivationScaleKey,
		apiconfig.AllowHTTPFullDuplexFeatureKey,
	}
	for name, service := range services(t) {
		for key := range service.Annotations {
			t.Errorf("%s: annotation %s must be in spec.template.metadata", name, key)
		}
		annotations := service.Spec.Template.Annotations
		for key := range annotations {
			if !slices.Contains(known, key) {
				t.Errorf("%s: unknown annotation %s", name, key)
			}
		}
		wantedScale := "0"
		if name == "gateway" {
			wantedScale = "1"
		}
		if got := annotations[autoscaling.MinScaleAnnotationKey]; got != wantedScale {
			t.Errorf("%s: min-scale: got %q, want %s", name, got, wantedScale)
		}
		if got, err := strconv.Atoi(annotations[autoscaling.MaxScaleAnnotationKey]); err != nil || got < 1 {
			t.Errorf("%s: max-scale: got %q, want a positive number", name, annotations[autoscaling.MaxScaleAnnotationKey])
		}
		wanted := ""
		if name == "record" || name == "sweep" {
			wanted = "cluster-local"
		}
		if got := service.Labels["networking.knative.dev/visibility"]; got != wanted {
			t.Errorf("%s: visibility: got %q, want %q", name, got, wanted)
		}
		for key := range service.Labels {
			if key != "networking.knative.dev/visibility" && !strings.HasPrefix(key, "app.kubernetes.io/") {
				t.Errorf("%s: unknown label %s", name, key)
			}
		}
		for key := range service.Spec.Template.Labels {
			if !strings.HasPrefix(key, "app.kubernetes.io/") {
				t.Errorf("%s: label %s has no effect on a revision", name, key)
			}
		}
	}
}

func TestSourceDeliversToRecord(t *testing.T) {
	var source *rabbitmqSource
	for _, o := range all(t) {
		if s, ok := o.typed.(*rabbitmqSource); ok {
			source = s
		}
	}
	if source == nil {
		t.Fatal("found no RabbitmqSource")
	}
	spec := source.Spec
	if got := spec.Sink.Ref.APIVersion + "/" + spec.Sink.Ref.Kind + "/" + spec.Sink.Ref.Name; got != "serving.knative.dev/v1/Service/record" {
		t.Errorf("sink: got %s, want serving.knative.dev/v1/Service/record", got)
	}
	if !spec.RabbitmqResourcesConfig.Predeclared || spec.RabbitmqResourcesConfig.QueueName != "strongroom.files" {
		t.Error("the queue must be strongroom.files, which setup declares, and must be predeclared")
	}
	if spec.Delivery == nil {
		t.Fatal("delivery must be set, because otherwise no event is retried")
	}
	if spec.Delivery.BackoffPolicy != "exponential" {
		t.Fatalf("backoff policy: got %q, want exponential", spec.Delivery.BackoffPolicy)
	}
	delay := regexp.MustCompile(`^PT([0-9.]+)S$`).FindStringSubmatch(spec.Delivery.BackoffDelay)
	if delay == nil {
		t.Fatalf("backoff delay: got %q, want an ISO 8601 duration in seconds", spec.Delivery.BackoffDelay)
	}
	seconds, err := strconv.ParseFloat(delay[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0 // sum of the intervals delay·2, delay·4, … delay·2^retry
	for i := range spec.Delivery.Retry {
		total += seconds * float64(int64(2)<<i)
	}
	if total < 60 {
		t.Errorf("the retries of an event end after %g s, want at least 60 s, so that an outage of 30 s dead-letters no event", total)
	}
	record := services(t)["record"]
	if record == nil {
		t.Fatal("found no Service record")
	}
	if got, limit := spec.RabbitmqResourcesConfig.Parallelism, *record.Spec.Template.Spec.ContainerConcurrency; int64(got) > limit {
		t.Errorf("the source delivers %d events concurrently, but a pod of record accepts only %d", got, limit)
	}
}

func TestSweepIsWokenAndNeverTwiceAtOnce(t *testing.T) {
	var woken []string
	for _, o := range all(t) {
		ping, ok := o.typed.(*pingSource)
		if !ok {
			continue
		}
		spec := ping.Spec
		woken = append(woken, spec.Sink.Ref.APIVersion+"/"+spec.Sink.Ref.Kind+"/"+spec.Sink.Ref.Name)
		minutes := regexp.MustCompile(`^\*/([0-9]+) \* \* \* \*$`).FindStringSubmatch(spec.Schedule)
		if minutes == nil {
			t.Fatalf("schedule: got %q, want */MINUTES * * * *", spec.Schedule)
		}
		pause, err := strconv.ParseInt(minutes[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sweep := services(t)[spec.Sink.Ref.Name]
		if sweep == nil {
			t.Fatalf("found no Service %s", spec.Sink.Ref.Name)
		}
		template := sweep.Spec.Template
		if timeout := *template.Spec.TimeoutSeconds; timeout >= pause*60 {
			t.Errorf("the timeout of a sweep is %d s, but the next sweep begins after %d min", timeout, pause)
		}
		if *template.Spec.ContainerConcurrency != 1 || template.Annotations[autoscaling.MaxScaleAnnotationKey] != "1" {
			t.Error("two sweeps can run at the same time")
		}
	}
	if want := []string{"serving.knative.dev/v1/Service/sweep"}; !slices.Equal(woken, want) {
		t.Errorf("PingSources call %v, want %v", woken, want)
	}
}

// TestKustomizationsListAllManifests checks that `make deploy`, which uses Kustomize, applies the same files as
// `ko apply -R -f config/ -f knative/`.
func TestKustomizationsListAllManifests(t *testing.T) {
	for _, dir := range []string{"../config", "."} {
		content, err := os.ReadFile(filepath.Join(dir, "Kustomization"))
		if err != nil {
			t.Fatal(err)
		}
		var kustomization struct{ Resources []string }
		if err := yaml.Unmarshal(content, &kustomization); err != nil {
			t.Fatal(err)
		}
		var files []string
		for _, pattern := range []string{"*.yaml", "*/*.yaml"} {
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, found...)
		}
		for i, file := range files {
			if files[i], err = filepath.Rel(dir, file); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(kustomization.Resources, files) {
			t.Errorf("%s/Kustomization: got the resources %q, want %q", dir, kustomization.Resources, files)
		}
	}
}
