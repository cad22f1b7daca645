package deploy_test

import (
	"strings"
	"testing"
)

// TestHopsChecksEachURL runs hops with stand-ins for kubectl and curl. TestHops in test/integration runs it with real
// functions and proxies.
func TestHopsChecksEachURL(t *testing.T) {
	const (
		gateway, accounts = "https://gateway.example.com", "https://accounts.example.com"
		local             = "http://accounts.strongroom.svc.cluster.local"
		client, forged    = "198.51.100.7", "203.0.113.4" // the fourth entry is forged if the proxies add 3 entries
		correct           = ": TRUSTED_HOPS is 4.\nThe number is correct: the function found the address of this machine, " + client
	)
	for name, tc := range map[string]struct {
		hops     string
		accounts string // the URL of accounts
		status   string // of the sign-in
		seen     string // patterns of bash's case, and what curl does for each URL
		code     int
		want     []string // in the output
		without  string   // not in the output
		client   string   // the setting CLIENT
	}{
		"both are correct":        {"4", accounts, "200", "*) " + noted(client), 0, []string{gateway + correct, accounts + correct}, "", ""},
		"only the gateway":        {"4", local, "200", "*) " + noted(client), 0, []string{gateway + correct}, "accounts", ""},
		"accounts is unreachable": {"4", accounts, "200", "*accounts.example*) exit 6 ;; *) " + noted(client), 0, []string{gateway + correct, accounts + ": not checked"}, "", ""},
		"the gateway ends":        {"4", accounts, "200", "*) exit 6", 1, []string{gateway + " does not respond."}, "TRUSTED_HOPS", ""},
		"a shorter way to accounts": {"4", accounts, "200", "*accounts.example*) " + noted(forged) + " ;; *) " + noted(client), 1,
			[]string{gateway + correct, "For " + gateway + ", the number is correct. Make sure that clients cannot reach " + accounts}, "Set TRUSTED_HOPS", ""},
		"forged at both": {"4", accounts, "200", "*) " + noted(forged), 1, []string{"a client can forge its address", "Set TRUSTED_HOPS to 3."}, "is correct", ""},
		"behind NAT": {"4", local, "200", "*) " + noted("192.0.2.9"), 1,
			[]string{"A client cannot forge its address.", "CLIENT=192.0.2.9 deploy/hops\n", "Raise TRUSTED_HOPS by 1"}, "", ""},
		"behind NAT, with CLIENT": {"4", local, "200", "*) " + noted("192.0.2.9"), 0,
			[]string{gateway + ": TRUSTED_HOPS is 4.\nThe number is correct: the function found the address of this machine, 192.0.2.9"}, "", "192.0.2.9"},
		"the sign-in fails": {"4", accounts, "401", "*) exit 1", 1, []string{"The sign-in of admin at " + gateway + "/login failed: 401"}, "", ""},
		"no setting":        {"", accounts, "200", "*) exit 1", 1, []string{`TRUSTED_HOPS is "". It must be a number from 1 to 99.`}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, map[string]responses{
				"kubectl": {
					text(`*"get configmap strongroom "*`, tc.hops),
					text(`*"get ksvc gateway "*`, gateway), text(`*"get ksvc accounts "*`, tc.accounts),
				},
				// The stand-in reads the configuration of curl, which contains the method, the URL and the secrets.
				"curl": {{anything, `
config=$(cat)
case $config in
  *'/login"'*) [[ $config == *'"password=s3cr\"et\\"'* ]] || exit 7; printf '{"access_token":"TOKEN"}\n\n` + tc.status + ` ` + client + `' ;;
  *'request = POST'*'X-Forwarded-For: 203.0.113.1, 203.0.113.2, 203.0.113.3, 203.0.113.4"'*)
    case $config in ` + tc.seen + ` ;; esac
    printf '{"id":"A","username":"hops"}\n\n201 ` + client + `' ;;
  *'request = GET'*)
    printf '{"entries":[{"id":"E","actor":{"username":"admin"},"account":{"id":"A","username":"hops"},"role":"user","address":"%s"},{"id":"F"}]}\n\n200 ` + client + `' "$(cat "$CALLS.address")" ;;
  *'request = DELETE'*) printf '\n204 ` + client + `' ;;
  *) exit 8 ;;
esac`}},
			}, []string{"CLIENT=" + tc.client}, "hops")
			if got.code != tc.code {
				t.Errorf("got exit code %d, want %d, with the output\n%s", got.code, tc.code, got.output)
			}
			for _, want := range tc.want {
				if !strings.Contains(got.output, want) {
					t.Errorf("got the output\n%s\nwant %q", got.output, want)
				}
			}
			if tc.without != "" && strings.Contains(got.output, tc.without) {
				t.Errorf("got the output\n%s\nwant it without %q", got.output, tc.without)
			}
			if got.call("s3cr") >= 0 || got.call("TOKEN") >= 0 {
				t.Errorf("an argument contains a secret: %q", got.calls)
			}
		})
	}
}

// noted returns a command of the stand-in for curl. It notes the address that the audit log then contains.
func noted(address string) string { return "printf " + address + ` >"$CALLS.address"` }
