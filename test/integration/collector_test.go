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

// maxExport is the maximum size of one export to the collector, uncompressed and in bytes.
const maxExport = 4 << 20

// collector receives traces with OTLP over HTTP and keeps them in memory.
type collector struct {
	url string

	mu    sync.Mutex
	spans []span
	raw   []byte // all exports, uncompressed and concatenated
	zips  int    // the number of compressed exports
}

// span is an exported span together with the service that exported it.
type span struct {
	*tracepb.Span
	service  string
	resource []*commonpb.KeyValue // the attributes of the service
}

// newCollector starts a collector that runs until the test ends.
func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(r); err != nil {
			t.Errorf("export with %s %s: %v", r.Method, r.URL, err)
			w.WriteHeader(http.StatusBadRequest) // exporters do not retry after this status
			return
		}
		answer, err := proto.Marshal(&collectorpb.ExportTraceServiceResponse{})
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(answer) // fails if the exporting function has stopped
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// take stores the spans in the export request r.
func (c *collector) take(r *http.Request) error {
	if kind := r.Header.Get("Content-Type"); r.Method != http.MethodPost || r.URL.RequestURI() != "/v1/traces" || kind != "application/x-protobuf" {
		return fmt.Errorf("got the content type %q, want POST /v1/traces with application/x-protobuf", kind)
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
		return fmt.Errorf("got the content encoding %s, want gzip or none", encoding)
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxExport+1))
	if err != nil {
		return err
	}
	if len(raw) > maxExport {
		return fmt.Errorf("the export has more than %d bytes", maxExport)
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

// text returns the value of the attribute key, which must be a string or an integer. It returns "" if the attribute
// does not exist.
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

// all returns all spans and exports so far, and the number of compressed exports.
func (c *collector) all() (spans []span, raw []byte, zips int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans), slices.Clone(c.raw), c.zips
}

// tree returns a drawing of the trace with the given ID. Each line is a span. The children of a span follow it with an
// indent, sorted by start time. parent is the span ID of the outermost spans' parent, or empty if they have none. Spans
// whose parent is missing are at the end.
func (c *collector) tree(trace, parent string) string {
	all, _, _ := c.all()
	name := map[string]string{} // the names of all spans, by span ID
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
		fmt.Fprintf(&drawn, "MISSING PARENT %x: %s\n", s.GetParentSpanId(), s.line(name))
	}
	return drawn.String()
}

// line returns a description of the span in one line. name contains the names of all spans, by span ID.
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
