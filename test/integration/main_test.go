// Package integration tests the functions and the packages of Strongroom against real servers (see package servertest).
// Events travel through the real receive adapter of eventing-rabbitmq.
package integration

import (
	"testing"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestMain stops the servers that the tests have started.
func TestMain(m *testing.M) { servertest.Main(m) }
