package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	validatorerrors "github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/helpers"
	"github.com/pb33f/libopenapi-validator/strict"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// check compares an exchange (a request and its response) with docs/openapi.yaml and returns the differences. It also
// records which parts of docs/openapi.yaml the exchange covers.
func (c *Contract) check(d *document, x exchange) (faults []string) {
	if x.header.Get("X-Request-Id") == "" {
		faults = append(faults, "the response has no X-Request-Id header")
	}
	template, item, method := c.find(d, x.request)
	_, err := url.ParseQuery(x.request.URL.RawQuery)
	badQuery := err != nil && x.status == http.StatusBadRequest // nearly every path responds with 400 to a malformed query
	if c.function == "gateway" && (item == nil || !tagged(item, c.function)) {
		switch {
		case isPreflight(x.request) && (x.status == http.StatusNoContent || x.status == http.StatusForbidden):
			return faults // the document describes preflight responses only in prose
		case !isProblem(x.header):
			return faults // a response from the console or another function, which has its own tests
		}
	}
	if item == nil {
		if x.status != http.StatusNotFound && !badQuery {
			faults = append(faults, "the document does not describe this path, so the status must be 404")
		}
		return append(faults, checkProblem(x)...)
	}
	if x.status == http.StatusInternalServerError {
		return append(faults, checkProblem(x)...) // the document does not describe 500, which occurs only in tests with a failing store
	}
	operations, known := meant(item, method)
	if !known && x.status != http.StatusMethodNotAllowed && !badQuery && !(c.function == "gateway" && x.status == http.StatusServiceUnavailable) {
		faults = append(faults, "the document does not describe this method, so the status must be 405")
	}
	for method, operation := range operations {
		if x.request.Method == http.MethodHead && method != http.MethodHead {
			continue // a response to HEAD has no body, and therefore no problem document to check
		}
		request := rewritten(x, method, operation)
		response := &http.Response{StatusCode: x.status, Header: x.header, Body: http.NoBody, Request: request}
		// Omit the body of a response to HEAD, because the OpenAPI validator rejects it. Such a body occurs if a POST
		// request has the header X-HTTP-Method-Override: HEAD.
		if len(x.got) > 0 && method != http.MethodHead {
			response.Body = io.NopCloser(bytes.NewReader(x.got))
		}
		if ok, found := d.validator.GetResponseBodyValidator().ValidateResponseBodyWithPathItem(request, response, item, template); !ok {
			faults = append(faults, texts(found)...)
		}
		faults = append(faults, checkBody(d, x, operation)...)
		if method == http.MethodHead && operation != item.Head {
			continue // a response to HEAD does not cover the GET operation
		}
		c.note(fmt.Sprintf("%s %d", operation.OperationId, x.status))
		// Do not check a rejected request, and do not record its body and parameters as covered, because they might be
		// invalid.
		if known && x.status < 400 {
			if ok, found := d.validator.ValidateHttpRequestSyncWithPathItem(request, item, template); !ok {
				faults = append(faults, "the function accepted a request that the document does not allow: "+strings.Join(texts(found), "; "))
			}
			c.noteRequest(request, item, operation)
		}
	}
	return faults
}

// find returns the path item for r, the item's path template, and the method of the matching operation. item is nil
// if the document does not describe the path.
func (c *Contract) find(d *document, r *http.Request) (template string, item *v3.PathItem, method string) {
	path, method := r.URL.Path, r.Method
	below := func(base string) bool { return strings.HasPrefix(path, base+"/") }
	// docs/openapi.yaml mentions some paths and methods only in prose. Replace such a path or method with one that
	// docs/openapi.yaml defines.
	switch {
	case path == "/" && slices.Contains([]string{"login", "validate", "upload"}, c.function):
		path = "/" + c.function // these functions also serve the path /
	case below("/validate"):
		path = "/validate" // any path below /validate is the same operation
	case path == "/upload/tus", below("/upload/tus") && method == http.MethodOptions:
		path = "/upload/tus/" // the trailing slash is optional, and OPTIONS is allowed at any path below
	case c.function == "record" && path != "/healthz":
		path, method = "fileStored", http.MethodPost // record ignores the path and the method
	case c.function == "sweep" && path == "/":
		path = "sweep"
	}
	switch {
	case path == "/validate" && method != http.MethodHead:
		method = http.MethodGet // validate accepts any method
	case below("/upload/tus") && method == http.MethodPost && r.Header.Get("X-HTTP-Method-Override") != "":
		method = r.Header.Get("X-HTTP-Method-Override")
	}
	given := strings.Split(path, "/")
	for candidate, described := range d.items(c.function) {
		fits := slices.EqualFunc(strings.Split(candidate, "/"), given, func(w, g string) bool { return w == g || strings.HasPrefix(w, "{") && g != "" })
		if fits && (item == nil || !strings.Contains(candidate, "{")) {
			template, item = candidate, described
		}
	}
	return template, item, method
}

// meant returns the operations that describe a request with the given method. If there is no such operation,
// known is false, and meant returns the operations that describe the 405 response.
func meant(item *v3.PathItem, method string) (operations map[string]*v3.Operation, known bool) {
	operations = map[string]*v3.Operation{}
	for name, operation := range item.GetOperations().FromOldest() {
		operations[strings.ToUpper(name)] = operation
	}
	if operation := operations[method]; operation != nil {
		return map[string]*v3.Operation{method: operation}, true
	}
	// HEAD is GET without the content (RFC 9110 §9.3.2).
	if method == http.MethodHead && item.Get != nil {
		return map[string]*v3.Operation{method: item.Get}, true
	}
	delete(operations, http.MethodOptions) // this operation has no 405 response, because OPTIONS is always allowed
	return operations, false
}

// rewritten returns a copy of the request with the given method and with a body that can be read again.
func rewritten(x exchange, method string, operation *v3.Operation) *http.Request {
	request := x.request.Clone(x.request.Context())
	request.Method = method
	if request.Header.Get("Content-Type") == "" && operation.RequestBody != nil && operation.RequestBody.Content.GetOrZero("*/*") != nil {
		request.Header.Set("Content-Type", "application/octet-stream") // the default (RFC 9110 §8.3)
	}
	request.Body, request.ContentLength = http.NoBody, int64(len(x.sent))
	if len(x.sent) > 0 {
		request.Body = io.NopCloser(bytes.NewReader(x.sent))
	}
	return request
}

// checkBody reports faults in a response body that the OpenAPI validator does not find: a body that the document does
// not describe, and a property that no schema describes.
func checkBody(d *document, x exchange, operation *v3.Operation) (faults []string) {
	described := operation.Responses.Codes.GetOrZero(fmt.Sprint(x.status))
	switch {
	case described == nil:
		return nil // the validator has already reported the undescribed status
	case described.Content == nil || described.Content.Len() == 0:
		if len(x.got) > 0 {
			faults = append(faults, "the response has a body, but the document describes none")
		}
		return faults
	case isProblem(x.header):
		return checkProblem(x)
	}
	media, _ := helpers.FindMediaType(described.Content, x.header.Get("Content-Type"))
	var data any
	if media == nil || !isJSON(x.header) || json.Unmarshal(x.got, &data) != nil {
		return nil // the validator has already reported the fault, or the document has no schema
	}
	found := strict.NewValidator(d.strict, 3.1).Validate(strict.Input{Schema: media.Schema.Schema(), Data: data,
		Direction: strict.DirectionResponse, Options: d.strict, BasePath: "$", Version: 3.1})
	for _, undeclared := range found.UndeclaredValues {
		faults = append(faults, "the document does not describe "+undeclared.Path)
	}
	return faults
}

// checkProblem checks that the problem document in a response matches the response's status and request ID, because
// a schema cannot check this.
func checkProblem(x exchange) []string {
	if !isProblem(x.header) {
		return []string{fmt.Sprintf("the error response has the content type %q, want application/problem+json", x.header.Get("Content-Type"))}
	}
	if x.request.Method == http.MethodHead {
		return nil
	}
	var problem struct {
		Type, Title, Detail, Instance string
		Status                        int
	}
	decoder := json.NewDecoder(bytes.NewReader(x.got))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&problem); err != nil || problem.Status != x.status || problem.Title == "" ||
		!strings.HasPrefix(problem.Type, "urn:strongroom:problem:") || problem.Instance != x.header.Get("X-Request-Id") {
		return []string{fmt.Sprintf("the problem document does not match the status %d and the request ID %q (error %v)", x.status, x.header.Get("X-Request-Id"), err)}
	}
	return nil
}

// noteRequest records that the tests cover the content type of the request's body and the parameters in the request.
func (c *Contract) noteRequest(request *http.Request, item *v3.PathItem, operation *v3.Operation) {
	name := operation.OperationId
	if operation.RequestBody != nil {
		media, _ := helpers.FindMediaType(operation.RequestBody.Content, request.Header.Get("Content-Type"))
		for mediaType, described := range operation.RequestBody.Content.FromOldest() {
			if described == media {
				c.note(name + " takes " + mediaType)
			}
		}
	}
	for _, parameter := range slices.Concat(item.Parameters, operation.Parameters) {
		if parameter.In == "path" || parameter.In == "query" && request.URL.Query().Has(parameter.Name) ||
			parameter.In == "header" && request.Header.Get(parameter.Name) != "" {
			c.note(name + " has " + parameter.In + " " + parameter.Name)
		}
	}
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

func isProblem(header http.Header) bool {
	return header.Get("Content-Type") == "application/problem+json"
}

// isJSON reports whether the content type in header is JSON. This includes types such as application/cloudevents+json.
func isJSON(header http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// texts returns one line of text for each of the OpenAPI validator's errors.
func texts(found []*validatorerrors.ValidationError) (texts []string) {
	for _, f := range found {
		text := f.Message + ": " + f.Reason
		for _, s := range f.SchemaValidationErrors {
			text += fmt.Sprintf("; %s: %s", strings.Join(s.InstancePath, "/"), s.Reason)
		}
		texts = append(texts, text)
	}
	return texts
}
