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

// check returns how an answer goes beyond the document, and notes what it shows of it.
//
// The validator judges parameters, headers and JSON Schema. What it lets pass is judged here: a body where the document has
// none, a property that no schema describes, and what the document says in words.
func (c *Contract) check(d *document, x exchange) (faults []string) {
	if x.header.Get("X-Request-Id") == "" {
		faults = append(faults, "there is no X-Request-Id")
	}
	template, item, method := c.find(d, x.request)
	_, err := url.ParseQuery(x.request.URL.RawQuery)
	badQuery := err != nil && x.status == http.StatusBadRequest // "a query string that cannot be parsed"
	if c.function == "gateway" && (item == nil || !tagged(item, c.function)) {
		switch {
		case isPreflight(x.request) && (x.status == http.StatusNoContent || x.status == http.StatusForbidden):
			return faults // "asks (preflight) whether it may call"
		case !isProblem(x.header):
			return faults // the console's, or that of a function, whose own tests judge it
		}
	}
	if item == nil {
		if x.status != http.StatusNotFound && !badQuery {
			faults = append(faults, "the document does not have this path: want 404")
		}
		return append(faults, checkProblem(x)...)
	}
	if x.status == http.StatusInternalServerError {
		return append(faults, checkProblem(x)...) // a fault of ours, which stores of tests make
	}
	operations, known := meant(item, method)
	if !known && x.status != http.StatusMethodNotAllowed && !badQuery && !(c.function == "gateway" && x.status == http.StatusServiceUnavailable) {
		faults = append(faults, "the document does not have this method here: want 405")
	}
	for method, operation := range operations {
		if x.request.Method == http.MethodHead && method != http.MethodHead {
			continue // of a problem without its document there is nothing to judge
		}
		request := rewritten(x, method, operation)
		response := &http.Response{StatusCode: x.status, Header: x.header, Body: http.NoBody, Request: request}
		if len(x.got) > 0 && method != http.MethodHead { // with which the validator wants none, though this may stand for another
			response.Body = io.NopCloser(bytes.NewReader(x.got))
		}
		if ok, found := d.validator.GetResponseBodyValidator().ValidateResponseBodyWithPathItem(request, response, item, template); !ok {
			faults = append(faults, texts(found)...)
		}
		faults = append(faults, checkBody(d, x, operation)...)
		if method == http.MethodHead && operation != item.Head {
			continue // allowed, but it shows nothing of the GET
		}
		c.note(fmt.Sprintf("%s %d", operation.OperationId, x.status))
		if known && x.status < 400 {
			if ok, found := d.validator.ValidateHttpRequestSyncWithPathItem(request, item, template); !ok {
				faults = append(faults, "the request was not refused, although the document does not allow it: "+strings.Join(texts(found), "; "))
			}
			c.noteRequest(request, item, operation)
		}
	}
	return faults
}

// find returns what the document has for the path of a request, nil if that is nothing, and the method that is meant.
// Here is what the document says in words of where and how else a function can be asked.
func (c *Contract) find(d *document, r *http.Request) (template string, item *v3.PathItem, method string) {
	path, method := r.URL.Path, r.Method
	below := func(base string) bool { return strings.HasPrefix(path, base+"/") }
	switch {
	case path == "/" && slices.Contains([]string{"login", "validate", "upload"}, c.function):
		path = "/" + c.function // "also at /"
	case below("/validate"):
		path = "/validate" // "any path below it"
	case path == "/upload/tus", below("/upload/tus") && method == http.MethodOptions:
		path = "/upload/tus/" // "without the slash", "any path will do"
	case c.function == "record" && path != "/healthz":
		path, method = "fileStored", http.MethodPost // "whatever path and method"
	case c.function == "sweep" && path == "/":
		path = "sweep"
	}
	switch {
	case path == "/validate" && method != http.MethodHead:
		method = http.MethodGet // "any method"
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

// meant returns, by method, what an item says of one. HEAD is GET without the content (RFC 9110 §9.3.2). A method that it
// does not know is described with each that it does.
func meant(item *v3.PathItem, method string) (operations map[string]*v3.Operation, known bool) {
	operations = map[string]*v3.Operation{}
	for name, operation := range item.GetOperations().FromOldest() {
		operations[strings.ToUpper(name)] = operation
	}
	if operation := operations[method]; operation != nil {
		return map[string]*v3.Operation{method: operation}, true
	}
	if method == http.MethodHead && item.Get != nil {
		return map[string]*v3.Operation{method: item.Get}, true
	}
	delete(operations, http.MethodOptions) // which asks what there is, and is not refused
	return operations, false
}

// rewritten returns the request as it would be with this method, with a body to read.
func rewritten(x exchange, method string, operation *v3.Operation) *http.Request {
	request := x.request.Clone(x.request.Context())
	request.Method = method
	if request.Header.Get("Content-Type") == "" && operation.RequestBody != nil && operation.RequestBody.Content.GetOrZero("*/*") != nil {
		request.Header.Set("Content-Type", "application/octet-stream") // as may be assumed of what has none (RFC 9110 §8.3)
	}
	request.Body, request.ContentLength = http.NoBody, int64(len(x.sent))
	if len(x.sent) > 0 {
		request.Body = io.NopCloser(bytes.NewReader(x.sent))
	}
	return request
}

// checkBody judges what the validator does not: bodies where there is none, and what no schema describes.
func checkBody(d *document, x exchange, operation *v3.Operation) (faults []string) {
	described := operation.Responses.Codes.GetOrZero(fmt.Sprint(x.status))
	switch {
	case described == nil:
		return nil // the validator has said so
	case described.Content == nil || described.Content.Len() == 0:
		if len(x.got) > 0 {
			faults = append(faults, "there is a body, and the document has none")
		}
		return faults
	case isProblem(x.header):
		return checkProblem(x)
	}
	media, _ := helpers.FindMediaType(described.Content, x.header.Get("Content-Type"))
	var data any
	if media == nil || !isJSON(x.header) || json.Unmarshal(x.got, &data) != nil {
		return nil // the validator has said so, or there is no schema
	}
	found := strict.NewValidator(d.strict, 3.1).Validate(strict.Input{Schema: media.Schema.Schema(), Data: data,
		Direction: strict.DirectionResponse, Options: d.strict, BasePath: "$", Version: 3.1})
	for _, undeclared := range found.UndeclaredValues {
		faults = append(faults, "the document does not describe "+undeclared.Path)
	}
	return faults
}

// checkProblem judges a problem document by what its schema can not say, and at paths that have none.
func checkProblem(x exchange) []string {
	if !isProblem(x.header) {
		return []string{fmt.Sprintf("the error is %q, want a problem document", x.header.Get("Content-Type"))}
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
		return []string{fmt.Sprintf("the problem document is not that of a %d with the request id %q (%v)", x.status, x.header.Get("X-Request-Id"), err)}
	}
	return nil
}

// noteRequest notes what of the request the document describes.
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

// isJSON tells whether a body is JSON, of whatever sort.
func isJSON(header http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// texts puts into words what the validator has found.
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
