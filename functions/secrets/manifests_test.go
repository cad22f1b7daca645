package main

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// manifests calls visit for every object in the manifests of config/ and knative/.
func manifests(t *testing.T, visit func(path string, object map[string]any)) {
	t.Helper()
	objects := 0
	for _, dir := range []string{"../../config", "../../knative"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, document := range bytes.Split(content, []byte("\n---\n")) {
				var object map[string]any
				if err := yaml.Unmarshal(document, &object); err != nil {
					return err
				}
				visit(path, object)
				objects++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if objects < 10 {
		t.Fatalf("got %d objects, want at least 10", objects)
	}
}

// walk calls visit for every mapping in v, with the key under which the mapping is nested.
func walk(name string, v any, visit func(name string, m map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(name, v)
		for key, value := range v {
			walk(key, value, visit)
		}
	case []any:
		for _, value := range v {
			walk(name, value, visit)
		}
	}
}

func TestManifestsNameSecretsThatAreMade(t *testing.T) {
	used := map[string]bool{}
	manifests(t, func(path string, object map[string]any) {
		check := func(secret, key any) {
			name, _ := secret.(string)
			if name == "stores-ca" { // only an operator creates this Secret, for stores of their own
				return
			}
			used[name] = true
			keys, made := want[name]
			if !made {
				t.Errorf("%s: Secret %q is never created", path, name)
			} else if key != nil && !slices.Contains(keys, key.(string)) {
				t.Errorf("%s: Secret %q has no key %q", path, name, key)
			}
		}
		walk("", object, func(name string, m map[string]any) {
			switch name {
			case "secretKeyRef":
				check(m["name"], m["key"])
			case "connectionSecret":
				for _, key := range []string{"username", "password", "uri", "port"} {
					check(m["name"], key)
				}
			case "secret":
				check(m["secretName"], nil)
				items, _ := m["items"].([]any)
				for _, item := range items {
					check(m["secretName"], item.(map[string]any)["key"])
				}
			}
		})
	})
	if got, want := slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(want)); !slices.Equal(got, want) {
		t.Errorf("the manifests use the Secrets %v, want %v", got, want)
	}
}

func TestFilesComeFromKeysOfTheirSecret(t *testing.T) {
	manifests(t, func(path string, object map[string]any) {
		mounts := map[string]string{} // names of mounted Secrets, by mount path
		volumes := map[any]string{}
		walk("", object, func(name string, m map[string]any) {
			if secret, ok := m["secret"].(map[string]any); ok && name == "volumes" {
				volumes[m["name"]] = secret["secretName"].(string)
			}
		})
		walk("", object, func(name string, m map[string]any) {
			if secret := volumes[m["name"]]; name == "volumeMounts" && secret != "" {
				mounts[m["mountPath"].(string)] = secret
			}
		})
		walk("", object, func(name string, m map[string]any) {
			variable, _ := m["name"].(string)
			value, literal := m["value"].(string)
			if name != "env" || !literal || !strings.HasSuffix(variable, "_FILE") {
				return
			}
			secret := mounts[filepath.Dir(value)]
			if !slices.Contains(want[secret], filepath.Base(value)) {
				t.Errorf("%s: %s=%s is not the path of a key in a mounted Secret", path, variable, value)
			}
		})
	})
}

// The Role of the secrets Job allows the Job to create Secrets, to read the Secrets that it creates, and to change the
// definitions. It allows nothing else.
func TestRoleNamesTheSecrets(t *testing.T) {
	found := false
	manifests(t, func(_ string, object map[string]any) {
		if object["kind"] != "Role" {
			return
		}
		found = true
		for _, rule := range object["rules"].([]any) {
			rule := rule.(map[string]any)
			if diff := cmp.Diff([]any{"secrets"}, rule["resources"]); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
			switch verbs := rule["verbs"].([]any); {
			case slices.Equal(verbs, []any{"create"}):
			case slices.Equal(verbs, []any{"patch"}):
				if diff := cmp.Diff([]any{"rabbitmq-definitions"}, rule["resourceNames"]); diff != "" {
					t.Errorf("Secrets that the Job can change (-want +got):\n%s", diff)
				}
			case slices.Equal(verbs, []any{"get"}):
				names := []any{}
				for _, name := range slices.Sorted(maps.Keys(want)) {
					names = append(names, name)
				}
				if diff := cmp.Diff(names, rule["resourceNames"]); diff != "" {
					t.Errorf("Secrets that the Job can read (-want +got):\n%s", diff)
				}
			default:
				t.Errorf("the Role allows %v, want only create, patch or get", verbs)
			}
		}
	})
	if !found {
		t.Error("the manifests contain no Role")
	}
}

// The Job rotate-keys equals the secrets Job, except for its arguments, its image and its rights. The rights exist only while a step
// runs.
func TestRotationManifest(t *testing.T) {
	const path = "../../deploy/rotate-keys.yaml.tmpl"
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// deploy/rotate-keys replaces these words.
	for _, word := range []string{"[rotate, STEP]", "image: IMAGE\n"} {
		if got := bytes.Count(content, []byte(word)); got != 1 {
			t.Errorf("%s: got %d occurrences of %q, want 1", path, got, word)
		}
	}
	decode := func(documents []byte) (accounts []corev1.ServiceAccount, roles []rbacv1.Role, bindings []rbacv1.RoleBinding, jobs []batchv1.Job) {
		for _, document := range bytes.Split(documents, []byte("\n---\n")) {
			var kind struct{ Kind string }
			if err := yaml.Unmarshal(document, &kind); err != nil {
				t.Fatal(err)
			}
			var err error
			switch kind.Kind {
			case "ServiceAccount":
				accounts = append(accounts, corev1.ServiceAccount{})
				err = yaml.UnmarshalStrict(document, &accounts[len(accounts)-1])
			case "Role":
				roles = append(roles, rbacv1.Role{})
				err = yaml.UnmarshalStrict(document, &roles[len(roles)-1])
			case "RoleBinding":
				bindings = append(bindings, rbacv1.RoleBinding{})
				err = yaml.UnmarshalStrict(document, &bindings[len(bindings)-1])
			case "Job":
				jobs = append(jobs, batchv1.Job{})
				err = yaml.UnmarshalStrict(document, &jobs[len(jobs)-1])
			default:
				t.Fatalf("unexpected object of kind %q", kind.Kind)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return accounts, roles, bindings, jobs
	}
	accounts, roles, bindings, jobs := decode(content)
	if len(accounts) != 1 || len(roles) != 1 || len(bindings) != 1 || len(jobs) != 1 {
		t.Fatalf("got %d ServiceAccounts, %d Roles, %d RoleBindings and %d Jobs, want one of each", len(accounts), len(roles), len(bindings), len(jobs))
	}
	if diff := cmp.Diff([]rbacv1.PolicyRule{{
		APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "patch"},
		ResourceNames: []string{"token-keys", "token-signing-key"},
	}}, roles[0].Rules); diff != "" {
		t.Errorf("rules of the Role (-want +got):\n%s", diff)
	}
	const name = "rotate-keys"
	if got := []string{accounts[0].Name, roles[0].Name, bindings[0].Name, bindings[0].RoleRef.Name, bindings[0].Subjects[0].Name, jobs[0].Name}; len(slices.Compact(got)) != 1 || got[0] != name {
		t.Errorf("got names %v, want only %s", got, name)
	}

	other, err := os.ReadFile("../../config/200-secrets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, others := decode(other)
	pod, like := jobs[0].Spec.Template.Spec, others[0].Spec.Template.Spec
	if diff := cmp.Diff([]string{"rotate", "STEP"}, pod.Containers[0].Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if pod.ServiceAccountName != name {
		t.Errorf("got ServiceAccount %q, want %q", pod.ServiceAccountName, name)
	}
	pod.Containers[0].Args, pod.Containers[0].Name, pod.Containers[0].Image = nil, like.Containers[0].Name, like.Containers[0].Image
	pod.ServiceAccountName, pod.RestartPolicy = like.ServiceAccountName, like.RestartPolicy
	if diff := cmp.Diff(like, pod); diff != "" {
		t.Errorf("pod specs (-secrets +rotate-keys):\n%s", diff)
	}
}
