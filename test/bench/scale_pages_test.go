package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// costsFile contains the costs of the last run of TestScale that are committed.
const costsFile = "testdata/costs.json"

var update = flag.Bool("update", false, "write the plots, and the tables in docs/benchmarks.md and docs/scaling.md")

// TestScalePages checks that the plots and the tables in docs/benchmarks.md and docs/scaling.md are those that belong
// to the costs in costsFile and to the limits in the manifests and in the code. It prints the tables.
func TestScalePages(t *testing.T) {
	text, err := os.ReadFile(costsFile)
	if err != nil {
		t.Fatal(err)
	}
	m := model{limits: readLimits(t)}
	if err := json.Unmarshal(text, &m.costs); err != nil {
		t.Fatalf("%s: %v", costsFile, err)
	}
	files := map[string]string{}
	for name, p := range m.plots() {
		files[name] = p.svg()
	}
	for name, part := range map[string]string{"benchmarks.md": m.measurements(), "scaling.md": m.results()} {
		page, err := os.ReadFile(filepath.Join("../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(page), beginPart)
		_, after, ended := strings.Cut(rest, endPart)
		if !found || !ended {
			t.Fatalf("docs/%s has no lines %q and %q", name, beginPart, endPart)
		}
		files[name] = before + beginPart + "\n" + part + endPart + after
		t.Logf("docs/%s:\n%s", name, part)
	}
	for name, want := range files {
		path := filepath.Join("../../docs", name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("docs/%s does not belong to %s and to the limits: run `go test ./test/bench -run TestScalePages -update`, and check "+
				"the sentences around the tables (%v)", name, costsFile, err)
		}
	}
}

// beginPart and endPart enclose the part of a page that TestScalePages writes.
const (
	beginPart = "<!-- The part up to the next comment is written by make bench SCALE=1. -->"
	endPart   = "<!-- The part that is written by make bench SCALE=1 ends here. -->"
)

// series contains the costs of one operation, by the number of files or of catalog entries.
type series struct {
	operation string
	costs     []cost
}

// growth compares the last cost with the first. It returns the ratio of the durations and the ratio of the logarithms
// of the numbers of entries. The first ratio is infinite if the operation fails at the last step.
func (s series) growth() (ratio, logarithm float64) {
	first, last := s.costs[0], s.costs[len(s.costs)-1]
	logarithm = math.Log(float64(last.Entries)) / math.Log(float64(first.Entries))
	if last.Failure != "" {
		return math.Inf(1), logarithm
	}
	return last.Millis / first.Millis, logarithm
}

// series returns the costs of all operations, in the order of their measurement.
func (c costs) series() (all []series) {
	for _, one := range c.Operations {
		i := slices.IndexFunc(all, func(s series) bool { return s.operation == one.Operation })
		if i < 0 {
			i, all = len(all), append(all, series{operation: one.Operation})
		}
		all[i].costs = append(all[i].costs, one)
	}
	return all
}

// steps returns the numbers of catalog entries at which the operations were measured.
func (c costs) steps() (steps []int) {
	for _, one := range c.Operations {
		if !slices.Contains(steps, one.Entries) {
			steps = append(steps, one.Entries)
		}
	}
	return steps
}

// ofCatalog reports whether an operation reads only the catalog.
func ofCatalog(operation string) bool {
	return strings.HasPrefix(operation, "list") || strings.HasPrefix(operation, "search")
}

// plots returns the plots, by the names of their files.
func (c costs) plots() map[string]plot {
	const files, entries = "files in the store", "catalog entries"
	millis := func(c cost) float64 { return c.Millis }
	commands := func(c cost) float64 { return c.Commands }
	return map[string]plot{
		"scale-files.svg":    c.plot("Time of an operation on files", files, "milliseconds (median)", millis, func(s string) bool { return !ofCatalog(s) }),
		"scale-catalog.svg":  c.plot("Time of an operation on the catalog", entries, "milliseconds (median)", millis, ofCatalog),
		"scale-commands.svg": c.plot("Commands of an operation on files", files, "commands (median)", commands, func(s string) bool { return !ofCatalog(s) }),
	}
}

// plot returns a plot of a value of the selected operations. A dashed line grows like log N from the first line's
// start.
func (c costs) plot(title, x, y string, value func(cost) float64, selected func(operation string) bool) plot {
	p := plot{title: title, x: x, y: y}
	for _, s := range c.series() {
		if !selected(s.operation) {
			continue
		}
		l := line{name: s.operation, color: colors[len(p.lines)%len(colors)]}
		for _, one := range s.costs {
			if one.Failure == "" { // a line ends where its operation fails
				l.points = append(l.points, point{float64(one.Entries), value(one)})
			}
		}
		p.lines = append(p.lines, l)
	}
	reference := line{name: "log N, for comparison"}
	first := p.lines[0].points[0]
	for _, at := range p.lines[0].points {
		reference.points = append(reference.points, point{at.x, first.y * math.Log(at.x) / math.Log(first.x)})
	}
	p.lines = append(p.lines, reference)
	return p
}

// measurements returns the part of docs/benchmarks.md.
func (m model) measurements() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\nMeasured on %s at the commit %s, with Go %s, on %d cores (%s). The store was %s.\n\n", m.Date, m.Commit, m.Go, m.Cores, m.Machine, m.Store)
	for _, name := range []string{"scale-files.svg", "scale-catalog.svg", "scale-commands.svg"} {
		fmt.Fprintf(&out, "![%s, by the number of %s](%s)\n\n", m.plots()[name].title, m.plots()[name].x, name)
	}
	steps := m.steps()
	out.WriteString("| operation | commands |")
	for _, n := range steps {
		fmt.Fprintf(&out, " %s |", power(float64(n)))
	}
	out.WriteString(" growth | log N |\n| --- | --- |" + strings.Repeat(" --- |", len(steps)+2) + "\n")
	for _, s := range m.series() {
		low, high := math.Inf(1), 0.0
		cells := make([]string, len(steps))
		for _, one := range s.costs {
			cell := fmt.Sprintf("%.2f ms", one.Millis)
			if one.Failure != "" {
				cell = one.Failure
			} else {
				low, high = min(low, one.Commands), max(high, one.Commands)
			}
			cells[slices.Index(steps, one.Entries)] = cell
		}
		commands := fmt.Sprintf("%.3g", low)
		if high > low*1.01 {
			commands = fmt.Sprintf("%.3g–%.3g", low, high)
		}
		growth, logarithm := s.growth()
		text := fmt.Sprintf("%.2f ×", growth)
		if math.IsInf(growth, 1) {
			text = "fails"
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %.2f × |\n", s.operation, commands, strings.Join(cells, " | "), text, logarithm)
	}
	out.WriteString("\n| load test | clients | throughput | predicted | duration | CPU: function | CPU: store | CPU: clients |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, l := range m.Loads {
		predicted := "the reference"
		if l.Clients > 1 {
			n := m.predicted(l.Operation, l.Clients)
			predicted = fmt.Sprintf("%.0f/s, %.2f ×", n, n/l.PerSecond)
		}
		fmt.Fprintf(&out, "| %s | %d | %.0f/s | %s | %.1f ms | %.2f ms | %.2f ms | %.2f ms |\n", l.Operation, l.Clients, l.PerSecond,
			predicted, l.Millis, l.FunctionCPU, l.StoreCPU, l.ClientCPU)
	}
	out.WriteString("\n| storage | measured |\n| --- | --- |\n")
	for _, s := range m.Sizes {
		fmt.Fprintf(&out, "| `%s`, for each file without its bytes | %.0f B, indexes %.0f B |\n", s.Collection, s.Storage/float64(s.Documents), s.Indexes/float64(s.Documents))
	}
	fmt.Fprintf(&out, "| each byte of a file | %.2f B |\n", m.StoredPerByte)
	out.WriteString("\n| RabbitMQ | measured |\n| --- | --- |\n")
	b := m.Broker
	fmt.Fprintf(&out, "| publications by one publisher | %.2f ms |\n| publications by %d publishers | %.0f/s, %.2f × one publisher |\n| size of an event | %.0f B |\n\n",
		b.Millis, loadClients, b.PerSecond, b.PerSecond*b.Millis/1000, b.Bytes)
	return out.String()
}

// levels contains the numbers of uploads per hour for which docs/scaling.md gives advice.
var levels = []float64{1e2, 1e4, 1e6}

// results returns the part of docs/scaling.md.
func (m model) results() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\nThe costs are those of the commit %s ([benchmarks.md](benchmarks.md#scale)).\n\n", m.Commit)
	out.WriteString("| resource, the first limit first | exceeded at | " + columns(func(level float64) string { return "use at " + power(level) + "/h" }) +
		" | limit | setting | measurement |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	resources := m.resources()
	slices.SortStableFunc(resources, func(a, b resource) int {
		return int(math.Copysign(1, a.perHour()-b.perHour()))
	})
	for _, r := range resources {
		fmt.Fprintf(&out, "| %s | %s/h | %s | %s | %s | %s |\n", r.name, round(r.perHour()), columns(func(level float64) string {
			return percent(r.utilization(level))
		}), r.limit, r.setting, r.measured)
	}
	row := func(name, measured string, value func(level float64) string) {
		fmt.Fprintf(&out, "| %s | %s | %s |\n", name, columns(value), measured)
	}
	fmt.Fprintf(&out, "\n| uploads per hour | %s | measurement |\n| --- | --- | --- | --- | --- |\n", columns(power))
	row("pods of `upload` in use", "load: "+uploadMean, func(level float64) string {
		slots := level / 3600 * (sendTime.Seconds() + m.load(uploadMean, 1).Millis/1000)
		return fmt.Sprintf("%.0f", math.Ceil(max(slots/m.uploadRequests, level/3600*m.load(uploadMean, loadClients).FunctionCPU/1000/m.uploadCores)))
	})
	row("processors of the store", "load: "+uploadMean+", "+recordFile, func(level float64) string {
		return fmt.Sprintf("%.2f", level/3600*(m.load(uploadMean, loadClients).StoreCPU+m.load(recordFile, loadClients).StoreCPU)/1000)
	})
	row("connections to MongoDB in use", "load: "+uploadMean+", "+recordFile, func(level float64) string {
		return fmt.Sprintf("%.2f", level/3600*(m.load(uploadMean, 1).Millis+m.load(recordFile, 1).Millis)/1000)
	})
	row("storage, each day", "storage of a file", func(level float64) string { return bytesText(level * 24 * m.fileBytes()) })
	row("chunks, each day", "one for each MiB", func(level float64) string { return round(level * 24 * meanSize / chunk) })
	row("catalog, each year: entries", "one for each upload", func(level float64) string { return round(level * 24 * 365) })
	row("catalog, each year: storage", "storage of `catalogue`", func(level float64) string { return bytesText(level * 24 * 365 * m.entryBytes()) })
	row("outage of RabbitMQ for an hour: files without an entry", "simulation", func(level float64) string { return round(m.brokerOutage(level).waiting) })
	row("… time until sweep has published their events", sweepFile, func(level float64) string { return tookText(m.brokerOutage(level).took) })
	row("outage of `record` for an hour: events in the queue", "simulation", func(level float64) string { return round(m.recordOutage(level).waiting) })
	row("… time until `record` has processed them", "load: "+recordFile, func(level float64) string { return tookText(m.recordOutage(level).took) })
	out.WriteString("\n")
	return out.String()
}

// columns returns the cells of a row for all levels.
func columns(value func(level float64) string) string {
	cells := make([]string, len(levels))
	for i, level := range levels {
		cells[i] = value(level)
	}
	return strings.Join(cells, " | ")
}

// round returns a number with two significant digits.
func round(n float64) string {
	digits := math.Pow(10, max(0, math.Floor(math.Log10(n))-1))
	text := fmt.Sprintf("%.0f", math.Round(n/digits)*digits)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// percent returns a share in percent, with two significant digits.
func percent(share float64) string {
	switch {
	case share < 1e-4:
		return "< 0.01%"
	case share < 0.1:
		return fmt.Sprintf("%.2g%%", share*100)
	}
	return round(share*100) + "%"
}

// bytesText returns a number of bytes with a unit.
func bytesText(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; n >= 1024 && i < len(units)-1; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%.3g %s", n, units[i])
}

// tookText returns the duration of a recovery.
func tookText(d time.Duration) string {
	switch {
	case d == 0:
		return fmt.Sprintf("more than %.0f days", longest.Hours()/24)
	case d < 2*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%.3g hours", d.Hours())
}
