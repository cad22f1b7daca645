// This module contains tests with external test vectors. It is a separate module, so that users of package token do not
// download the vectors.
module github.com/strongroom-dev/strongroom/shared/token/wycheproof

go 1.26.4

require (
	github.com/c2sp/wycheproof v0.0.0-20260902155932-3fa63dd0344a
	github.com/golang-jwt/jwt/v5 v5.3.1
	github.com/strongroom-dev/strongroom v0.0.0
)

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
)

replace github.com/strongroom-dev/strongroom => ../../..
