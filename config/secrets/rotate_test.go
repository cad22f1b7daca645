package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strongroom-dev/strongroom/shared/token"
)

// operator takes the steps of a rotation at ever later times.
type operator struct {
	*cluster
	cfg   config
	clock time.Time
}

// deployed is a cluster with all Secrets.
func deployed(t *testing.T) *operator {
	t.Helper()
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	return &operator{c, cfg, time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
}

// try takes a step and returns what it reports.
func (o *operator) try(step string) (map[string]string, error) {
	api, err := newKubernetes(o.cfg.Host, o.cfg.Port, o.cfg.ServiceAccount)
	if err != nil {
		return nil, err
	}
	o.clock = o.clock.Add(time.Minute)
	var out bytes.Buffer
	if err := rotate(context.Background(), api, step, func() time.Time { return o.clock }, &out); err != nil {
		return nil, err
	}
	report := map[string]string{}
	for line := range strings.Lines(out.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		report[name] = value
	}
	return report, nil
}

// step takes a step that must succeed.
func (o *operator) step(t *testing.T, step string) map[string]string {
	t.Helper()
	report, err := o.try(step)
	if err != nil {
		t.Fatalf("%s: %v", step, err)
	}
	return report
}

// token issues one as a login pod that starts now would.
func (o *operator) token(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "key.jwk", string(o.secrets["token-signing-key"]["key.jwk"]))
	signer, err := token.LoadSigner(filepath.Join(dir, "key.jwk"), "issuer", "audience", time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := signer.Sign(token.Subject{ID: "1", Username: "ada", Roles: []string{"user"}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// good tells what a verifier pod that starts now says of a token.
func (o *operator) good(t *testing.T, raw string) bool {
	t.Helper()
	keys, err := token.ParseKeys(o.secrets["token-keys"]["jwks.json"])
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := token.NewVerifier(keys, "issuer", "audience")
	if err != nil {
		t.Fatal(err)
	}
	_, err = verifier.Verify(raw)
	return err == nil
}

func TestRotation(t *testing.T) {
	o := deployed(t)
	before := o.step(t, "status")
	old := before["signing"]
	if diff := cmp.Diff(map[string]string{
		"phase": "settled", "signing": old, "signing_changed": "2026-01-01T00:00:00Z",
		"next": "", "verifying": old, "verifying_changed": "2026-01-01T00:00:00Z",
	}, before); diff != "" || old == "" {
		t.Fatalf("before (-want +got):\n%s", diff)
	}
	oldToken := o.token(t)

	// Each step is taken twice: the second time it changes nothing, but for the report's sake all is the same.
	twice := func(step string) map[string]string {
		t.Helper()
		first := o.step(t, step)
		secrets := maps.Clone(o.secrets)
		if diff := cmp.Diff(first, o.step(t, step)); diff != "" {
			t.Errorf("%s, the second time (-first +second):\n%s", step, diff)
		}
		if diff := cmp.Diff(secrets, o.secrets); diff != "" {
			t.Errorf("%s, the second time, changed a Secret", step)
		}
		return first
	}

	after := twice("add")
	next := after["next"]
	if diff := cmp.Diff(map[string]string{
		"phase": "added", "signing": old, "signing_changed": "2026-01-01T00:00:00Z",
		"next": next, "verifying": old + " " + next, "verifying_changed": "2026-07-01T12:02:00Z",
	}, after); diff != "" || next == "" || next == old {
		t.Fatalf("after add (-want +got):\n%s", diff)
	}
	if !o.good(t, oldToken) || !o.good(t, o.token(t)) {
		t.Error("after add a token is not good")
	}

	if diff := cmp.Diff(map[string]string{
		"phase": "signed", "signing": next, "signing_changed": "2026-07-01T12:04:00Z",
		"next": "", "verifying": old + " " + next, "verifying_changed": "2026-07-01T12:02:00Z",
	}, twice("sign")); diff != "" {
		t.Fatalf("after sign (-want +got):\n%s", diff)
	}
	newToken := o.token(t)
	if !o.good(t, oldToken) || !o.good(t, newToken) {
		t.Error("after sign a token is not good")
	}

	if diff := cmp.Diff(map[string]string{
		"phase": "settled", "signing": next, "signing_changed": "2026-07-01T12:04:00Z",
		"next": "", "verifying": next, "verifying_changed": "2026-07-01T12:06:00Z",
	}, twice("retire")); diff != "" {
		t.Fatalf("after retire (-want +got):\n%s", diff)
	}
	if o.good(t, oldToken) {
		t.Error("after retire a token of the old key is good")
	}
	if !o.good(t, newToken) || !o.good(t, o.token(t)) {
		t.Error("after retire a token of the new key is not good")
	}
	for name, keys := range want {
		if got := slices.Sorted(maps.Keys(o.secrets[name])); !slices.Equal(got, keys) {
			t.Errorf("after a rotation Secret %s has %v, want %v", name, got, keys)
		}
	}

	// Deploying again leaves the keys as they are, and another rotation is possible.
	secrets := maps.Clone(o.secrets)
	if err := run(context.Background(), o.cfg, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(secrets, o.secrets); diff != "" {
		t.Error("the secrets Job changed a Secret after a rotation")
	}
	if again := o.step(t, "add"); again["next"] == next || again["next"] == old {
		t.Error("a key was used twice")
	}
}

// Whatever change a step is broken off at, taking it again comes to the same end, with no key more.
func TestRotationGoesOnWhereItWasBrokenOff(t *testing.T) {
	for broken, tc := range map[string]struct {
		before []string
		step   string
		refuse string // the Secret whose change fails
		phase  string // in between
	}{
		"no next key":       {nil, "add", "token-signing-key", "settled"},
		"not in the set":    {nil, "add", "token-keys", "adding"},
		"does not sign":     {[]string{"add"}, "sign", "token-signing-key", "added"},
		"is not retired":    {[]string{"add", "sign"}, "retire", "token-keys", "signed"},
		"previous key kept": {[]string{"add", "sign"}, "retire", "token-signing-key", "signed"},
	} {
		t.Run(broken, func(t *testing.T) {
			o := deployed(t)
			for _, step := range tc.before {
				o.step(t, step)
			}
			o.refuse["PATCH "+tc.refuse] = 500
			if _, err := o.try(tc.step); err == nil || !strings.Contains(err.Error(), `change Secret "`+tc.refuse+`": 500`) {
				t.Fatalf("error %v, want one about %s", err, tc.refuse)
			}
			between := o.step(t, "status")
			if between["phase"] != tc.phase {
				t.Errorf("broken off, the phase is %q, want %q", between["phase"], tc.phase)
			}
			if !o.good(t, o.token(t)) {
				t.Error("a token that is issued meanwhile is not good")
			}
			delete(o.refuse, "PATCH "+tc.refuse)
			done := o.step(t, tc.step)
			if between["next"] != "" && tc.step == "add" && done["next"] != between["next"] {
				t.Error("the next key was made anew")
			}
			wantPhase := map[string]string{"add": "added", "sign": "signed", "retire": "settled"}[tc.step]
			if got := done["phase"]; got != wantPhase {
				t.Errorf("in the end the phase is %q, want %q", got, wantPhase)
			}
			if !o.good(t, o.token(t)) {
				t.Error("a token that is issued in the end is not good")
			}
		})
	}
}

// Two operators at once: the one who comes too late finds the other's key and makes none.
func TestRotationAddsOneKeyForTwo(t *testing.T) {
	o := deployed(t)
	var theirs map[string]string
	o.race = func(string) {
		o.race = nil
		theirs = o.step(t, "add")
	}
	ours := o.step(t, "add")
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("two steps at once (-theirs +ours):\n%s", diff)
	}
	if got := len(strings.Fields(ours["verifying"])); got != 2 {
		t.Errorf("%d keys, want 2", got)
	}
}

func TestUndo(t *testing.T) {
	o := deployed(t)
	old := o.step(t, "status")["signing"]
	if _, err := o.try("undo"); !errors.Is(err, errNothing) {
		t.Errorf("nothing to undo: %v", err)
	}

	next := o.step(t, "add")["next"]
	undone := o.step(t, "undo")
	if undone["phase"] != "signed" || undone["next"] != "" || undone["signing"] != old || undone["verifying"] != old+" "+next {
		t.Errorf("add undone: %v", undone)
	}
	if _, err := o.try("undo"); !errors.Is(err, errNothing) {
		t.Errorf("undo again: %v", err)
	}
	if _, err := o.try("add"); !errors.Is(err, errUnderWay) {
		t.Errorf("add before the superfluous key is retired: %v", err)
	}
	if settled := o.step(t, "retire"); settled["phase"] != "settled" || settled["verifying"] != old {
		t.Errorf("add undone and retired: %v", settled)
	}

	o.step(t, "add")
	signed := o.step(t, "sign")
	newToken := o.token(t)
	undone = o.step(t, "undo")
	if undone["phase"] != "signed" || undone["signing"] != old {
		t.Errorf("sign undone: %v", undone)
	}
	if undone["signing_changed"] == signed["signing_changed"] {
		t.Error("nothing tells a login pod from before undo from one after it")
	}
	if !o.good(t, newToken) || !o.good(t, o.token(t)) {
		t.Error("after sign was undone a token is not good")
	}
	if settled := o.step(t, "retire"); settled["phase"] != "settled" || settled["verifying"] != old {
		t.Errorf("sign undone and retired: %v", settled)
	}
	if o.good(t, newToken) || !o.good(t, o.token(t)) {
		t.Error("the wrong key was retired")
	}
}

func TestRefusesStepsOutOfOrder(t *testing.T) {
	foreign, foreignSet, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		before []string
		spoil  func(o *operator)
		step   string
		want   string
	}{
		"sign without a key":      {nil, nil, "sign", errNotAdded.Error()},
		"sign before the set":     {nil, func(o *operator) { o.secrets["token-signing-key"]["next.jwk"] = foreign }, "sign", errNotAdded.Error()},
		"retire before sign":      {[]string{"add"}, nil, "retire", errNotSigned.Error()},
		"add before retire":       {[]string{"add", "sign"}, nil, "add", errUnderWay.Error()},
		"undo after retire began": {[]string{"add", "sign"}, func(o *operator) { o.dropOld(t) }, "undo", errTooLate.Error()},
		"another key set":         {nil, func(o *operator) { o.secrets["token-keys"]["jwks.json"] = foreignSet }, "add", errStranger.Error()},
		"no key set":              {nil, func(o *operator) { delete(o.secrets, "token-keys") }, "status", `no Secret "token-keys"`},
		"spoiled key set":         {nil, func(o *operator) { o.secrets["token-keys"]["jwks.json"] = []byte("{}") }, "add", `read jwks.json of Secret "token-keys"`},
		"no signing key":          {nil, func(o *operator) { delete(o.secrets["token-signing-key"], "key.jwk") }, "add", `read key.jwk of Secret "token-signing-key"`},
		"spoiled next key":        {nil, func(o *operator) { o.secrets["token-signing-key"]["next.jwk"] = []byte(`{"kty":"oct"}`) }, "add", `read next.jwk`},
		"may not read":            {nil, func(o *operator) { o.refuse["GET token-keys"] = 403 }, "add", `read Secret "token-keys": 403`},
		"no such step":            {nil, nil, "turn", errUsage.Error()},
		"always too late":         {nil, func(o *operator) { o.race = func(name string) { o.Lock(); o.versions[name]++; o.Unlock() } }, "add", errMoving.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			o := deployed(t)
			for _, step := range tc.before {
				o.step(t, step)
			}
			if tc.spoil != nil {
				tc.spoil(o)
			}
			secrets := map[string]map[string][]byte{}
			for name, data := range o.secrets {
				secrets[name] = maps.Clone(data)
			}
			if _, err := o.try(tc.step); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if diff := cmp.Diff(secrets, o.secrets); diff != "" {
				t.Error("a Secret changed")
			}
		})
	}
	t.Run("arguments", func(t *testing.T) {
		o := deployed(t)
		for _, args := range [][]string{{"rotate"}, {"add"}, {"rotate", "add", "sign"}} {
			if err := run(context.Background(), o.cfg, args); !errors.Is(err, errUsage) {
				t.Errorf("%q: %v", args, err)
			}
		}
	})
}

// dropOld takes all keys but the last from the set.
func (o *operator) dropOld(t *testing.T) {
	t.Helper()
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(o.secrets["token-keys"]["jwks.json"], &set); err != nil {
		t.Fatal(err)
	}
	set.Keys = set.Keys[len(set.Keys)-1:]
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	o.secrets["token-keys"]["jwks.json"] = data
}

// The report goes to the operator's terminal and the Job's log.
func TestReportHasNothingPrivate(t *testing.T) {
	o := deployed(t)
	for _, step := range []string{"status", "add", "sign", "retire"} {
		report := o.step(t, step)
		for name, private := range o.secrets["token-signing-key"] {
			var key struct{ D string }
			if err := json.Unmarshal(private, &key); err != nil || key.D == "" {
				t.Fatalf("%s: %v", name, err)
			}
			for _, value := range report {
				if strings.Contains(value, key.D) {
					t.Errorf("after %s the report has the private part of %s", step, name)
				}
			}
		}
	}
}
