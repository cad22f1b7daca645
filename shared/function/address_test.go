package function

import (
	"net/http/httptest"
	"testing"
)

func TestClientAddress(t *testing.T) {
	for _, test := range []struct {
		hops      int
		forwarded []string
		want      string
	}{
		{0, nil, "192.0.2.1"},
		{0, []string{"203.0.113.9"}, "192.0.2.1"},
		{1, []string{"203.0.113.9"}, "203.0.113.9"},
		{1, []string{"10.0.0.1, 203.0.113.9"}, "203.0.113.9"},
		{2, []string{"10.0.0.1, 203.0.113.9 ,10.9.9.9"}, "203.0.113.9"},
		{2, []string{"10.0.0.1, 203.0.113.9", "10.9.9.9"}, "203.0.113.9"},
		{1, []string{"203.0.113.9:4711"}, "203.0.113.9"},
		{1, []string{"[2001:db8::7]:4711"}, "2001:db8::7"},
		{1, []string{"[2001:db8::7]"}, "2001:db8::7"},
		{1, []string{"2001:db8::7"}, "2001:db8::7"},
		{1, nil, "192.0.2.1"},                      // came by another way
		{3, []string{"203.0.113.9"}, "192.0.2.1"},  // came by another way
		{1, []string{"10.0.0.1, x"}, "192.0.2.1"},  // no address
		{1, []string{"10.0.0.1, "}, "192.0.2.1"},   // no address
		{1, []string{"unknown"}, "192.0.2.1"},      // no address
		{1, []string{"_hidden:4711"}, "192.0.2.1"}, // no address
		{1, []string{"10.0.0.1\t,x"}, "192.0.2.1"}, // no address
		{2, []string{"10.0.0.1", "x"}, "10.0.0.1"}, // the innermost does not matter
		{2, []string{",203.0.113.9"}, "192.0.2.1"}, // the outermost is empty
		{1, []string{"::ffff:1.2.3.4"}, "::ffff:1.2.3.4"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "192.0.2.1:1234"
		r.Header["X-Forwarded-For"] = test.forwarded
		if got := ClientAddress(r, test.hops).String(); got != test.want {
			t.Errorf("%d hops, %q: %s, want %s", test.hops, test.forwarded, got, test.want)
		}
	}
}
