package knative_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/yaml"
)

const module = "github.com/strongroom-dev/strongroom"

// pod is a pod in a manifest.
type pod struct {
	path string
	kind string
	name string
	spec corev1.PodSpec
}

// ours reports whether the pod runs a program of this project instead of a store.
func (p pod) ours() bool { return p.kind != "StatefulSet" }

func pods(t *testing.T) []pod {
	t.Helper()
	var found []pod
	for _, o := range all(t) {
		switch typed := o.typed.(type) {
		case *servingv1.Service:
			found = append(found, pod{o.path, "Service", o.Name, typed.Spec.Template.Spec.PodSpec})
		case *batchv1.Job:
			found = append(found, pod{o.path, "Job", o.Name, typed.Spec.Template.Spec})
		case *appsv1.StatefulSet:
			found = append(found, pod{o.path, "StatefulSet", o.Name, typed.Spec.Template.Spec})
		}
	}
	for _, p := range found {
		if len(p.spec.Containers) != 1 {
			t.Fatalf("%s: the pod has %d containers, want 1", p.path, len(p.spec.Containers))
		}
	}
	return found
}

func TestPodsAreConfined(t *testing.T) {
	for _, p := range pods(t) {
		t.Run(p.kind+"/"+p.name, func(t *testing.T) {
			if p.spec.HostNetwork || p.spec.HostPID || p.spec.HostIPC {
				t.Error("the pod shares a namespace with the host")
			}
			// Only the Job secrets uses the Kubernetes API.
			token := p.spec.AutomountServiceAccountToken
			if wants := p.kind == "Job" && p.name == "secrets"; token == nil || *token != wants {
				t.Errorf("automountServiceAccountToken must be %t", wants)
			}
			for _, container := range append(slices.Clone(p.spec.InitContainers), p.spec.Containers...) {
				wantConfined(t, p, container)
			}
			container := p.spec.Containers[0]
			if p.kind == "Service" {
				probe := container.ReadinessProbe
				if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != "/healthz" {
					t.Fatal("the readiness probe must use /healthz")
				}
				if probe.PeriodSeconds != 0 || probe.TimeoutSeconds != 0 || probe.FailureThreshold != 0 {
					t.Error("the probe must not set a period, timeout or failure threshold, which would disable Knative's fast probing")
				}
				if len(container.Ports) != 1 || container.Ports[0].Protocol == "" || probe.HTTPGet.Port != intstr.FromInt32(container.Ports[0].ContainerPort) || probe.SuccessThreshold != 1 {
					t.Error("protocol, probe port and success threshold must be set; otherwise, kubectl reports a change for each apply")
				}
				if container.LivenessProbe != nil || container.StartupProbe != nil {
					t.Error("the container has a liveness or startup probe")
				}
			}
		})
	}
}

// wantConfined checks that a container has no unnecessary privileges and that its resources are limited.
func wantConfined(t *testing.T, p pod, container corev1.Container) {
	t.Helper()
	s := container.SecurityContext
	if s == nil || s.Capabilities == nil || s.AllowPrivilegeEscalation == nil || s.SeccompProfile == nil {
		t.Fatal("the security context is incomplete")
	}
	if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("the container drops the capabilities %v, want ALL", s.Capabilities.Drop)
	}
	if *s.AllowPrivilegeEscalation {
		t.Error("allowPrivilegeEscalation must be false")
	}
	if s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("seccomp profile: got %s, want %s", s.SeccompProfile.Type, corev1.SeccompProfileTypeRuntimeDefault)
	}
	if s.Privileged != nil && *s.Privileged {
		t.Error("the container is privileged")
	}
	if p.ours() {
		if s.RunAsNonRoot == nil || !*s.RunAsNonRoot {
			t.Error("runAsNonRoot must be true")
		}
		if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Error("readOnlyRootFilesystem must be true")
		}
		if len(s.Capabilities.Add) != 0 {
			t.Errorf("the container adds the capabilities %v, want none", s.Capabilities.Add)
		}
	}
	for _, list := range []corev1.ResourceList{container.Resources.Requests, container.Resources.Limits} {
		if list.Cpu().IsZero() || list.Memory().IsZero() {
			t.Error("requests and limits of CPU and memory must be set")
		}
	}
}

func TestJobsEnd(t *testing.T) {
	for _, o := range all(t) {
		job, ok := o.typed.(*batchv1.Job)
		if !ok {
			continue
		}
		if job.Spec.ActiveDeadlineSeconds == nil || job.Spec.BackoffLimit == nil {
			t.Errorf("%s: activeDeadlineSeconds and backoffLimit must be set", job.Name)
		}
		if job.Spec.TTLSecondsAfterFinished != nil {
			t.Errorf("%s: ttlSecondsAfterFinished must not be set, because GitOps would create a Job that disappears again and again", job.Name)
		}
	}
}

// TestPodsTrustTheCAOfTheStores checks that each pod that connects to a store mounts the optional Secret stores-ca in the
// folder whose certificates Go trusts.
func TestPodsTrustTheCAOfTheStores(t *testing.T) {
	var got []string
	for _, p := range pods(t) {
		container, trusted := p.spec.Containers[0], ""
		for _, variable := range container.Env {
			if variable.Name == "SSL_CERT_DIR" {
				trusted = variable.Value
			}
		}
		for _, mount := range container.VolumeMounts {
			for _, volume := range p.spec.Volumes {
				if secret := volume.Secret; mount.Name == volume.Name && mount.MountPath == trusted && secret != nil &&
					secret.SecretName == "stores-ca" && secret.Optional != nil && *secret.Optional {
					got = append(got, p.name)
				}
			}
		}
	}
	slices.Sort(got)
	// validate connects to MySQL if an operator sets its MYSQL_DSN_FILE.
	want := []string{"accounts", "files", "login", "record", "setup", "sweep", "upload", "validate"}
	if !slices.Equal(got, want) {
		t.Errorf("pods that trust the certificates in stores-ca: got %v, want %v", got, want)
	}
}

// secretive matches the names of variables whose values can contain a secret.
var secretive = regexp.MustCompile(`PASSWORD|TOKEN|SECRET|DSN|URI|URL|KEY`)

// clusterURL matches the URL of a function inside the cluster.
var clusterURL = regexp.MustCompile(`^http://([a-z]+)\.strongroom\.svc\.cluster\.local$`)

// TestAddressesOfFunctionsAreRight checks that each function URL in an environment variable names an existing
// function, and that the variable is called NAME_URL.
func TestAddressesOfFunctionsAreRight(t *testing.T) {
	all, found := services(t), 0
	for _, p := range pods(t) {
		for _, variable := range p.spec.Containers[0].Env {
			match := clusterURL.FindStringSubmatch(variable.Value)
			if match == nil {
				continue
			}
			found++
			if all[match[1]] == nil || variable.Name != strings.ToUpper(match[1])+"_URL" {
				t.Errorf("%s: %s is the URL of %s, which does not exist or needs another variable name", p.path, variable.Name, match[1])
			}
		}
	}
	if found < 5 {
		t.Errorf("found %d function URLs, want at least 5, for the functions behind the gateway", found)
	}
}

func TestNoSecretIsPlain(t *testing.T) {
	for _, p := range pods(t) {
		container := p.spec.Containers[0]
		for _, arg := range slices.Concat(container.Command, container.Args) {
			if secretive.MatchString(strings.ToUpper(arg)) {
				t.Errorf("%s: the argument %q looks like a secret", p.path, arg)
			}
		}
		for _, variable := range container.Env {
			if !secretive.MatchString(variable.Name) {
				continue
			}
			isFile := strings.HasSuffix(variable.Name, "_FILE") && strings.HasPrefix(variable.Value, "/")
			// The URL of a function in the cluster contains no password.
			isFunction := clusterURL.MatchString(variable.Value)
			if variable.Value != "" && !isFile && !isFunction {
				t.Errorf("%s: %s has a plain-text value", p.path, variable.Name)
			}
		}
	}
}

// TestNoSecretIsInTheEnvironment checks that no manifest copies a Secret into the environment of a container, where it
// stays readable in /proc/PID/environ.
func TestNoSecretIsInTheEnvironment(t *testing.T) {
	copies := regexp.MustCompile(`\b(secretKeyRef|secretRef)\b`)
	checked := 0
	for _, dir := range []string{"../config", "../knative", "../deploy"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(strings.TrimSuffix(path, ".tmpl"), ".yaml") {
				return err
			}
			content, err := os.ReadFile(path)
			checked++
			if found := copies.Find(content); found != nil {
				t.Errorf("%s contains %s, want a mounted file", path, found)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if checked < 20 {
		t.Errorf("checked %d manifests, want at least 20", checked)
	}
}

// secretFiles maps each setting for a file to a path below /var/run/strongroom: the name of a Secret and its key. POD is
// the name of the pod's object.
var secretFiles = map[string]string{
	"ADMIN_PASSWORD_FILE": "first-admin/password", "ADMIN_USERNAME_FILE": "first-admin/username",
	"EVENTS_ADMIN_URL_FILE": "rabbitmq-setup/url", "EVENTS_URL_FILE": "rabbitmq-POD/url",
	"GATEWAY_KEY_FILE": "gateway-key/key", "LINK_KEY_FILE": "link-key/key", "SIGN_IN_KEY_FILE": "sign-in-key/key",
	"MONGODB_ADMIN_URI_FILE": "mongodb-admin/uri", "MONGODB_URI_FILE": "mongodb/uri",
	"MYSQL_ADMIN_DSN_FILE": "mysql-admin/dsn", "MYSQL_DSN_FILE": "mysql/dsn",
	"TOKEN_KEYS_FILE": "token-keys/jwks.json", "TOKEN_SIGNING_KEY_FILE": "token-signing-key/key.jwk", "SSL_CERT_DIR": "stores-ca",
}

// TestPodsGetOnlyTheirSecrets checks that each program gets exactly the keys of Secrets that its settings name, as files
// that it cannot change. The setting SSL_CERT_DIR names the folder of all certificates in stores-ca.
func TestPodsGetOnlyTheirSecrets(t *testing.T) {
	checked := 0
	for name, template := range templates(t) {
		spec := template.Spec
		if len(spec.Containers) == 0 || !strings.HasPrefix(spec.Containers[0].Image, "ko://") {
			continue // a store, or a Job that copies the pod of another Job
		}
		checked++
		t.Run(name, func(t *testing.T) {
			container := spec.Containers[0]
			want := map[string]bool{} // the paths in the settings
			for _, variable := range container.Env {
				if strings.HasSuffix(variable.Name, "_FILE") || variable.Name == "SSL_CERT_DIR" {
					want[variable.Value] = true
					path, known := secretFiles[variable.Name]
					if path = "/var/run/strongroom/" + strings.ReplaceAll(path, "POD", name); !known || variable.Value != path {
						t.Errorf("got %s=%s, want %s", variable.Name, variable.Value, path)
					}
				}
			}
			got := map[string]bool{} // the paths of the mounted keys
			mounted := map[string]bool{}
			for _, mount := range container.VolumeMounts {
				i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
				if i < 0 {
					t.Fatalf("the volume %s does not exist", mount.Name)
				}
				mounted[mount.Name] = true
				secret := spec.Volumes[i].Secret
				if secret == nil {
					continue
				}
				// The path of the mount shows the Secret, so that a setting with the path of another Secret is visible.
				if !mount.ReadOnly || mount.MountPath != "/var/run/strongroom/"+secret.SecretName || mount.SubPath != "" {
					t.Errorf("got the mount %v, want %s at /var/run/strongroom/%[2]s, read-only", mount, secret.SecretName)
				}
				if secret.SecretName == "stores-ca" {
					got[mount.MountPath] = true
				} else if len(secret.Items) == 0 {
					t.Errorf("the volume %s contains all keys of its Secret, want items", mount.Name)
				}
				for _, item := range secret.Items {
					if item.Key != item.Path {
						t.Errorf("the key %s of %s has the path %s, want the same name", item.Key, secret.SecretName, item.Path)
					}
					got[mount.MountPath+"/"+item.Path] = true
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files of Secrets (-settings +mounts):\n%s", diff)
			}
			for _, volume := range spec.Volumes {
				if !mounted[volume.Name] {
					t.Errorf("no container mounts the volume %s", volume.Name)
				}
			}
		})
	}
	if checked != 11 {
		t.Errorf("checked %d pods, want 11: the functions, the Jobs secrets and setup, and backup", checked)
	}
}

// TestExternalStoresNeedNoAdministrators checks that setup starts without exactly those Secrets that it can do without,
// if the stores are external.
func TestExternalStoresNeedNoAdministrators(t *testing.T) {
	var overlay struct {
		Patches []struct{ Patch string }
	}
	content, err := os.ReadFile("../deploy/overlays/stores-external/kustomization.yaml")
	if err == nil {
		err = yaml.Unmarshal(content, &overlay)
	}
	program, failed := os.ReadFile("../functions/setup/main.go")
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, patch := range overlay.Patches {
		var job batchv1.Job
		if yaml.Unmarshal([]byte(patch.Patch), &job) != nil || job.Name != "setup" {
			continue // a patch of another object
		}
		for _, volume := range job.Spec.Template.Spec.Volumes {
			if volume.Secret.Optional != nil && *volume.Secret.Optional {
				got = append(got, volume.Name)
			}
		}
	}
	for _, field := range regexp.MustCompile(`function\.OptionalSecret `+"`"+`env:"(\w+)`).FindAllSubmatch(program, -1) {
		for _, variable := range templates(t)["setup"].Spec.Containers[0].Env {
			if variable.Name == string(field[1]) {
				want = append(want, filepath.Base(filepath.Dir(variable.Value)))
			}
		}
	}
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("optional Secrets of setup: got %v, want %v", got, want)
	}
}

// configMaps returns the data of the ConfigMaps, by name.
func configMaps(t *testing.T) map[string]map[string]string {
	t.Helper()
	data := map[string]map[string]string{}
	for _, o := range all(t) {
		if m, ok := o.typed.(*corev1.ConfigMap); ok {
			data[m.Name] = m.Data
		}
	}
	return data
}

// TestConfigMapKeysExist checks that each ConfigMap key that a manifest refers to exists.
func TestConfigMapKeysExist(t *testing.T) {
	keys := configMaps(t)
	for _, p := range pods(t) {
		for _, variable := range p.spec.Containers[0].Env {
			if variable.ValueFrom == nil || variable.ValueFrom.ConfigMapKeyRef == nil {
				continue
			}
			ref := variable.ValueFrom.ConfigMapKeyRef
			if _, found := keys[ref.Name][ref.Key]; !found {
				t.Errorf("%s: ConfigMap %s has no key %s", p.path, ref.Name, ref.Key)
			}
		}
	}
}

// folders returns the names of the folders in functions/. Each folder is a function.
func folders(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("../functions")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}

func TestEveryFunctionHasAManifestAndTheReverse(t *testing.T) {
	var images []string
	for _, p := range pods(t) {
		if !p.ours() {
			continue
		}
		folder, isGo := strings.CutPrefix(p.spec.Containers[0].Image, "ko://"+module+"/")
		if !isGo {
			t.Errorf("%s: image %s is not built from this module", p.path, p.spec.Containers[0].Image)
			continue
		}
		if filepath.Base(folder) != p.name {
			t.Errorf("%s: the object %s runs %s, want a program with the same name", p.path, p.name, folder)
		}
		images = append(images, strings.TrimPrefix(folder, "functions/"))
	}
	slices.Sort(images)
	if got := folders(t); !slices.Equal(got, images) {
		t.Errorf("the folders are %v, but the manifests run %v", got, images)
	}
}

// setting is a field of the struct that has a program's settings.
type setting struct{ required bool }

// settings returns the settings of the program in a folder, by variable name. It reads the `env` tags of struct fields.
// A program can embed a struct of settings from a shared package. If only is not empty, settings reads only the struct
// with that name.
func settings(t *testing.T, folder, only string) map[string]setting {
	t.Helper()
	found := map[string]setting{}
	inspect(t, folder, func(node ast.Node) bool {
		if spec, ok := node.(*ast.TypeSpec); ok && only != "" && spec.Name.Name != only {
			return false
		}
		field, ok := node.(*ast.Field)
		if !ok {
			return true
		}
		if embedded, ok := field.Type.(*ast.SelectorExpr); ok && len(field.Names) == 0 && strings.HasSuffix(embedded.Sel.Name, "Settings") {
			maps.Copy(found, settings(t, "../shared/"+embedded.X.(*ast.Ident).Name, embedded.Sel.Name))
		}
		if field.Tag == nil {
			return true
		}
		tag, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			t.Fatalf("%s: %v", folder, err)
		}
		if value, isSetting := reflect.StructTag(tag).Lookup("env"); isSetting {
			name, options, _ := strings.Cut(value, ",")
			found[name] = setting{required: slices.Contains(strings.Split(options, ","), "required")}
		}
		return true
	})
	return found
}

// inspect calls visit for each node of the program in a folder, without its tests. If visit returns false, inspect
// skips the children of the node.
func inspect(t *testing.T, folder string, visit func(ast.Node) bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, visit)
	}
}

func TestManifestsSetWhatTheProgramsKnow(t *testing.T) {
	common := settings(t, "../shared/function", "")
	if len(common) == 0 {
		t.Fatal("shared/function has no settings")
	}
	setByKubernetes := []string{"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"}
	readByGo := []string{"GOMEMLIMIT", "SSL_CERT_DIR"}
	shared := configMaps(t)["strongroom"]
	unread := maps.Clone(shared)
	for _, p := range pods(t) {
		if !p.ours() {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			container := p.spec.Containers[0]
			own := settings(t, "../"+strings.TrimPrefix(container.Image, "ko://"+module+"/"), "")
			set := map[string]bool{}
			for _, from := range container.EnvFrom {
				if from.ConfigMapRef == nil || from.ConfigMapRef.Name != "strongroom" || from.Prefix != "" {
					t.Errorf("got envFrom %v, want the ConfigMap strongroom", from)
				}
				for name := range shared {
					set[name] = true
				}
			}
			for name := range own {
				delete(unread, name)
			}
			for name := range common {
				delete(unread, name)
			}
			for _, variable := range container.Env {
				set[variable.Name] = true
				_, isOwn := own[variable.Name]
				_, isCommon := common[variable.Name]
				if !isOwn && !isCommon && !slices.Contains(readByGo, variable.Name) {
					t.Errorf("the manifest sets %s, which the program does not read", variable.Name)
				}
			}
			for name, setting := range own {
				if setting.required && !set[name] && !slices.Contains(setByKubernetes, name) {
					t.Errorf("the manifest does not set %s, which the program requires", name)
				}
			}
		})
	}
	for name := range unread {
		t.Errorf("the ConfigMap strongroom has the key %s, which no program reads", name)
	}
}

// TestRequestTimeoutIsInStep checks that REQUEST_TIMEOUT is shorter than timeoutSeconds. A function must time out
// before Knative closes the connection, so that the client receives a problem document.
func TestRequestTimeoutIsInStep(t *testing.T) {
	for name, service := range services(t) {
		spec := service.Spec.Template.Spec
		set := false
		for _, variable := range spec.Containers[0].Env {
			if variable.Name != "REQUEST_TIMEOUT" {
				continue
			}
			set = true
			timeout, err := time.ParseDuration(variable.Value)
			if err != nil {
				t.Errorf("%s: REQUEST_TIMEOUT: %v", name, err)
			}
			if limit := time.Duration(*spec.TimeoutSeconds) * time.Second; timeout >= limit || timeout < limit/2 {
				t.Errorf("%s: REQUEST_TIMEOUT is %v, want at least half of timeoutSeconds (%v) and less than timeoutSeconds", name, timeout, limit)
			}
		}
		if !set {
			t.Errorf("%s: REQUEST_TIMEOUT is not set", name)
		}
	}
}

// TestProgramsLinkNoKubernetes checks that only this folder imports Kubernetes packages. Linking these packages would
// make a function three times as large.
func TestProgramsLinkNoKubernetes(t *testing.T) {
	command := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}}", module+"/functions/...")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	packages := strings.Fields(string(output))
	if !slices.Contains(packages, module+"/shared/function") {
		t.Fatal("the output of go list does not contain shared/function")
	}
	for _, path := range packages {
		if strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "knative.dev/") {
			t.Errorf("a program links %s", path)
		}
	}
}
