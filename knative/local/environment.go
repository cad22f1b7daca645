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

// inherited are the only variables of the developer's own environment that a function gets, besides observing.
var inherited = []string{"PATH", "HOME", "TMPDIR"}

// observing are the variables that the developer's environment decides instead of the manifest: several functions on one
// machine can not have the same port, and there is no collector unless somebody runs one.
var observing = []string{
	"METRICS_ADDR", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
	"OTEL_RESOURCE_ATTRIBUTES", "OTEL_BSP_SCHEDULE_DELAY",
}

// resolver turns what a manifest says of a container's environment into that of a process.
type resolver struct {
	// configMaps and secrets are by name and key. A secret's empty value means that with the present choice of stores
	// there is none: the variable stays unset.
	configMaps map[string]map[string]string
	secrets    map[string]map[string]string
	// mounts is the directory under which volumes become directories.
	mounts string
	// inside are the addresses of the functions for one another, by name, without a path.
	inside map[string]string
	// lookup reads the developer's environment.
	lookup func(name string) (string, bool)
}

// environment returns the variables of the process that stands for pod's container, after laying out its volumes. name
// is the function's.
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
			set(from.Prefix+key, found[key])
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

// rewrite puts the address that a function has here in the place of the one that it has in a cluster.
func (r resolver) rewrite(value string) (string, error) {
	match := clusterURL.FindStringSubmatch(value)
	if match == nil {
		return value, nil
	}
	address, ok := r.inside[match[1]]
	if !ok {
		return "", fmt.Errorf("%s is the address of a function that is not there", value)
	}
	return address + match[2], nil
}

// clusterURL is the address of a function inside of a cluster, with or without a path.
var clusterURL = regexp.MustCompile(`^http://([a-z0-9-]+)\.strongroom\.svc(?:\.cluster\.local)?((?:/.*)?)$`)

// value returns what a variable is set to; false if it stays unset.
func (r resolver) value(v variable) (string, bool, error) {
	switch {
	case v.ValueFrom == nil:
		if strings.Contains(v.Value, "$(") {
			return "", false, errors.New("make run does not expand $(…)")
		}
		return v.Value, true, nil
	case v.ValueFrom.ConfigMapKeyRef != nil:
		return find("ConfigMap", r.configMaps, *v.ValueFrom.ConfigMapKeyRef)
	case v.ValueFrom.SecretKeyRef != nil:
		value, ok, err := find("Secret", r.secrets, *v.ValueFrom.SecretKeyRef)
		return value, ok && value != "", err
	default:
		return "", false, errors.New("valueFrom names neither a ConfigMap nor a Secret")
	}
}

// find returns a key of a ConfigMap or Secret; false for an optional one that is not there.
func find(kind string, all map[string]map[string]string, ref keyRef) (string, bool, error) {
	value, ok := all[ref.Name][ref.Key]
	if !ok && !ref.Optional {
		return "", false, fmt.Errorf("there is no key %s in the %s %s", ref.Key, kind, ref.Name)
	}
	return value, ok, nil
}

// all returns the keys and values that an envFrom entry names.
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
		return nil, errors.New("it names neither a ConfigMap nor a Secret")
	}
	found, ok := in[ref.Name]
	if !ok && !ref.Optional {
		return nil, fmt.Errorf("there is no %s %s", kind, ref.Name)
	}
	return found, nil
}

// mount fills dir with what the volume holds.
func (r resolver) mount(dir, name string, volumes []volume) error {
	i := slices.IndexFunc(volumes, func(v volume) bool { return v.Name == name })
	if i < 0 {
		return errors.New("it is mounted but not declared")
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
			return fmt.Errorf("there is no Secret %s", v.Secret.SecretName)
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
				return fmt.Errorf("there is no key %s in the Secret %s", item.Key, v.Secret.SecretName)
			}
			if !filepath.IsLocal(item.Path) {
				return fmt.Errorf("path %q leads out of the volume", item.Path)
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
		return errors.New("make run knows secret and emptyDir volumes only")
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
