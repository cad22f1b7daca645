package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// inherited lists the environment variables that functions inherit from `make run`, in addition to the
// variables in observing.
var inherited = []string{"PATH", "HOME", "TMPDIR"}

// observing lists the environment variables that configure metrics and traces. Functions inherit these variables from
// `make run`, because the values in the manifests apply only in a cluster.
var observing = []string{
	"METRICS_ADDR", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
	"OTEL_RESOURCE_ATTRIBUTES", "OTEL_BSP_SCHEDULE_DELAY",
}

// resolver converts the environment that a manifest defines for a container into the environment of a process on
// this machine.
type resolver struct {
	// configMaps contains the data of all ConfigMaps, by ConfigMap name and key.
	configMaps map[string]map[string]string
	// secrets contains the data of all Secrets, by Secret name and key. An empty value means that the stores in use do
	// not need the secret. The process then runs without the file and without the variable that names the file.
	secrets map[string]map[string]string
	// mounts is the directory that contains the mounted volumes. The path of each volume in this directory is
	// FUNCTION/VOLUME.
	mounts string
	// The inside field maps each function's name to the URL that other functions use to call that function. The
	// URL has no path.
	inside map[string]string
	// lookup returns the value of a variable in the environment of `make run`. It returns false if the variable is not
	// set.
	lookup func(name string) (string, bool)
}

// environment returns the environment variables for the process that takes the place of the pod's container. It also
// creates the files that the container would find in its volumes. name is the name of the function or Job.
func (r resolver) environment(name string, pod podSpec) ([]string, error) {
	c := pod.Containers[0]
	values := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, there := values[name]; !there {
			order = append(order, name)
		}
		values[name] = value
	}
	for _, name := range slices.Concat(inherited, observing) {
		if value, ok := r.lookup(name); ok {
			set(name, value)
		}
	}
	for _, from := range c.EnvFrom {
		data, ok := r.configMaps[from.ConfigMapRef.Name]
		if !ok {
			return nil, fmt.Errorf("%s: envFrom: ConfigMap %q does not exist", name, from.ConfigMapRef.Name)
		}
		for _, key := range slices.Sorted(maps.Keys(data)) {
			// Skip the variables for metrics and traces, because functions on one machine cannot share a metrics
			// port, and usually no trace collector is running.
			if !slices.Contains(observing, key) {
				set(key, data[key])
			}
		}
	}
	for _, v := range c.Env {
		if slices.Contains(observing, v.Name) {
			continue
		}
		value, err := r.value(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", name, v.Name, err)
		}
		set(v.Name, value)
	}
	for _, m := range c.VolumeMounts {
		dir := filepath.Join(r.mounts, name, m.Name)
		unneeded, err := r.mount(dir, m.Name, pod.Volumes)
		if err != nil {
			return nil, fmt.Errorf("%s: mount volume %s: %w", name, m.Name, err)
		}
		for key, value := range values {
			rest, ok := strings.CutPrefix(value, m.MountPath)
			switch {
			case !ok || rest != "" && rest[0] != '/':
			case slices.Contains(unneeded, strings.TrimPrefix(rest, "/")):
				order = slices.DeleteFunc(order, func(name string) bool { return name == key })
			default:
				values[key] = dir + rest
			}
		}
	}
	environment := make([]string, 0, len(order))
	for _, key := range order {
		value, err := r.rewrite(values[key])
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", name, key, err)
		}
		environment = append(environment, key+"="+value)
	}
	return environment, nil
}

// rewrite converts a function's cluster-internal URL to the function's URL on this machine. It returns any other
// value unchanged.
func (r resolver) rewrite(value string) (string, error) {
	match := clusterURL.FindStringSubmatch(value)
	if match == nil {
		return value, nil
	}
	address, ok := r.inside[match[1]]
	if !ok {
		return "", fmt.Errorf("%s is the address of a function that does not exist", value)
	}
	return address + match[2], nil
}

// clusterURL matches a function's cluster-internal URL, such as http://login.strongroom.svc.cluster.local/login.
var clusterURL = regexp.MustCompile(`^http://([a-z0-9-]+)\.strongroom\.svc(?:\.cluster\.local)?((?:/.*)?)$`)

// value returns the environment variable's value from the manifest or from a ConfigMap.
func (r resolver) value(v variable) (string, error) {
	switch from := v.ValueFrom; {
	case from == nil && strings.Contains(v.Value, "$("):
		return "", errors.New(`"make run" does not expand $(…)`)
	case from == nil:
		return v.Value, nil
	case from.ConfigMapKeyRef == nil:
		return "", errors.New("valueFrom has no configMapKeyRef")
	}
	ref := *v.ValueFrom.ConfigMapKeyRef
	value, ok := r.configMaps[ref.Name][ref.Key]
	if !ok {
		return "", fmt.Errorf("ConfigMap %s has no key %s", ref.Name, ref.Key)
	}
	return value, nil
}

// mount replaces the content of the directory dir with the files of a volume. name is the volume's name, and volumes
// contains all volumes of the pod. mount returns the names of the files that it does not create, because the stores in
// use do not need them.
func (r resolver) mount(dir, name string, volumes []volume) (unneeded []string, err error) {
	i := slices.IndexFunc(volumes, func(v volume) bool { return v.Name == name })
	if i < 0 {
		return nil, errors.New("the pod mounts the volume but does not declare it")
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	from := volumes[i].Secret
	secret, ok := r.secrets[from.SecretName]
	if !ok && !from.Optional {
		return nil, fmt.Errorf("the Secret %q does not exist", from.SecretName)
	}
	items := from.Items
	if items == nil {
		for key := range secret {
			items = append(items, item{key, key})
		}
	}
	for _, item := range items {
		value, ok := secret[item.Key]
		if !ok {
			return nil, fmt.Errorf("the Secret %q has no key %s", from.SecretName, item.Key)
		}
		if value == "" {
			unneeded = append(unneeded, item.Path)
		} else if err := os.WriteFile(filepath.Join(dir, item.Path), []byte(value), 0o600); err != nil {
			return nil, err
		}
	}
	return unneeded, nil
}
