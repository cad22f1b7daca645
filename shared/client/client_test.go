package client

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/request"
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
		{1, nil, "192.0.2.1"},                      // no entry
		{3, []string{"203.0.113.9"}, "192.0.2.1"},  // too few entries
		{1, []string{"10.0.0.1, x"}, "192.0.2.1"},  // not an address
		{1, []string{"10.0.0.1, "}, "192.0.2.1"},   // not an address
		{1, []string{"unknown"}, "192.0.2.1"},      // not an address
		{1, []string{"_hidden:4711"}, "192.0.2.1"}, // not an address
		{1, []string{"10.0.0.1\t,x"}, "192.0.2.1"}, // not an address
		{2, []string{"10.0.0.1", "x"}, "10.0.0.1"}, // the entry of the innermost proxy is not used
		{2, []string{",203.0.113.9"}, "192.0.2.1"}, // the entry of the outermost proxy is empty
		{1, []string{"::ffff:1.2.3.4"}, "::ffff:1.2.3.4"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "192.0.2.1:1234"
		r.Header["X-Forwarded-For"] = test.forwarded
		if got := (Trust{Hops: test.hops}).address(r).String(); got != test.want {
			t.Errorf("%d hops, X-Forwarded-For %q: got address %s, want %s", test.hops, test.forwarded, got, test.want)
		}
	}
}

func TestSignedClientAddress(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	at := func(key string, now time.Time) Trust {
		return Trust{Hops: 1, Key: []byte(key), Now: func() time.Time { return now }}
	}
	const key, signer = "the key of the gateway, 32 bytes", "203.0.113.9"
	sign := func(trust Trust) string { return trust.sign(forAddress, signer) }
	good := sign(at(key, now))
	for name, test := range map[string]struct {
		trust  Trust
		signed []string
		want   string // the signed address, or the address in X-Forwarded-For
	}{
		"valid":                            {at(key, now), []string{good}, signer},
		"signed with the system clock":     {Trust{Hops: 1, Key: []byte(key)}, []string{sign(Trust{Key: []byte(key)})}, signer},
		"signed a minute ago":              {at(key, now.Add(time.Minute)), []string{good}, signer},
		"signed by a clock a minute ahead": {at(key, now.Add(-time.Minute)), []string{good}, signer},
		"signed too long ago":              {at(key, now.Add(time.Minute+time.Second)), []string{good}, "10.0.0.1"},
		"signed by a clock too far ahead":  {at(key, now.Add(-time.Minute-time.Second)), []string{good}, "10.0.0.1"},
		"another key":                      {at(strings.ToUpper(key), now), []string{good}, "10.0.0.1"},
		"no key":                           {Trust{Hops: 1}, []string{sign(Trust{Now: func() time.Time { return now }})}, "10.0.0.1"},
		"another purpose":                  {at(key, now), []string{at(key, now).sign(forRequest, signer)}, "10.0.0.1"},
		"another address":                  {at(key, now), []string{strings.Replace(good, signer, "203.0.113.8", 1)}, "10.0.0.1"},
		"another time":                     {at(key, now), []string{strings.Replace(good, "1800000000", "1800000001", 1)}, "10.0.0.1"},
		"no signature":                     {at(key, now), []string{signer + " 1800000000"}, "10.0.0.1"},
		"an empty signature":               {at(key, now), []string{signer + " 1800000000 "}, "10.0.0.1"},
		"no time and no signature":         {at(key, now), []string{signer}, "10.0.0.1"},
		"empty":                            {at(key, now), []string{""}, "10.0.0.1"},
		"two headers":                      {at(key, now), []string{good, good}, "10.0.0.1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Forwarded-For"] = []string{"10.0.0.1"}
		r.Header["X-Client-Address"] = test.signed
		if got := test.trust.address(r).String(); got != test.want {
			t.Errorf("%s: got address %s, want %s", name, got, test.want)
		}
	}
}

// TestIdentify checks that a function takes the request IDs only from the gateway. Any client can send the other
// headers.
func TestIdentify(t *testing.T) {
	gateway := Trust{Key: []byte("the key of the gateway, 32 bytes")}
	introduced := func(o request.Origin) http.Header {
		h := http.Header{}
		gateway.Introduce(h, &o)
		return h
	}
	address := netip.MustParseAddr("203.0.113.9")
	swapped := introduced(request.Origin{ID: "r1", Address: address})
	swapped.Set(HeaderRequest, swapped.Get(HeaderAddress))
	for name, c := range map[string]struct {
		header http.Header
		want   request.Origin // an empty ID stands for a new ID
	}{
		"from the gateway":             {introduced(request.Origin{ID: "r1", ClientID: "c1", Address: address}), request.Origin{ID: "r1", ClientID: "c1", Address: address}},
		"from the gateway, without ID": {introduced(request.Origin{ID: "r1", Address: address}), request.Origin{ID: "r1", Address: address}},
		"from a client":                {http.Header{"X-Request-Id": {"c1"}}, request.Origin{ClientID: "c1", Address: netip.MustParseAddr("192.0.2.1"), Public: true}},
		"forged":                       {http.Header{HeaderRequest: {"r1 c1 1800000000 00"}}, request.Origin{Address: netip.MustParseAddr("192.0.2.1"), Public: true}},
		"invalid client ID":            {http.Header{"X-Request-Id": {"a b"}}, request.Origin{Address: netip.MustParseAddr("192.0.2.1"), Public: true}},
		"long client ID":               {http.Header{"X-Request-Id": {strings.Repeat("x", 129)}}, request.Origin{Address: netip.MustParseAddr("192.0.2.1"), Public: true}},
		"signature of the address":     {swapped, request.Origin{ClientID: "r1", Address: address, Public: true}},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = c.header
		var got request.Origin
		gateway.Identify(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = *request.OriginOf(r.Context()) })).
			ServeHTTP(httptest.NewRecorder(), r)
		if c.want.ID == "" && len(got.ID) == 36 {
			c.want.ID = got.ID
		}
		if got != c.want {
			t.Errorf("%s: got origin %+v, want %+v", name, got, c.want)
		}
	}
}

// TestHost checks that only the gateway can replace the host of a request.
func TestHost(t *testing.T) {
	trust := Trust{Hops: 1, Key: []byte("the key of the gateway, 32 bytes")}
	for name, test := range map[string]struct {
		header map[string]string
		want   string
	}{
		"direct":                            {nil, "login.example"},
		"direct, forged":                    {map[string]string{"X-Forwarded-Host": "evil.example"}, "login.example"},
		"through a trusted proxy, forged":   {map[string]string{"X-Forwarded-Host": "evil.example", "X-Forwarded-For": "203.0.113.9"}, "login.example"},
		"forged signature":                  {map[string]string{"X-Forwarded-Host": "evil.example", HeaderRequest: "r1 c1 1800000000 00"}, "login.example"},
		"signature for another purpose":     {map[string]string{"X-Forwarded-Host": "evil.example", HeaderRequest: trust.sign(forAddress, "203.0.113.9")}, "login.example"},
		"through the gateway":               {map[string]string{"X-Forwarded-Host": "files.example:8443", HeaderRequest: trust.sign(forRequest, "r1 ")}, "files.example:8443"},
		"through the gateway without a key": {map[string]string{"X-Forwarded-Host": "evil.example", HeaderRequest: Trust{}.sign(forRequest, "r1 ")}, "login.example"},
	} {
		r := httptest.NewRequest("POST", "http://login.example/login", nil)
		for name, value := range test.header {
			r.Header.Set(name, value)
		}
		if got := trust.Host(r); got != test.want {
			t.Errorf("%s: got host %s, want %s", name, got, test.want)
		}
	}
}

func TestForwarded(t *testing.T) {
	for _, test := range []struct {
		hops      int
		forwarded string
		want      bool
	}{
		{0, "203.0.113.9", false},
		{1, "203.0.113.9", true},
		{2, "203.0.113.9", false},
		{2, "203.0.113.9, 10.0.0.1", true},
		{2, "unknown, 10.0.0.1", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Forwarded-For", test.forwarded)
		if got := (Trust{Hops: test.hops}).Forwarded(r) != nil; got != test.want {
			t.Errorf("%d hops, X-Forwarded-For %q: got %t, want %t", test.hops, test.forwarded, got, test.want)
		}
	}
}

func TestLoadTrust(t *testing.T) {
	write := func(content string) string {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const key = "s3cret-s3cret-s3cret-s3cret-s3cret"
	for name, test := range map[string]struct {
		hops int
		file string
		want string // a part of the error, or empty for no error
	}{
		"valid key":     {3, write(key + "\n"), ""},
		"no key":        {0, "", ""},
		"negative hops": {-1, "", "TRUSTED_HOPS"},
		"no file":       {0, write(key) + "x", "GATEWAY_KEY_FILE"},
		"short key":     {0, write(key[:31]), "GATEWAY_KEY_FILE"},
	} {
		trust, err := TrustSettings{test.hops, test.file}.Trust()
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: got error %v, want none", name, err)
		case test.want == "" && test.file != "" && string(trust.Key) != key:
			t.Errorf("%s: got key %q, want %q", name, trust.Key, key)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret")):
			t.Errorf("%s: got error %v, want one that names %s and does not show the key", name, err, test.want)
		}
	}
}
