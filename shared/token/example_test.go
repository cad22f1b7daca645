package token_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/strongroom-dev/strongroom/shared/token"
)

func ExampleVerifier_Require() {
	_, jwks, err := token.GenerateKey()
	if err != nil {
		panic(err)
	}
	keys, err := token.ParseKeys(jwks)
	if err != nil {
		panic(err)
	}
	verifier, err := token.NewVerifier(keys, "https://issuer.test", "strongroom")
	if err != nil {
		panic(err)
	}
	greet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello,", token.Caller(r.Context()).Username)
	})
	w := httptest.NewRecorder()
	verifier.Require(greet, token.ScopeFilesRead).ServeHTTP(w, httptest.NewRequest("GET", "/files", nil))
	fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
	// Output: 401 Bearer realm="strongroom"
}
