package accounts

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestDeviceToken checks that a device token is valid for 30 days, only with the same key, and that a new token for the
// same user keeps the ID of the device.
func TestDeviceToken(t *testing.T) {
	now := start
	l := &lockout{now: func() time.Time { return now }, key: []byte("key")}
	// The first bits of ada are not 0, so that another first character of the token is another user.
	const ada, grace = "f0000000-0000-4000-8000-00000000ada0", "f0000000-0000-4000-8000-0000000face0"
	token, err := l.newDevice(ada, "")
	if err != nil {
		t.Fatal(err)
	}
	user, device := l.parseDevice(token)
	if user != ada || device == "" {
		t.Fatalf("got user %q and device %q, want user %s and a device", user, device, ada)
	}
	for name, test := range map[string]struct {
		user, given string
		same        bool
	}{
		"same user":     {ada, token, true},
		"another user":  {grace, token, false},
		"no token":      {ada, "", false},
		"invalid token": {ada, token[1:], false},
	} {
		renewed, err := l.newDevice(test.user, test.given)
		if err != nil {
			t.Fatal(err)
		}
		if u, d := l.parseDevice(renewed); u != test.user || (d == device) != test.same {
			t.Errorf("%s: got user %q and device %q, want user %s and the same device: %t", name, u, d, test.user, test.same)
		}
	}
	for name, invalid := range map[string]string{
		"empty": "", "short": token[:len(token)-4], "long": token + "AAAA", "no base64": strings.Repeat("!", len(token)),
		"another user": "A" + token[1:], "another signature": token[:len(token)-4] + "AAAA", "another time": token[:44] + "AA" + token[46:],
	} {
		if u, d := l.parseDevice(invalid); u+d != "" {
			t.Errorf("%s: got user %q and device %q, want none", name, u, d)
		}
	}
	other := &lockout{now: l.now, key: []byte("another key")}
	if u, d := other.parseDevice(token); u+d != "" {
		t.Errorf("another key: got user %q and device %q, want none", u, d)
	}
	now = start.Add(knownFor - time.Microsecond)
	if u, _ := l.parseDevice(token); u != ada {
		t.Error("before 30 days: got an invalid token")
	}
	now = start.Add(knownFor)
	if u, d := l.parseDevice(token); u+d != "" {
		t.Errorf("after 30 days: got user %q and device %q, want none", u, d)
	}
	if _, err := l.newDevice("x", ""); err == nil {
		t.Error("invalid user ID: got no error")
	}
}

// TestKeysAreBounded checks that the number of counters does not grow with the number of user names, that the counters
// depend on the key, and that they contain no user name.
func TestKeysAreBounded(t *testing.T) {
	l := &lockout{now: time.Now, key: []byte("key")}
	other := &lockout{now: time.Now, key: []byte("another key")}
	address := netip.MustParseAddr("192.0.2.1")
	keys := map[counterKey]bool{}
	same := 0
	const names = 100_000
	for n := range names {
		name := fmt.Sprint("name-", n)
		k := l.keysOf(name, Attempt{Username: name, Address: address})
		for _, key := range []counterKey{k.pair, k.strangers, k.sprayed} {
			keys[key] = true
			if strings.Contains(string(key.subject[:])+key.client, "name") {
				t.Fatalf("got the user name in the key %+v", key)
			}
		}
		if other.keysOf(name, Attempt{Address: address}).strangers == k.strangers {
			same++
		}
	}
	if got, most := len(keys), pairSlots+strangerSlots+1; got > most || got < most/2 {
		t.Errorf("got %d counters for %d names, want at most %d", got, names, most)
	}
	if same > names/1000 {
		t.Errorf("got %d of %d equal counters with another key, want almost none", same, names)
	}
}
