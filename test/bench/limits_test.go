package bench

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// limits contains the limits in the manifests and in the code that the simulation uses.
type limits struct {
	uploadPods, uploadRequests, recordPods float64 // max-scale, containerConcurrency and max-scale
	uploadCores, recordCores               float64 // the processor limit of a pod
	gatewayRequests                        float64 // max-scale × containerConcurrency
	connections                            float64 // connections of one pod to MongoDB
	deliveries                             float64 // concurrent deliveries of events to record
	published                              float64 // events that one sweep publishes
	sweepEvery, stepTime                   time.Duration
	bulkTimeout                            time.Duration // time limit of a command for many documents
	storeVolume, brokerVolume              float64       // bytes; brokerVolume is without the reserve of RabbitMQ
}

// readLimits reads the limits from the manifests and from the code.
func readLimits(t *testing.T) limits {
	upload, record := manifest(t, "knative/upload.yaml", "Service"), manifest(t, "knative/record.yaml", "Service")
	gateway := manifest(t, "knative/gateway.yaml", "Service")
	sweep, store := constants(t, "functions/sweep"), constants(t, "shared/mongodb")
	var minutes int
	schedule := manifest(t, "knative/sweep.yaml", "PingSource").text("spec", "schedule")
	if _, err := fmt.Sscanf(schedule, "*/%d * * * *", &minutes); err != nil {
		t.Fatalf("the schedule of sweep: got %q, want a number of minutes", schedule)
	}
	const volume = "volumeClaimTemplates"
	reserve := regexp.MustCompile(`disk_free_limit\.absolute = (\S+)B`).FindStringSubmatch(
		manifest(t, "config/backing/rabbitmq.yaml", "ConfigMap").text("data", "strongroom.conf"))
	if reserve == nil {
		t.Fatal("config/backing/rabbitmq.yaml: found no disk_free_limit.absolute")
	}
	return limits{
		uploadPods:     upload.number("spec", "template", "metadata", "annotations", "autoscaling.knative.dev/max-scale"),
		uploadRequests: upload.number("spec", "template", "spec", "containerConcurrency"),
		uploadCores:    upload.number("spec", "template", "spec", "containers", "0", "resources", "limits", "cpu"),
		recordPods:     record.number("spec", "template", "metadata", "annotations", "autoscaling.knative.dev/max-scale"),
		recordCores:    record.number("spec", "template", "spec", "containers", "0", "resources", "limits", "cpu"),
		gatewayRequests: gateway.number("spec", "template", "metadata", "annotations", "autoscaling.knative.dev/max-scale") *
			gateway.number("spec", "template", "spec", "containerConcurrency"),
		connections: numeric(t, store["poolSize"]),
		deliveries:  manifest(t, "knative/strongroom-files.yaml", "RabbitmqSource").number("spec", "rabbitmqResourcesConfig", "parallelism"),
		published:   numeric(t, sweep["maxPublished"]),
		sweepEvery:  time.Duration(minutes) * time.Minute,
		bulkTimeout: time.Duration(numeric(t, store["BulkTimeout"])),
		stepTime:    time.Duration(numeric(t, sweep["stepTime"])),
		storeVolume: manifest(t, "config/backing/mongodb.yaml", "StatefulSet").number("spec", volume, "0", "spec", "resources", "requests", "storage"),
		brokerVolume: manifest(t, "config/backing/rabbitmq.yaml", "StatefulSet").number("spec", volume, "0", "spec", "resources", "requests", "storage") -
			quantity(t, reserve[1]),
	}
}

// object is a decoded manifest.
type object struct {
	t      *testing.T
	path   string
	fields any
}

// manifest returns the object of the given kind in a file.
func manifest(t *testing.T, path, kind string) object {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		var fields map[string]any
		if err := yaml.Unmarshal(document, &fields); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if fields["kind"] == kind {
			return object{t, path, fields}
		}
	}
	t.Fatalf("%s: found no %s", path, kind)
	return object{}
}

// text returns a field as text. An element of a list has its index as its name.
func (o object) text(names ...string) string {
	o.t.Helper()
	value := o.fields
	for _, name := range names {
		switch at := value.(type) {
		case map[string]any:
			value = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(at) {
				o.t.Fatalf("%s: %v has no element %s", o.path, names, name)
			}
			value = at[i]
		}
	}
	if value == nil {
		o.t.Fatalf("%s: found no field %v", o.path, names)
	}
	return fmt.Sprint(value)
}

// number returns a field that is a number or a quantity.
func (o object) number(names ...string) float64 {
	o.t.Helper()
	return quantity(o.t, o.text(names...))
}

// quantity converts a Kubernetes quantity to a number.
func quantity(t *testing.T, text string) float64 {
	t.Helper()
	factor := 1.0
	for suffix, f := range map[string]float64{"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "m": 1e-3} {
		if digits, found := strings.CutSuffix(text, suffix); found {
			text, factor = digits, f
			break
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("got the quantity %q, want a number", text)
	}
	return n * factor
}

// constants returns the values of the constants of a package in this repository. It omits the constants that depend on
// other packages except time.
func constants(t *testing.T, dir string) map[string]constant.Value {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	// The errors are about the packages that onlyTime does not import.
	config := types.Config{Importer: onlyTime{}, Error: func(error) {}, FakeImportC: true, IgnoreFuncBodies: true}
	checked, _ := config.Check(dir, fset, files, nil)
	values := map[string]constant.Value{}
	for _, name := range checked.Scope().Names() {
		if c, ok := checked.Scope().Lookup(name).(*types.Const); ok {
			values[name] = c.Val()
		}
	}
	return values
}

// onlyTime imports a package time that has only the durations, and no other package.
type onlyTime struct{}

func (onlyTime) Import(path string) (*types.Package, error) {
	if path != "time" {
		return nil, fmt.Errorf("package %s is not imported", path)
	}
	p := types.NewPackage(path, path)
	duration := types.NewTypeName(token.NoPos, p, "Duration", nil)
	types.NewNamed(duration, types.Typ[types.Int64], nil)
	p.Scope().Insert(duration)
	for name, value := range map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour} {
		p.Scope().Insert(types.NewConst(token.NoPos, p, name, duration.Type(), constant.MakeInt64(int64(value))))
	}
	p.MarkComplete()
	return p, nil
}

// numeric converts the value of a constant to a number.
func numeric(t *testing.T, value constant.Value) float64 {
	t.Helper()
	if value == nil {
		t.Fatal("a constant that the simulation reads does not exist")
	}
	n, exact := constant.Float64Val(constant.ToFloat(value))
	if !exact {
		t.Fatalf("got the constant %v, want a number", value)
	}
	return n
}
