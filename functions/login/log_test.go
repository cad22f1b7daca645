package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
)

// TestSignInLog checks that the log of a sign-in names the account and the client's address. It must not contain a user
// name, because users sometimes type a password into the user name field.
func TestSignInLog(t *testing.T) {
	const wrong = "babbage-1822"
	for name, c := range map[string]struct{ username, password, reason, user string }{
		"success":        {"ada", "lovelace-1843", "", adaID},
		"wrong code":     {"ada", "lovelace-1843", "no second factor", adaID},
		"wrong password": {"ada", wrong, "wrong password", adaID},
		"unknown user":   {"hunter2-secret", wrong, "unknown user", ""},
		"invalid name":   {"hunter2-\x00secret", wrong, "unknown user", ""},
		"disabled":       {"gone", "lovelace-1843", "disabled", "0195a3f0-0000-7000-8000-000000000003"},
		"expired":        {"expired", wrong, "password expired", adaID},
		"locked":         {"locked", wrong, "locked", "0195a3f0-0000-7000-8000-000000000004"},
		"locked unknown": {"hunter2-locked", wrong, "locked", ""},
		"must change":    {"eve", "first password", "password must be changed", eveID},
		"changed":        {"stale", "lovelace-1843", "account has changed", adaID},
		"second factor":  {"guarded", "lovelace-1843", "no second factor", adaID},
	} {
		f := newFixture(t, 0)
		f.store.blocked["hunter2-locked"] = true
		f.store.users["guarded"] = accounts.User{ID: adaID, Username: "guarded", PasswordHash: "[lovelace-1843]", Role: "user",
			SecondFactor: true, HasPasskey: true}
		f.store.users["stale"] = accounts.User{ID: adaID, Username: "stale", PasswordHash: "[lovelace-1843]", Role: "user"}
		f.store.users["expired"] = accounts.User{ID: adaID, Username: "expired", PasswordHash: "[lovelace-1843]", Role: "user",
			PasswordExpiresAt: time.Unix(1, 0)}
		var log bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
		form := url.Values{"username": {c.username}, "password": {c.password}}
		if f.store.stale = c.username == "stale"; f.store.stale {
			form.Set("new_password", "analytical-engine")
		}
		if name == "wrong code" {
			form.Set("recovery_code", "wrong")
		}
		f.do(post("application/x-www-form-urlencoded", form.Encode()))
		slog.SetDefault(before)
		type line struct {
			Event   string `json:"event"`
			Reason  string `json:"reason"`
			User    string `json:"user_id"`
			Address string `json:"address"`
		}
		want := line{"signin.refused", c.reason, c.user, "192.0.2.1"}
		if c.reason == "" {
			want = line{"", "", c.user, "192.0.2.1"} // the request line; the audit trail has the event
		}
		found := false
		for text := range bytes.Lines(log.Bytes()) {
			var got line
			var members map[string]any
			if err := errors.Join(json.Unmarshal(text, &got), json.Unmarshal(text, &members)); err != nil {
				t.Fatalf("decode log line %s: %v", text, err)
			}
			found = found || got == want
			for member, value := range members {
				if value == c.username && member != "reason" {
					t.Errorf("%s: got log line %s, want no user name in it", name, text)
				}
			}
		}
		if !found {
			t.Errorf("%s: got log %s, want a line with %+v", name, &log, want)
		}
		for _, secret := range []string{"hunter2", c.password} {
			if strings.Contains(log.String(), secret) {
				t.Errorf("%s: got log %s, want no %s in it", name, &log, secret)
			}
		}
	}
}
