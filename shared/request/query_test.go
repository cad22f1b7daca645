package request_test

import (
	"errors"
	"net/http/httptest"
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
