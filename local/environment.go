package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// inherited lists the variables, in addition to those in observing, that a function gets from the environment of
// `make run`.
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
		found, err := r.all(from)
		if err != nil {
			return nil, fmt.Errorf("%s: envFrom: %w", name, err)
		}
		for _, key := range sortedKeys(found) {
			if name := from.Prefix + key; !slices.Contains(observing, name) {
				set(name, found[key])
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

// value returns the value of the variable v, which is in the manifest, a ConfigMap or a Secret. It returns false if the
// variable must not be set, because an optional key does not exist or the value in a Secret is empty.
func (r resolver) value(v variable) (string, bool, error) {
	switch {
	case v.ValueFrom == nil:
		if strings.Contains(v.Value, "$(") {
			return "", false, errors.New(`"make run" does not expand $(…)`)
		}
		return v.Value, true, nil
	case v.ValueFrom.ConfigMapKeyRef != nil:
		return find("ConfigMap", r.configMaps, *v.ValueFrom.ConfigMapKeyRef)
	case v.ValueFrom.SecretKeyRef != nil:
		value, ok, err := find("Secret", r.secrets, *v.ValueFrom.SecretKeyRef)
		return value, ok && value != "", err
	default:
		return "", false, errors.New("valueFrom has neither configMapKeyRef nor secretKeyRef")
	}
}

// find returns the value to which ref refers. The map all contains the values by object name and key. kind is the
// object's kind, for error messages. If the key does not exist, find returns false for an optional reference and an
// error for any other reference.
func find(kind string, all map[string]map[string]string, ref keyRef) (string, bool, error) {
	value, ok := all[ref.Name][ref.Key]
	if !ok && !ref.Optional {
		return "", false, fmt.Errorf("%s %s has no key %s", kind, ref.Name, ref.Key)
	}
	return value, ok, nil
}

// all returns the keys and values of the ConfigMap or Secret that an envFrom entry references. It returns nil if the
// object does not exist and the reference is optional.
func (r resolver) all(from variablesFrom) (map[string]string, error) {
	var kind string
	var ref *nameRef
	var in map[string]map[string]string
	switch {
	case from.ConfigMapRef != nil:
		kind, ref, in = "ConfigMap", from.ConfigMapRef, r.configMaps
	case from.SecretRef != nil:
		kind, ref, in = "Secret", from.SecretRef, r.secrets
	default:
		return nil, errors.New("an envFrom entry has neither configMapRef nor secretRef")
	}
	found, ok := in[ref.Name]
	if !ok && !ref.Optional {
		return nil, fmt.Errorf("%s %s does not exist", kind, ref.Name)
	}
	return found, nil
}

// mount replaces dir with a directory that contains the files of the volume called name. volumes are the pod's volumes.
func (r resolver) mount(dir, name string, volumes []volume) error {
	i := slices.IndexFunc(volumes, func(v volume) bool { return v.Name == name })
	if i < 0 {
		return errors.New("mounted but not declared in the pod")
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	switch v := volumes[i]; {
	case v.EmptyDir != nil:
		return nil
	case v.Secret != nil:
		keys, ok := r.secrets[v.Secret.SecretName]
		if !ok && !v.Secret.Optional {
			return fmt.Errorf("the Secret %s does not exist", v.Secret.SecretName)
		}
		items := v.Secret.Items
		if items == nil {
			for _, key := range sortedKeys(keys) {
				items = append(items, keyPath{key, key})
			}
		}
		for _, item := range items {
			value, ok := keys[item.Key]
			if !ok {
				return fmt.Errorf("the Secret %s has no key %s", v.Secret.SecretName, item.Key)
			}
			if !filepath.IsLocal(item.Path) {
				return fmt.Errorf("path %q is outside the volume", item.Path)
			}
			file := filepath.Join(dir, item.Path)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
				return err
			}
		}
		return nil
	default:
		return errors.New(`"make run" supports only secret and emptyDir volumes`)
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
