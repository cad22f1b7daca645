package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOwnManifests checks that the runner supports all manifests of the repository and can resolve their environments.
func TestOwnManifests(t *testing.T) {
	m, err := readManifests("..")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range m.services {
		names[s.Metadata.Name] = true
	}
	for _, name := range []string{"login", "validate", "upload", "record", "files"} {
		if !names[name] {
			t.Errorf("the function %s is missing", name)
		}
	}
	for _, name := range append(slices.Collect(mapKeys(names)), "setup") {
		if !slices.ContainsFunc(m.packages(), func(pkg string) bool { return strings.HasSuffix(pkg, "/functions/"+name) }) {
			t.Errorf("functions/%s is not among the programs to build: %v", name, m.packages())
		}
	}
	if len(m.sources) != 1 || m.sources[0].Spec.Sink.Ref.Name != "record" || m.sources[0].Spec.RabbitmqResourcesConfig.QueueName == "" {
		t.Errorf("got the sources %+v, want one source with a queue and the sink record", m.sources)
	}
	kept, err := keepSecrets(filepath.Join(t.TempDir(), "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	r := resolver{
		configMaps: m.configMaps, secrets: kept.kubernetes(endpoints{mysql: "a", mongodb: "b", events: "c"}),
		mounts: t.TempDir(), inside: map[string]string{}, lookup: os.LookupEnv,
	}
	for _, s := range m.services {
		r.inside[s.Metadata.Name] = "http://127.0.0.1:1"
	}
	if _, err := newFunctions(m, r, "bin", 0, &output{}); err != nil {
		t.Error(err)
	}
	setup, err := r.environment("setup", m.setup)
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range setup {
		if strings.HasPrefix(variable, "MYSQL_ADMIN_DSN_FILE=") {
			t.Errorf("got %s, want it unset without an administrator's address", variable)
		}
	}
}

func mapKeys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

const (
	someService = `
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: f}
spec: {template: {spec: {containers: [{image: "ko://example.org/functions/f"}]}}}
`
	someJob = `
apiVersion: batch/v1
kind: Job
metadata: {name: setup}
spec: {template: {spec: {containers: [{image: "ko://example.org/functions/setup"}]}}}
`
	somePing = `---
apiVersion: sources.knative.dev/v1
kind: PingSource
metadata: {name: timer}
spec: {schedule: "X", sink: {ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: f}}}
`
)

func TestManifestsAreReadStrictly(t *testing.T) {
	tests := []struct {
		name, config, knative, want string
	}{
		{"valid manifests", "# A comment.\n---" + someJob + "---\n", "---\n" + someService, ""},
		{"unknown field", someJob, strings.Replace(someService, "image:", "imagge: x, image:", 1), `unknown field "imagge"`},
		{"duplicate field", someJob, strings.Replace(someService, "image:", "image: x, image:", 1), "already set"},
		{"unknown kind", someJob, someService + "---\napiVersion: v1\nkind: Pod\n", `knative/f.yaml: "make run" does not support v1 Pod`},
		{"no kind", someJob + "---\nname: x\n", someService, "a YAML document has no kind"},
		{"invalid YAML", someJob, "{", "knative/f.yaml"},
		{"image without a ko:// import path", someJob, strings.Replace(someService, "ko://", "registry.example.com/", 1), "is not a ko:// import path"},
		{"two containers", someJob, strings.Replace(someService, "[{image", "[{image: x}, {image", 1), "the pod has 2 containers"},
		{"another Job", strings.Replace(someJob, "name: setup", "name: other", 1), someService, "supports only the Job setup, not other"},
		{"no Job", "# none\n", someService, "no Job named setup"},
		{"no Service", someJob, "# none\n", "knative/ contains no Service"},
		{"two sources", someJob, someService + strings.Repeat("---\napiVersion: sources.knative.dev/v1alpha1\nkind: RabbitmqSource\n", 2), ""},
		{"kind that exists only in clusters", someJob, someService + "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n", ""},
		{"PingSource", someJob, someService + strings.Replace(somePing, "X", "*/5 * * * *", 1), ""},
		{"unsupported schedule", someJob, someService + strings.Replace(somePing, "X", "@hourly", 1), `knative/f.yaml: timer: "make run" supports only schedules such as`},
		{"unknown field of a ConfigMap", someJob, someService + "---\napiVersion: v1\nkind: ConfigMap\ndatta: {}\n", `unknown field "datta"`},
		{"unknown field of the Job", strings.Replace(someJob, "image:", "imagge: x, image:", 1), someService, `unknown field "imagge"`},
		{"Job with two containers", strings.Replace(someJob, "[{image", "[{image: x}, {image", 1), someService, "setup: the pod has 2 containers"},
		{
			"unknown field of a source", someJob, someService + "---\napiVersion: sources.knative.dev/v1alpha1\nkind: RabbitmqSource\nspecs: {}\n",
			`unknown field "specs"`,
		},
		{"PingSource with data", someJob, someService + strings.Replace(somePing, "schedule:", "data: x, schedule:", 1), `unknown field "data"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for dir, text := range map[string]string{"config": test.config, "knative": test.knative} {
				if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, dir, "f.yaml"), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_, err := readManifests(root)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if _, err := readManifests(t.TempDir()); err == nil || !strings.Contains(err.Error(), "root directory") {
		t.Errorf("in an empty directory: got %v, want an error that names the right directory", err)
	}
}
