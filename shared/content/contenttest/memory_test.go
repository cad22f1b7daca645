package contenttest_test

import (
	"testing"

	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
)

func TestMemory(t *testing.T) {
	contenttest.Test(t, func(*testing.T) (contenttest.Store, contenttest.Notes) {
		m := contenttest.New()
		m.Limits = contenttest.Limits
		return m, m.Notes()
	})
}
