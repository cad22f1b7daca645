package request_test

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

func TestQuery(t *testing.T) {
	for query, want := range map[string]error{
		"":                nil,
		"a=1&b=2":         nil,
		"a=1&c=1&c=2":     nil,
		"a=1&a=1":         problem.BadRequest,
		"b=&a=1&c=3&b=":   problem.BadRequest,
		"a=1&%61=2":       problem.BadRequest,
		"A=1&a=2&b=3&B=4": nil,
	} {
		r := httptest.NewRequest("GET", "/?"+query, nil)
		values, err := request.Query(r, "a", "b")
		if !errors.Is(err, want) || (err == nil) != (values != nil) {
			t.Errorf("%s: got %v and error %v, want error %v", query, values, err, want)
		}
	}
}

func TestCheckQuery(t *testing.T) {
	for name, c := range map[string]struct {
		query string
		valid bool
	}{
		"a request without a query string":      {"", true},
		"a percent sign and semicolon, escaped": {"a=50%25%3B&b", true},
		"a percent sign that is not escaped":    {"a=50%", false},
		"a semicolon that is not escaped":       {"a=1;b=2", false},
		"a malformed name of a parameter":       {"a=1&%zz=2", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = c.query
		err := request.CheckQuery(r)
		if c.valid && err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
		if !c.valid && (!errors.Is(err, problem.BadRequest) || !strings.Contains(err.Error(), "write % as %25 and ; as %3B")) {
			t.Errorf("%s: got error %v, want a BadRequest that explains how to escape the value", name, err)
		}
	}
}
