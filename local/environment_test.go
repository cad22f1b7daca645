package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestEnvironment(t *testing.T) {
	mounts := t.TempDir()
	r := resolver{
		configMaps: map[string]map[string]string{"settings": {"LEVEL": "info", "SIZE": "1GiB"}},
		secrets: map[string]map[string]string{
			"mysql": {"dsn": "user:pw@tcp(db)/x", "admin": ""}, "keys": {"jwks.json": "{}", "old.json": "[]"},
		},
		mounts: mounts,
		inside: map[string]string{"login": "http://127.0.0.1:4711"},
		lookup: func(name string) (string, bool) {
			value, ok := map[string]string{"PATH": "/bin", "HOME": "/home/dev", "AWS_SECRET": "x", "LEVEL": "debug", "METRICS_ADDR": "127.0.0.1:0"}[name]
			return value, ok
		},
	}
	const base = "PATH=/bin HOME=/home/dev METRICS_ADDR=127.0.0.1:0"
	tests := []struct {
		name, pod string
		want      string // the environment
		err       string // part of the error; if it is empty, no error is expected
	}{
		{"no variables", "{}", base, ""},
		{"literal", "{env: [{name: A, value: x}, {name: B}]}", base + " A=x B=", ""},
		{"ConfigMap key", "{env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: LEVEL}}}]}", base + " A=info", ""},
		{"variable that the developer sets", "{env: [{name: METRICS_ADDR, value: ':9464'}, {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: x}]}", base, ""},
		{"ConfigMap", "{envFrom: [{configMapRef: {name: settings}}]}", base + " LEVEL=info SIZE=1GiB", ""},
		{"env overrides envFrom", "{envFrom: [{configMapRef: {name: settings}}], env: [{name: LEVEL, value: warn}]}", base + " LEVEL=warn SIZE=1GiB", ""},
		{"Secret key", "{env: [{name: A, value: /mysql/dsn}], volumeMounts: [{name: mysql, mountPath: /mysql, readOnly: true}]}",
			base + " A=" + mounts + "/f/mysql/dsn", ""},
		{"Secret with an empty value", "{env: [{name: A, value: /mysql/admin}], volumeMounts: [{name: mysql, mountPath: /mysql, readOnly: true}]}", base, ""},
		{"missing key", "{volumeMounts: [{name: typo, mountPath: /mysql}]}", "", `mount volume typo: the Secret "mysql" has no key dns`},
		{"mounted Secret", "{env: [{name: FILE, value: /keys/jwks.json}, {name: DIR, value: /keys}, {name: OTHER, value: /keys2/x}], " +
			"volumeMounts: [{name: v, mountPath: /keys, readOnly: true}]}",
			base + " FILE=" + mounts + "/f/v/jwks.json DIR=" + mounts + "/f/v OTHER=/keys2/x", ""},
		{"address of a function", "{env: [{name: A, value: 'http://login.strongroom.svc.cluster.local'}, {name: B, value: 'http://login.strongroom.svc/x'}]}",
			base + " A=http://127.0.0.1:4711 B=http://127.0.0.1:4711/x", ""},
		{"address of a store", "{env: [{name: A, value: 'http://login.strongroom.svc:15672'}]}", base + " A=http://login.strongroom.svc:15672", ""},
		{"unknown function", "{env: [{name: A, value: 'http://none.strongroom.svc.cluster.local'}]}", "", "f: A: http://none.strongroom.svc.cluster.local is the address of a function that does not exist"},
		{"missing ConfigMap key", "{env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: NONE}}}]}", "", "f: A: ConfigMap settings has no key NONE"},
		{"missing ConfigMap", "{envFrom: [{configMapRef: {name: none}}]}", "", "f: envFrom: ConfigMap \"none\" does not exist"},
		{"expansion", "{env: [{name: A, value: $(B)}]}", "", "does not expand"},
		{"empty valueFrom", "{env: [{name: A, valueFrom: {}}]}", "", "valueFrom has no configMapKeyRef"},
		{"undeclared volume", "{volumeMounts: [{name: none, mountPath: /x}]}", "", "mount volume none: the pod mounts the volume but does not declare it"},
		{"volume of a missing Secret", "{volumeMounts: [{name: lost, mountPath: /x}]}", "", "the Secret \"lost\" does not exist"},
		{"volume without a Secret", "{volumeMounts: [{name: other, mountPath: /x}]}", "", "the Secret \"\" does not exist"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pod := podSpec{Containers: make([]container, 1)}
			if err := yaml.UnmarshalStrict([]byte(test.pod), &pod.Containers[0]); err != nil {
				t.Fatal(err)
			}
			volumes := `[{name: v, secret: {secretName: keys}}, {name: lost, secret: {secretName: lost}}, {name: other},
				{name: mysql, secret: {secretName: mysql, items: [{key: dsn, path: dsn}, {key: admin, path: admin}]}},
				{name: typo, secret: {secretName: mysql, items: [{key: dns, path: dsn}]}}]`
			if err := yaml.UnmarshalStrict([]byte(volumes), &pod.Volumes); err != nil {
				t.Fatal(err)
			}
			got, err := r.environment("f", pod)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got %v, want an error with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	mounts := t.TempDir()
	r := resolver{
		secrets: map[string]map[string]string{"keys": {"a": "1", "b": "2"}}, mounts: mounts, lookup: os.LookupEnv,
	}
	var pod podSpec
	text := `{containers: [{volumeMounts: [{name: all, mountPath: /all}, {name: one, mountPath: /one}]}],
		volumes: [{name: all, secret: {secretName: keys}}, {name: one, secret: {secretName: keys, items: [{key: b, path: c}]}}]}`
	if err := yaml.UnmarshalStrict([]byte(text), &pod); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second call must replace the files of the first
		if _, err := r.environment("f", pod); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := filepath.WalkDir(mounts, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 && path != mounts {
			t.Errorf("%s: got mode %s, want access only for the owner", path, info.Mode())
		}
		if !entry.IsDir() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			got = append(got, strings.TrimPrefix(path, mounts)+"="+string(content))
		}
		return nil
	})
	if want := []string{"/f/all/a=1", "/f/all/b=2", "/f/one/c=2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestProcessGetsNothingElse(t *testing.T) {
	t.Setenv("MYSQL_DSN_FILE", "the developer's own")
	f, _ := play(t, "f", "function", nil)
	var names []string
	for _, variable := range get(t, front(t, f)).Environment {
		name, _, _ := strings.Cut(variable, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"HOST", "K_CONFIGURATION", "K_REVISION", "K_SERVICE", "PLAY", "PORT", "TRUSTED_HOPS"}; !slices.Equal(names, want) {
		t.Errorf("got the variables %v, want %v", names, want)
	}
}
