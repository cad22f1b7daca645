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

// inherited and observing list the variables that a function gets from the environment of `make run`.
var inherited = []string{"PATH", "HOME", "TMPDIR"}

// observing lists the variables for metrics and traces. A function gets them from the environment of `make run` instead
// of from its manifest, because the values in the manifests do not work on a single machine: several functions cannot
// listen on the same metrics port, and usually no trace collector is running.
var observing = []string{
	"METRICS_ADDR", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
	"OTEL_RESOURCE_ATTRIBUTES", "OTEL_BSP_SCHEDULE_DELAY",
}

// resolver converts the environment of a container in a manifest to the environment of a process on this machine.
type resolver struct {
	// configMaps and secrets map the name of a ConfigMap or Secret, and then a key, to a value. An empty value in
	// secrets means that the stores in use do not need the secret, so the variable for this secret is not set.
	configMaps map[string]map[string]string
	secrets    map[string]map[string]string
	// mounts is the directory in which each mounted volume gets a subdirectory, mounts/FUNCTION/VOLUME.
	mounts string
	// inside maps the name of each function to the URL, without a path, that other functions use to call this function.
	inside map[string]string
	// lookup returns the value of a variable in the environment of `make run`. It returns false if the variable is not
	// set.
	lookup func(name string) (string, bool)
}

// environment returns the environment of the process that replaces the pod's container. It also writes the files of the
// volumes that the container mounts. name is the name of the function or Job.
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
			if !slices.Contains(observing, key) {
				set(key, data[key])
			}
		}
	}
	for _, v := range c.Env {
		if slices.Contains(observing, v.Name) {
			continue
		}
		value, ok, err := r.value(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", name, v.Name, err)
		}
		if ok {
			set(v.Name, value)
		}
	}
	for _, m := range c.VolumeMounts {
		dir := filepath.Join(r.mounts, name, m.Name)
		if err := r.mount(dir, m.Name, pod.Volumes); err != nil {
			return nil, fmt.Errorf("%s: volume %s: %w", name, m.Name, err)
		}
		for key, value := range values {
			if rest, ok := strings.CutPrefix(value, m.MountPath); ok && (rest == "" || rest[0] == '/') {
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

// rewrite converts the URL that a function has inside a cluster to the URL that the same function has on this machine.
// It returns any other value unchanged.
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

// clusterURL matches a function's URL inside a cluster, such as http://login.strongroom.svc.cluster.local/login.
var clusterURL = regexp.MustCompile(`^http://([a-z0-9-]+)\.strongroom\.svc(?:\.cluster\.local)?((?:/.*)?)$`)

// value returns the value that the manifest, a ConfigMap or a Secret contains for the variable v. It returns false for
// an empty value from a Secret, so that the process does not get the variable.
func (r resolver) value(v variable) (value string, ok bool, err error) {
	switch from := v.ValueFrom; {
	case from == nil && strings.Contains(v.Value, "$("):
		return "", false, errors.New(`"make run" does not expand $(…)`)
	case from == nil:
		return v.Value, true, nil
	case from.ConfigMapKeyRef != nil:
		value, err = find("ConfigMap", r.configMaps, *from.ConfigMapKeyRef)
		return value, err == nil, err
	case from.SecretKeyRef != nil:
		value, err = find("Secret", r.secrets, *from.SecretKeyRef)
		return value, value != "", err
	default:
		return "", false, errors.New("valueFrom has neither configMapKeyRef nor secretKeyRef")
	}
}

// find returns the value to which ref refers. all contains the data of all ConfigMaps or of all Secrets. Error messages
// contain kind, which is "ConfigMap" or "Secret".
func find(kind string, all map[string]map[string]string, ref keyRef) (string, error) {
	value, ok := all[ref.Name][ref.Key]
	if !ok {
		return "", fmt.Errorf("%s %s has no key %s", kind, ref.Name, ref.Key)
	}
	return value, nil
}

// mount deletes the directory dir and recreates it with the files of the volume called name. volumes are the pod's
// volumes.
func (r resolver) mount(dir, name string, volumes []volume) error {
	i := slices.IndexFunc(volumes, func(v volume) bool { return v.Name == name })
	if i < 0 {
		return errors.New("the pod mounts the volume but does not declare it")
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	secret, ok := r.secrets[volumes[i].Secret.SecretName]
	if !ok {
		return fmt.Errorf("the Secret %q does not exist", volumes[i].Secret.SecretName)
	}
	for key, value := range secret {
		if err := os.WriteFile(filepath.Join(dir, key), []byte(value), 0o600); err != nil {
			return err
		}
	}
	return nil
}
