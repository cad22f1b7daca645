package problem_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func ExampleKind_With() {
	err := problem.NotFound.With("there is no file %d", 7)
	fmt.Println(errors.Is(err, problem.NotFound))

	w := httptest.NewRecorder()
	problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return err }).
		ServeHTTP(w, httptest.NewRequest("GET", "/files/7", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output:
	// true
	// 404 {"type":"urn:strongroom:problem:not-found","title":"There is no such resource","status":404,"detail":"there is no file 7"}
}
