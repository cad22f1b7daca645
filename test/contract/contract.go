// Package contract checks the responses of a function, and the coverage of the function's tests, against
// docs/openapi.yaml. To use it, add this code to the function's tests:
//
//	var api = contract.Of("login")
//
//	func TestMain(m *testing.M) { os.Exit(api.Run(m)) }
//
// Then send the requests of the tests to api.Handler(t, handler), where handler is the return value of function.Wrap.
package contract

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// path is the path of docs/openapi.yaml, relative to the directory in which `go test` runs the tests of a function.
const path = "../../docs/openapi.yaml"

// elsewhere contains the parts of docs/openapi.yaml that a function's own tests do not need to cover. Each value is the
// reason why no test is needed.
var elsewhere = map[string]string{
	"jwks 503":          "only the gateway sends this response, and the gateway's tests cover it with other operations",
	"showTusUpload 503": "only the gateway sends this response, and the gateway's tests cover it with other operations",
}

// document is the parsed docs/openapi.yaml file. A test binary reads the file only once.
type document struct {
	*v3.Document
	validator validator.Validator
	// strict contains the options for reporting properties that no schema describes. The document's main validator
	// does not use these options, because they would make it reject undescribed headers.
	strict *config.ValidationOptions
}

var load = sync.OnceValues(func() (*document, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	parsed, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	built, err := parsed.BuildV3Model()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	options := []config.Option{config.WithFormatAssertions(), config.WithURLEncodedBodyValidation(), config.WithRejectUndeclaredRequestBody()}
	d := &document{
		Document:  &built.Model,
		validator: validator.NewValidatorFromV3Model(&built.Model, options...),
		strict:    config.NewValidationOptions(append(options, config.WithStrictMode())...),
	}
	d.validator.SetDocument(parsed)
	return d, nil
})

// items returns a function's path items, keyed by path, and its webhooks, keyed by name. For the gateway, items
// returns all path items, because the gateway forwards requests to the other functions.
func (d *document) items(function string) map[string]*v3.PathItem {
	items := map[string]*v3.PathItem{}
	for path, item := range d.Paths.PathItems.FromOldest() {
		if function == "gateway" || path == "/healthz" || tagged(item, function) {
			items[path] = item
		}
	}
	for name, item := range d.Webhooks.FromOldest() {
		if tagged(item, function) {
			items[name] = item
		}
	}
	return items
}

// Operations returns the operations of a function in docs/openapi.yaml, such as "GET /files/{id}". It omits webhooks.
func Operations(t *testing.T, function string) (operations []string) {
	t.Helper()
	d, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range d.Paths.PathItems.FromOldest() {
		if tagged(item, function) {
			for method := range item.GetOperations().KeysFromOldest() {
				operations = append(operations, strings.ToUpper(method)+" "+path)
			}
		}
	}
	return operations
}

// tagged reports whether a path item belongs to a function. It checks only one operation, because all operations of a
// path have the same tag.
func tagged(item *v3.PathItem, function string) bool {
	for _, operation := range item.GetOperations().FromOldest() {
		return slices.Contains(operation.Tags, function)
	}
	return false
}

// Contract is the part of docs/openapi.yaml that describes one function. It records which responses, request bodies and
// parameters the tests have covered.
type Contract struct {
	function string
	mu       sync.Mutex
	tried    map[string]bool
}

// Of returns the contract of a function: the operations that are tagged with the function's name. Of("health")
// returns the contract of /healthz, which every function has.
func Of(function string) *Contract {
	return &Contract{function: function, tried: map[string]bool{}}
}

// Run runs the tests and returns the exit status, which is nonzero if a test fails or if the tests do not cover the
// whole contract. Coverage is not checked if a flag such as -run selects tests.
func (c *Contract) Run(m *testing.M) int {
	d, err := load() // before the tests, because its goroutines must not start in a testing/synctest bubble
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	for _, part := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if flag.Lookup(part).Value.String() != "" {
			return code
		}
	}
	for _, fault := range c.untried(d) {
		fmt.Fprintf(os.Stderr, "docs/openapi.yaml: %s\n", fault)
		code = 1
	}
	return code
}

// untried returns a message for each part of the contract that the tests have not covered. It also returns a message
// for each part that the tests have covered although it is listed in the elsewhere map.
func (c *Contract) untried(d *document) (faults []string) {
	described := map[string]bool{}
	for _, item := range d.items(c.function) {
		if !tagged(item, c.function) {
			continue
		}
		for _, operation := range item.GetOperations().FromOldest() {
			maps.Copy(described, describedBy(item, operation))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(described)) {
		switch _, excused := elsewhere[what]; {
		case !c.tried[what] && !excused:
			faults = append(faults, "no test covers: "+what)
		case c.tried[what] && excused:
			faults = append(faults, "a test covers this part, so remove it from the elsewhere map: "+what)
		}
	}
	return faults
}

// describedBy returns the parts of an operation that the tests must cover, such as "login 200", "login takes
// application/json" and "upload has query name".
func describedBy(item *v3.PathItem, operation *v3.Operation) map[string]bool {
	described, name := map[string]bool{}, operation.OperationId
	for status := range operation.Responses.Codes.KeysFromOldest() {
		described[name+" "+status] = true
	}
	if operation.RequestBody != nil {
		for mediaType := range operation.RequestBody.Content.KeysFromOldest() {
			described[name+" takes "+mediaType] = true
		}
	}
	for _, parameter := range slices.Concat(item.Parameters, operation.Parameters) {
		described[name+" has "+parameter.In+" "+parameter.Name] = true
	}
	return described
}

func (c *Contract) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried[what] = true
}

// Handler wraps an HTTP handler. The test fails if the handler sends a response or accepts a request that
// docs/openapi.yaml does not allow.
func (c *Contract) Handler(t testing.TB, handler http.Handler) http.Handler {
	t.Helper()
	d, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return watch(handler, func(x exchange) {
		for _, fault := range c.check(d, x) {
			t.Errorf("%s %s: the response %d %.1000q does not match docs/openapi.yaml: %s", x.request.Method, x.request.URL.RequestURI(), x.status, x.got, fault)
		}
	})
}
