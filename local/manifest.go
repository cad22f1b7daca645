package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// The structs below replace the official structs in knative.dev/serving and k8s.io/api. Compiling the official
// packages takes 80 seconds of processor time, whereas compiling the entire runner takes only 38 seconds.

// manifests contains the objects in config/*.yaml and knative/*.yaml that also apply when the functions run on a single
// machine, without a cluster.
type manifests struct {
	// services are the Knative Services, one for each function, sorted by file name.
	services []service
	// setup is the pod of the setup Job, which prepares the stores.
	setup podSpec
	// configMaps contains the data of all ConfigMaps, by ConfigMap name and key.
	configMaps map[string]map[string]string
	// sources are the RabbitmqSources, which send events from RabbitMQ to functions.
	sources []rabbitmqSource
	// pings are the PingSources, which call functions on a schedule.
	pings []pingSource
}

type metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// object contains the members that all Kubernetes objects have.
type object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
}

// template describes the pods of a service or a job.
type template struct {
	Metadata metadata `json:"metadata"`
	Spec     podSpec  `json:"spec"`
}

// service is a serving.knative.dev/v1 Service.
type service struct {
	object
	Spec struct {
		Template template `json:"template"`
		Traffic  any      `json:"traffic"`
	} `json:"spec"`
}

// podSpec describes the pod of a Knative Service or of a Job. Some fields apply to only one of these kinds.
type podSpec struct {
	Containers []container `json:"containers"`
	Volumes    []volume    `json:"volumes"`
	// ContainerConcurrency is the maximum number of requests that a process handles at the same time. 0 means no limit.
	ContainerConcurrency int `json:"containerConcurrency"`
	// TimeoutSeconds is how many seconds a request may take, from its arrival to the end of its response. 0 means
	// defaultTimeout.
	TimeoutSeconds int `json:"timeoutSeconds"`

	// In all manifest structs, the runner ignores the values of the fields of type any. knative/manifests_test.go
	// validates these values against the Kubernetes and Knative types.
	ResponseStartTimeoutSeconds  any `json:"responseStartTimeoutSeconds"`
	IdleTimeoutSeconds           any `json:"idleTimeoutSeconds"`
	ServiceAccountName           any `json:"serviceAccountName"`
	AutomountServiceAccountToken any `json:"automountServiceAccountToken"`
	EnableServiceLinks           any `json:"enableServiceLinks"`
	RestartPolicy                any `json:"restartPolicy"`
	SecurityContext              any `json:"securityContext"`
}

type container struct {
	Name         string          `json:"name"`
	Image        string          `json:"image"`
	Args         []string        `json:"args"`
	Env          []variable      `json:"env"`
	EnvFrom      []variablesFrom `json:"envFrom"`
	VolumeMounts []mount         `json:"volumeMounts"`

	Ports           any `json:"ports"`
	Resources       any `json:"resources"`
	SecurityContext any `json:"securityContext"`
	ReadinessProbe  any `json:"readinessProbe"`
	ImagePullPolicy any `json:"imagePullPolicy"`
}

type variable struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	ValueFrom *struct {
		ConfigMapKeyRef *keyRef `json:"configMapKeyRef"`
	} `json:"valueFrom"`
}

type variablesFrom struct {
	ConfigMapRef struct {
		Name string `json:"name"`
	} `json:"configMapRef"`
}

type keyRef struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

type mount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly"`
}

type volume struct {
	Name   string `json:"name"`
	Secret struct {
		SecretName string `json:"secretName"`
		// Items are the keys that become files. If Items is nil, all keys do.
		Items []item `json:"items"`
		// Optional reports whether the pod can start without the Secret. The volume is then empty.
		Optional bool `json:"optional"`
	} `json:"secret"`
}

// item is a key of a Secret that becomes the file at the path in a volume.
type item struct {
	Key  string `json:"key"`
	Path string `json:"path"`
}

type configMap struct {
	object
	Data map[string]string `json:"data"`
}

// job is a batch/v1 Job.
type job struct {
	object
	Spec struct {
		Template              template `json:"template"`
		BackoffLimit          any      `json:"backoffLimit"`
		ActiveDeadlineSeconds any      `json:"activeDeadlineSeconds"`
	} `json:"spec"`
}

// rabbitmqSource is a sources.knative.dev/v1alpha1 RabbitmqSource.
type rabbitmqSource struct {
	object
	Spec struct {
		RabbitmqClusterReference any `json:"rabbitmqClusterReference"`
		RabbitmqResourcesConfig  struct {
			ExchangeName any    `json:"exchangeName"`
			QueueName    string `json:"queueName"`
			Predeclared  bool   `json:"predeclared"`
			Parallelism  int    `json:"parallelism"`
			Vhost        any    `json:"vhost"`
		} `json:"rabbitmqResourcesConfig"`
		Delivery struct {
			Retry         int    `json:"retry"`
			BackoffPolicy string `json:"backoffPolicy"`
			BackoffDelay  string `json:"backoffDelay"`
		} `json:"delivery"`
		Sink               sink `json:"sink"`
		ServiceAccountName any  `json:"serviceAccountName"`
	} `json:"spec"`
}

// pingSource is a sources.knative.dev/v1 PingSource whose events contain no data.
type pingSource struct {
	object
	Spec struct {
		Schedule string `json:"schedule"`
		Sink     sink   `json:"sink"`
	} `json:"spec"`
}

// sink refers to the function that receives the events from a RabbitmqSource or PingSource.
type sink struct {
	Ref struct {
		APIVersion any    `json:"apiVersion"`
		Kind       any    `json:"kind"`
		Name       string `json:"name"`
		Namespace  any    `json:"namespace"`
	} `json:"ref"`
}

// clusterOnly lists the kinds of objects that have no effect outside a cluster.
var clusterOnly = []string{
	"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "NetworkPolicy",
	"PodDisruptionBudget", "PodMonitor", "ServiceMonitor",
}

// documentBreak matches the line that separates two documents in a YAML file.
var documentBreak = regexp.MustCompile(`(?m)^---([ \t].*)?$`)

// readManifests decodes the files config/*.yaml and knative/*.yaml below root. If a manifest has an unknown field or
// kind, readManifests returns an error that names the file.
func readManifests(root string) (*manifests, error) {
	m := &manifests{configMaps: map[string]map[string]string{}}
	for _, dir := range []string{"config", "knative"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.yaml"))
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("%s/ contains no manifests: run this command in the root directory of the Strongroom repository", dir)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			for _, document := range documentBreak.Split(string(text), -1) {
				if err := m.add([]byte(document)); err != nil {
					return nil, fmt.Errorf("%s/%s: %w", dir, filepath.Base(file), err)
				}
			}
		}
	}
	if len(m.services) == 0 {
		return nil, errors.New("knative/ contains no Service")
	}
	if m.setup.Containers == nil {
		return nil, errors.New("config/ contains no Job named setup")
	}
	return m, nil
}

// add decodes one YAML document and adds it to m.
func (m *manifests) add(document []byte) error {
	var head object
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	switch head.APIVersion + " " + head.Kind {
	case " ":
		// A document without a kind must be empty. A YAML file contains empty documents if it begins or ends with
		// "---", or if it consists only of comments.
		var anything any
		if err := yaml.Unmarshal(document, &anything); err != nil || anything != nil {
			return errors.Join(errors.New("a YAML document has no kind"), err)
		}
	case "serving.knative.dev/v1 Service":
		var s service
		if err := yaml.UnmarshalStrict(document, &s); err != nil {
			return err
		}
		if err := s.Spec.Template.Spec.check(); err != nil {
			return fmt.Errorf("%s: %w", s.Metadata.Name, err)
		}
		m.services = append(m.services, s)
	case "v1 ConfigMap":
		var c configMap
		if err := yaml.UnmarshalStrict(document, &c); err != nil {
			return err
		}
		m.configMaps[c.Metadata.Name] = c.Data
	case "batch/v1 Job":
		if head.Metadata.Name == "secrets" {
			return nil // the runner itself generates the secrets, because they depend on the stores that it uses
		}
		if head.Metadata.Name != "setup" {
			return fmt.Errorf(`"make run" supports only the Job setup, not %s`, head.Metadata.Name)
		}
		var j job
		if err := yaml.UnmarshalStrict(document, &j); err != nil {
			return err
		}
		m.setup = j.Spec.Template.Spec
		if err := m.setup.check(); err != nil {
			return fmt.Errorf("setup: %w", err)
		}
	case "sources.knative.dev/v1alpha1 RabbitmqSource":
		var source rabbitmqSource
		if err := yaml.UnmarshalStrict(document, &source); err != nil {
			return err
		}
		m.sources = append(m.sources, source)
	case "sources.knative.dev/v1 PingSource":
		var p pingSource
		if err := yaml.UnmarshalStrict(document, &p); err != nil {
			return err
		}
		if _, err := interval(p.Spec.Schedule); err != nil {
			return fmt.Errorf("%s: %w", p.Metadata.Name, err)
		}
		m.pings = append(m.pings, p)
	default:
		if !slices.Contains(clusterOnly, head.Kind) {
			return fmt.Errorf(`"make run" does not support %s %s`, head.APIVersion, head.Kind)
		}
	}
	return nil
}

// check returns an error if the runner cannot run the pod. The pod must have exactly one container, whose image must be
// a ko:// import path.
func (p podSpec) check() error {
	if len(p.Containers) != 1 {
		return fmt.Errorf(`the pod has %d containers, but "make run" supports only one`, len(p.Containers))
	}
	if pkg := p.Containers[0].goPackage(); pkg == "" || pkg == p.Containers[0].Image {
		return fmt.Errorf("image %q is not a ko:// import path", p.Containers[0].Image)
	}
	return nil
}

// goPackage returns the import path of the container's program. The image must be a ko:// import path.
func (c container) goPackage() string { return strings.TrimPrefix(c.Image, "ko://") }

// binary returns the file name that `go build` gives to the container's program.
func (c container) binary() string { return path.Base(c.goPackage()) }
