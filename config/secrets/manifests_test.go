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
	"sigs.k8s.io/yaml"
)

// manifests calls visit with every object of config/ and knative/.
func manifests(t *testing.T, visit func(path string, object map[string]any)) {
	t.Helper()
	objects := 0
	for _, dir := range []string{"..", "../../knative"} {
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
		t.Fatalf("found only %d objects", objects)
	}
}

// walk calls visit with every mapping inside of v, and the name it stands under.
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
			used[name] = true
			keys, made := want[name]
			if !made {
				t.Errorf("%s: there is no Secret %q", path, name)
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
		t.Errorf("manifests use %v, but %v are made", got, want)
	}
}

func TestFilesComeFromKeysOfTheirSecret(t *testing.T) {
	manifests(t, func(path string, object map[string]any) {
		mounts := map[string]string{} // path of a mounted Secret → its name
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
				t.Errorf("%s: %s=%s is no key of a Secret that is mounted there", path, variable, value)
			}
		})
	})
}

// The Job may read exactly what it makes.
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
			case slices.Equal(verbs, []any{"get"}):
				names := []any{}
				for _, name := range slices.Sorted(maps.Keys(want)) {
					names = append(names, name)
				}
				if diff := cmp.Diff(names, rule["resourceNames"]); diff != "" {
					t.Errorf("Secrets that may be read (-want +got):\n%s", diff)
				}
			default:
				t.Errorf("the Role permits %v", verbs)
			}
		}
	})
	if !found {
		t.Error("there is no Role")
	}
}
