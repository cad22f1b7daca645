// Package contract holds what functions answer against docs/openapi.yaml, and the tests of a function to trying all that the
// document says of it. A function's tests need no more than
//
//	var api = contract.Of("login")
//
//	func TestMain(m *testing.M) { os.Exit(api.Run(m)) }
//
// and api.Handler(t, handler) where they would have handler, as function.Main serves it.
package contract

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// path is the document's, from the folder of any package that tests with it.
const path = "../../docs/openapi.yaml"

// elsewhere is what the tests of its function do not try, by the reason.
var elsewhere = map[string]string{
	"jwks 503":          "only the gateway answers so, whose tests show it of other operations",
	"showTusUpload 503": "only the gateway answers so, whose tests show it of other operations",
}

// document is docs/openapi.yaml, read once by a test binary.
type document struct {
	*v3.Document
	validator validator.Validator
	// strict finds what no schema describes. The validator does not use it, which would want every header to be described.
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

// items returns what the document has for a function, by path, or by name if it is a webhook. The gateway has all paths.
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

// tagged tells whether a path item is a function's own; those of one path all are.
func tagged(item *v3.PathItem, function string) bool {
	for _, operation := range item.GetOperations().FromOldest() {
		return slices.Contains(operation.Tags, function)
	}
	return false
}

// Contract is what the document says of one function, and what of that has been tried.
type Contract struct {
	function string
	mu       sync.Mutex
	tried    map[string]bool
}

// Of returns the contract of the function of this name: the operations with it as a tag. Also "health", which all have.
func Of(function string) *Contract {
	return &Contract{function: function, tried: map[string]bool{}}
}

// Run runs tests and returns the exit status: not 0 if one failed, or if all together left untried what the document
// describes. Of some tests only (-run), that is not asked.
func (c *Contract) Run(m *testing.M) int {
	d, err := load() // here, because a test in a testing/synctest bubble must not start what load starts
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

// untried returns what the document describes and no exchange has shown: answers ("login 200"), and of requests that were
// not refused the types of bodies ("login takes application/json") and the parameters ("login has query name").
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
			faults = append(faults, "no test tries: "+what)
		case c.tried[what] && excused:
			faults = append(faults, "a test tries what is said to be shown elsewhere: "+what)
		}
	}
	return faults
}

// describedBy returns all that can be tried of an operation.
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

// Handler returns handler; an answer of it that the document does not allow fails the test.
func (c *Contract) Handler(t testing.TB, handler http.Handler) http.Handler {
	t.Helper()
	d, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return watch(handler, func(x exchange) {
		for _, fault := range c.check(d, x) {
			t.Errorf("docs/openapi.yaml: %s %s answers %d %.1000q: %s", x.request.Method, x.request.URL.RequestURI(), x.status, x.got, fault)
		}
	})
}
