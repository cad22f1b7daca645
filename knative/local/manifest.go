package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// The manifests are decoded strictly into the structs below rather than into those of knative.dev/serving and
// k8s.io/api: compiling these took twice the processor time of the whole runner (80 s against 38 s, cold), plus a dozen
// module downloads, out of the time a first `make run` may take. Fields that mean nothing on a single machine have the
// type any; manifests_test.go in the folder above validates them with the real types.

// manifests is what the runner knows of the system.
type manifests struct {
	// services are the functions, in the order of their files' names.
	services []service
	// setup is the pod of the Job that brings the stores into shape.
	setup podSpec
	// configMaps are the settings by name and key.
	configMaps map[string]map[string]string
	// source is the event source, nil where there is none.
	source *rabbitmqSource
	// pings are the sources that wake functions by the clock.
	pings []pingSource
}

type metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// service is a serving.knative.dev/v1 Service.
type service struct {
	typeMeta
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Template struct {
			Metadata metadata `json:"metadata"`
			Spec     podSpec  `json:"spec"`
		} `json:"template"`
		Traffic any `json:"traffic"`
	} `json:"spec"`
}

// podSpec is what a Service's revision and a Job's pod have in common, and what only one of them may have.
type podSpec struct {
	Containers []container `json:"containers"`
	Volumes    []volume    `json:"volumes"`
	// ContainerConcurrency is how many requests a process gets at once, 0 for any number.
	ContainerConcurrency int `json:"containerConcurrency"`
	// TimeoutSeconds bounds a whole request.
	TimeoutSeconds int `json:"timeoutSeconds"`

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
		SecretKeyRef    *keyRef `json:"secretKeyRef"`
	} `json:"valueFrom"`
}

type variablesFrom struct {
	Prefix       string   `json:"prefix"`
	ConfigMapRef *nameRef `json:"configMapRef"`
	SecretRef    *nameRef `json:"secretRef"`
}

type keyRef struct {
	Name     string `json:"name"`
	Key      string `json:"key"`
	Optional bool   `json:"optional"`
}

type nameRef struct {
	Name     string `json:"name"`
	Optional bool   `json:"optional"`
}

type mount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly"`
}

type volume struct {
	Name   string `json:"name"`
	Secret *struct {
		SecretName  string    `json:"secretName"`
		Items       []keyPath `json:"items"`
		Optional    bool      `json:"optional"`
		DefaultMode any       `json:"defaultMode"`
	} `json:"secret"`
	EmptyDir *struct {
		SizeLimit any `json:"sizeLimit"`
		Medium    any `json:"medium"`
	} `json:"emptyDir"`
}

type keyPath struct {
	Key  string `json:"key"`
	Path string `json:"path"`
}

type configMap struct {
	typeMeta
	Metadata metadata          `json:"metadata"`
	Data     map[string]string `json:"data"`
}

// job is a batch/v1 Job.
type job struct {
	typeMeta
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Template struct {
			Metadata metadata `json:"metadata"`
			Spec     podSpec  `json:"spec"`
		} `json:"template"`
		BackoffLimit            any `json:"backoffLimit"`
		ActiveDeadlineSeconds   any `json:"activeDeadlineSeconds"`
		TTLSecondsAfterFinished any `json:"ttlSecondsAfterFinished"`
	} `json:"spec"`
}

// rabbitmqSource is a sources.knative.dev/v1alpha1 RabbitmqSource.
type rabbitmqSource struct {
	typeMeta
	Metadata metadata `json:"metadata"`
	Spec     struct {
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

// pingSource is a sources.knative.dev/v1 PingSource that sends no data.
type pingSource struct {
	typeMeta
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Schedule string `json:"schedule"`
		Sink     sink   `json:"sink"`
	} `json:"spec"`
}

// sink names the function that a source's events are for.
type sink struct {
	Ref struct {
		typeMeta
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"ref"`
}

// documentBreak separates the documents of a YAML file.
var documentBreak = regexp.MustCompile(`(?m)^---([ \t].*)?$`)

// readManifests decodes knative/*.yaml and config/*.yaml under root. An unknown field or kind is an error that names
// the file.
func readManifests(root string) (*manifests, error) {
	m := &manifests{configMaps: map[string]map[string]string{}}
	for _, dir := range []string{"config", "knative"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.yaml"))
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("%s/ has no manifests: run this from the top of a clone of Strongroom", dir)
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
		return nil, errors.New("knative/ has no Service")
	}
	if m.setup.Containers == nil {
		return nil, errors.New("config/ has no Job named setup")
	}
	return m, nil
}

// add takes one document.
func (m *manifests) add(document []byte) error {
	var head struct {
		typeMeta
		Metadata metadata `json:"metadata"`
	}
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	switch head.APIVersion + " " + head.Kind {
	case " ":
		// A file may begin or end with a line of dashes, or hold only comments; a document without a kind is neither.
		var anything any
		if err := yaml.Unmarshal(document, &anything); err != nil || anything != nil {
			return errors.Join(errors.New("a document has no kind"), err)
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
			return nil // the runner makes its own secrets, for the stores it found
		}
		if head.Metadata.Name != "setup" {
			return fmt.Errorf("make run knows the Job setup only, not %s", head.Metadata.Name)
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
		if m.source != nil {
			return errors.New("make run can run one RabbitmqSource only")
		}
		m.source = &rabbitmqSource{}
		return yaml.UnmarshalStrict(document, m.source)
	case "sources.knative.dev/v1 PingSource":
		var p pingSource
		if err := yaml.UnmarshalStrict(document, &p); err != nil {
			return err
		}
		if _, err := interval(p.Spec.Schedule); err != nil {
			return fmt.Errorf("%s: %w", p.Metadata.Name, err)
		}
		m.pings = append(m.pings, p)
	case "v1 Namespace", "v1 ServiceAccount", "rbac.authorization.k8s.io/v1 Role", "rbac.authorization.k8s.io/v1 RoleBinding":
		// Of no meaning outside of a cluster.
	default:
		return fmt.Errorf("make run does not know %s %s", head.APIVersion, head.Kind)
	}
	return nil
}

// check refuses what the runner can't run.
func (p podSpec) check() error {
	if len(p.Containers) != 1 {
		return fmt.Errorf("it has %d containers; make run can run one", len(p.Containers))
	}
	if p.Containers[0].goPackage() == "" {
		return fmt.Errorf("image %q is not a ko:// import path", p.Containers[0].Image)
	}
	return nil
}

// goPackage is the import path that the container's image is built from, empty if it is not one.
func (c container) goPackage() string {
	pkg, ok := strings.CutPrefix(c.Image, "ko://")
	if !ok {
		return ""
	}
	return pkg
}

// binary is the name that go build gives to the container's program.
func (c container) binary() string { return path.Base(c.goPackage()) }
