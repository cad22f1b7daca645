package knative_test

import (
	"fmt"
	"go/ast"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// exactTag matches an image with a full version. A shorter tag can move to a later version, which might not start
// with the data of the previous version.
var exactTag = regexp.MustCompile(`^[a-z]+:[0-9]+\.[0-9]+\.[0-9]+(-management)?(@sha256:[0-9a-f]{64})?$`)

func TestStoresAreExactAndSayWhyTheyEnd(t *testing.T) {
	stores := 0
	for _, p := range pods(t) {
		if p.kind != "StatefulSet" {
			continue
		}
		stores++
		for _, c := range append(slices.Clone(p.spec.InitContainers), p.spec.Containers...) {
			if !exactTag.MatchString(c.Image) {
				t.Errorf("%s: container %s: got the image %s, want an exact version", p.path, c.Name, c.Image)
			}
			if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
				t.Errorf("%s: container %s: got terminationMessagePolicy %q, want %q, so that make deploy can show the last log lines",
					p.path, c.Name, c.TerminationMessagePolicy, corev1.TerminationMessageFallbackToLogsOnError)
			}
		}
	}
	if stores != 3 {
		t.Errorf("found %d stores, want 3", stores)
	}
}

// opened lists the functions that connect to a store, and the maximum number of connections that each of them opens.
var opened = map[string]map[string]int{
	"MONGODB_URI_FILE": {"content.Open": mongodb.MaxConns, "mongodb.Open": mongodb.MaxConns},
	// Provision connects as the administrator and as the runtime user.
	"MYSQL_DSN_FILE": {
		"accounts.Open": accounts.MaxConns, "accounts.Migrate": accounts.MaxConns, "accounts.Provision": 2 * accounts.MaxConns,
	},
	// A publisher has one connection. The other functions connect for one operation.
	"EVENTS_URL_FILE":       {"events.NewPublisher": 1, "events.QueueDepths": 1},
	"EVENTS_ADMIN_URL_FILE": {"events.DeclareTopology": 1, "events.Redrive": 1},
}

// connections returns the maximum number of connections that one pod of the program in a folder opens to the store in
// the given setting.
func connections(t *testing.T, folder, setting string) (n int) {
	t.Helper()
	inspect(t, folder, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			if from, ok := selector.X.(*ast.Ident); ok {
				n += opened[setting][from.Name+"."+selector.Sel.Name]
			}
		}
		return true
	})
	return n
}

// TestConnectionsFitTheStores adds up the connections of all pods, and compares the sums with the limits of the stores.
// During an upgrade, the pods of two revisions can run at the same time.
func TestConnectionsFitTheStores(t *testing.T) {
	limits := storeLimits(t)
	stores := map[string]string{"MONGODB_URI_FILE": "mongodb", "MYSQL_DSN_FILE": "mysql", "EVENTS_URL_FILE": "rabbitmq", "EVENTS_ADMIN_URL_FILE": "rabbitmq"}
	sums := map[string]int{"rabbitmq": 1} // the adapter of the RabbitmqSource has one connection
	for _, p := range pods(t) {
		if !p.ours() {
			continue
		}
		replicas := 1
		if p.kind == "Service" {
			scale, err := strconv.Atoi(services(t)[p.name].Spec.Template.Annotations["autoscaling.knative.dev/max-scale"])
			if err != nil {
				t.Fatalf("%s: max-scale: %v", p.name, err)
			}
			replicas = 2 * scale
		}
		container := p.spec.Containers[0]
		for _, variable := range container.Env {
			store, known := stores[variable.Name]
			if !known {
				continue
			}
			n := connections(t, "../"+strings.TrimPrefix(container.Image, "ko://"+module+"/"), variable.Name)
			if n == 0 {
				t.Errorf("%s: found no function that opens connections to the store in %s", p.name, variable.Name)
			}
			sums[store] += replicas * n
		}
	}
	for store, limit := range limits {
		if sums[store] == 0 || sums[store] > limit {
			t.Errorf("%s: the pods open up to %d connections, want more than 0 and at most %d", store, sums[store], limit)
		}
		t.Logf("%s: %d of %d connections", store, sums[store], limit)
	}
}

// storeLimits returns the maximum number of connections that each store in config/backing accepts, or for which its
// container has enough memory.
func storeLimits(t *testing.T) map[string]int {
	t.Helper()
	limits := map[string]int{}
	for _, p := range pods(t) {
		if p.ours() {
			continue
		}
		container := p.spec.Containers[0]
		arg := func(name string, value float64) float64 {
			for _, arg := range container.Args {
				if text, found := strings.CutPrefix(arg, name+"="); found {
					parsed, err := strconv.ParseFloat(text, 64)
					if err != nil {
						t.Fatalf("%s: %s: %v", p.name, name, err)
					}
					value = parsed
				}
			}
			return value
		}
		memory := float64(container.Resources.Limits.Memory().Value())
		switch p.name {
		case "mongodb": // accepts more connections, but each of them needs up to 1 MiB
			limits[p.name] = int(memory/(1<<20) - 1024*arg("--wiredTigerCacheSizeGB", memory/(1<<30)))
		case "mysql": // 151 is the default of MySQL 8.4
			limits[p.name] = int(arg("--max-connections", 151))
		case "rabbitmq": // has no limit of its own, but each connection is an open file, and 1024 is the usual soft limit
			limits[p.name] = 1024
		default:
			t.Errorf("the store %s has no known limit", p.name)
		}
	}
	return limits
}

// initContainer returns the init container of the StatefulSet mysql.
func initContainer(t *testing.T) corev1.Container {
	t.Helper()
	for _, p := range pods(t) {
		if p.name == "mysql" && len(p.spec.InitContainers) == 1 {
			return p.spec.InitContainers[0]
		}
	}
	t.Fatal("mysql has no init container")
	return corev1.Container{}
}

// moveData runs the init container's script on a volume. It puts a replacement for mv on PATH, which kills the script
// instead of moving another entry after the given number of moves. This simulates the loss of a node.
func moveData(t *testing.T, volume string, moves int) (string, error) {
	t.Helper()
	mv, err := exec.LookPath("mv")
	if err != nil {
		t.Fatal(err)
	}
	bin, count := t.TempDir(), filepath.Join(t.TempDir(), "moves")
	script := fmt.Sprintf("#!/bin/bash\necho >>%q\nif (($(wc -l <%[1]q) > %d)); then kill -KILL $PPID; exit 1; fi\nexec %s \"$@\"\n", count, moves, mv)
	if err := os.WriteFile(filepath.Join(bin, "mv"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c := initContainer(t)
	command := exec.CommandContext(t.Context(), c.Command[0], append(slices.Clone(c.Command[1:]), c.Args...)...)
	command.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "VOLUME=" + volume}
	out, err := command.CombinedOutput()
	return string(out), err
}

// tree returns the files and directories below dir by relative path. The value is the file content, or "directory".
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || entry.IsDir() {
			found[name] = "directory"
			return err
		}
		content, err := os.ReadFile(path)
		found[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func newVolume(t *testing.T, files map[string]string) string {
	t.Helper()
	volume := t.TempDir()
	for name, content := range files {
		path := filepath.Join(volume, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil && content == "directory" {
			err = os.MkdirAll(path, 0o700)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return volume
}

// TestMySQLDataMoves checks that the init container moves the data of an older manifest to the new directory. The
// move must complete even if it was killed after any number of steps, and it must never overwrite a file.
func TestMySQLDataMoves(t *testing.T) {
	data := map[string]string{
		"mysql": "directory", "mysql/user.ibd": "user", "ibdata1": "system", "auto.cnf": "uuid", ".hidden": "hidden", "a b\nc": "odd", "-n": "option",
		"data": "directory", "data/t.ibd": "a database called data", "*": "star", "mysql.sock": "socket",
	}
	want := map[string]string{"mysql-data": "directory", "lost+found": "directory"}
	for name, content := range data {
		want["mysql-data/"+name] = content
	}
	entries := 0
	for name := range data {
		if !strings.Contains(name, "/") {
			entries++
		}
	}
	for moves := range entries + 1 {
		old := maps.Clone(data)
		old["lost+found"] = "directory"
		volume := newVolume(t, old)
		if out, err := moveData(t, volume, moves); (err == nil) != (moves == entries) {
			t.Errorf("with a limit of %d moves: unexpected result %v\n%s", moves, err, out)
		}
		for range 2 { // the first run completes the move, and the second run must change nothing
			if out, err := moveData(t, volume, 1<<20); err != nil {
				t.Errorf("another run after %d moves: %v\n%s", moves, err, out)
			}
			if got := tree(t, volume); !maps.Equal(got, want) {
				t.Errorf("another run after %d moves: got %q, want %q", moves, got, want)
			}
		}
	}

	empty := newVolume(t, map[string]string{"lost+found": "directory"})
	if out, err := moveData(t, empty, 0); err != nil {
		t.Errorf("new volume: %v\n%s", err, out)
	}
	if got, want := tree(t, empty), map[string]string{"lost+found": "directory", "mysql-data": "directory"}; !maps.Equal(got, want) {
		t.Errorf("new volume: got %q, want %q", got, want)
	}

	both := map[string]string{"mysql-data": "directory", "mysql-data/ibdata1": "new", "ibdata1": "old"}
	volume := newVolume(t, both)
	if out, err := moveData(t, volume, 1<<20); err == nil || !strings.Contains(out, "ibdata1") {
		t.Errorf("data in both directories: got %v with output %q, want an error that names ibdata1", err, out)
	}
	if got := tree(t, volume); !maps.Equal(got, both) {
		t.Errorf("data in both directories: got %q, want %q", got, both)
	}
}
