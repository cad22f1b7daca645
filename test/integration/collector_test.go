package integration

import (
	"cmp"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// maxExport bounds what the collector takes at once, in bytes.
const maxExport = 4 << 20

// collector takes traces by OTLP over HTTP and keeps them in memory.
type collector struct {
	url string

	mu    sync.Mutex
	spans []span
	raw   []byte // all exports, uncompressed, one after the other
	zips  int    // how many of them came compressed
}

// span is one that was exported, with those who tell of it.
type span struct {
	*tracepb.Span
	service  string
	resource []*commonpb.KeyValue
}

// newCollector starts a collector that lasts until the test's end.
func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(r); err != nil {
			t.Errorf("an export to %s %s: %v", r.Method, r.URL, err)
			w.WriteHeader(http.StatusBadRequest) // which is not retried
			return
		}
		answer, err := proto.Marshal(&collectorpb.ExportTraceServiceResponse{})
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(answer) // the function may have stopped
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// take keeps what r exports.
func (c *collector) take(r *http.Request) error {
	if kind := r.Header.Get("Content-Type"); r.Method != http.MethodPost || r.URL.RequestURI() != "/v1/traces" || kind != "application/x-protobuf" {
		return fmt.Errorf("its type is %q; want POST /v1/traces of protobuf", kind)
	}
	body, zipped := io.Reader(r.Body), false
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "":
	case "gzip":
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return err
		}
		body, zipped = unzipped, true
	default:
		return fmt.Errorf("it is encoded as %s", encoding)
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxExport+1))
	if err != nil {
		return err
	}
	if len(raw) > maxExport {
		return fmt.Errorf("it has more than %d bytes", maxExport)
	}
	var export collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &export); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, raw...)
	if zipped {
		c.zips++
	}
	for _, of := range export.GetResourceSpans() {
		about := of.GetResource().GetAttributes()
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, span{s, text(about, "service.name"), about})
			}
		}
	}
	return nil
}

// text returns the attribute called key, however it is typed.
func text(attributes []*commonpb.KeyValue, key string) string {
	for _, a := range attributes {
		if a.GetKey() == key {
			if s, ok := a.GetValue().GetValue().(*commonpb.AnyValue_StringValue); ok {
				return s.StringValue
			}
			return fmt.Sprint(a.GetValue().GetIntValue())
		}
	}
	return ""
}

// all returns what came so far.
func (c *collector) all() (spans []span, raw []byte, zips int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans), slices.Clone(c.raw), c.zips
}

// tree draws the trace with the given id: each span in a line, under its parent, and those below one parent by their
// beginnings. parent is that of the first ones, empty if they have none. A span whose parent is not there is drawn at the end.
func (c *collector) tree(trace, parent string) string {
	all, _, _ := c.all()
	name := map[string]string{} // of all spans, by id
	var left []span
	for _, s := range all {
		name[hex.EncodeToString(s.GetSpanId())] = s.service + " " + s.GetName()
		if hex.EncodeToString(s.GetTraceId()) == trace {
			left = append(left, s)
		}
	}
	slices.SortStableFunc(left, func(a, b span) int { return cmp.Compare(a.GetStartTimeUnixNano(), b.GetStartTimeUnixNano()) })
	var drawn strings.Builder
	var draw func(parent, indent string)
	draw = func(parent, indent string) {
		var children []span
		left = slices.DeleteFunc(left, func(s span) bool {
			is := hex.EncodeToString(s.GetParentSpanId()) == parent
			if is {
				children = append(children, s)
			}
			return is
		})
		for _, s := range children {
			fmt.Fprintf(&drawn, "%s%s\n", indent, s.line(name))
			draw(hex.EncodeToString(s.GetSpanId()), indent+"  ")
		}
	}
	draw(parent, "")
	for _, s := range left {
		fmt.Fprintf(&drawn, "LOST, its parent is %x: %s\n", s.GetParentSpanId(), s.line(name))
	}
	return drawn.String()
}

// line says of a span what matters. name has all spans, by id.
func (s span) line(name map[string]string) string {
	kind := strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_"))
	line := fmt.Sprintf("%s: %s %s", s.service, kind, s.GetName())
	for _, key := range []string{"http.response.status_code", "messaging.system"} {
		if value := text(s.GetAttributes(), key); value != "" {
			line += ", " + value
		}
	}
	if s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		line += ", error"
		if why := s.GetStatus().GetMessage(); why != "" {
			line += " " + why
		}
	}
	for _, l := range s.GetLinks() {
		line += ", linked to " + cmp.Or(name[hex.EncodeToString(l.GetSpanId())], "nothing")
	}
	return line
}
