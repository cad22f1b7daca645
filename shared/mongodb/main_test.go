package mongodb_test

import (
	"testing"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestMain stops the servers that the tests have started.
func TestMain(m *testing.M) { servertest.Main(m) }
