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

// operator performs the steps of a rotation in a fake cluster. Its clock advances by one minute before each step.
type operator struct {
	*cluster
	cfg   config
	clock time.Time
}

// deployed returns an operator of a cluster that has all Secrets.
func deployed(t *testing.T) *operator {
	t.Helper()
	c, cfg := start(t)
	if err := run(context.Background(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	return &operator{c, cfg, time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
}

// try performs a step and returns its report.
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

// step performs a step that must succeed, and returns its report.
func (o *operator) step(t *testing.T, step string) map[string]string {
	t.Helper()
	report, err := o.try(step)
	if err != nil {
		t.Fatalf("%s: %v", step, err)
	}
	return report
}

// token issues an access token with the key of a login pod that starts now.
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

// good reports whether a token is valid for a verifier pod that starts now.
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
		t.Fatalf("report before the rotation (-want +got):\n%s", diff)
	}
	oldToken := o.token(t)

	// Perform each step twice. The second time, the step must change nothing and return the same report.
	twice := func(step string) map[string]string {
		t.Helper()
		first := o.step(t, step)
		secrets := maps.Clone(o.secrets)
		if diff := cmp.Diff(first, o.step(t, step)); diff != "" {
			t.Errorf("reports of two %s steps (-first +second):\n%s", step, diff)
		}
		if diff := cmp.Diff(secrets, o.secrets); diff != "" {
			t.Errorf("the second %s step changed a Secret", step)
		}
		return first
	}

	after := twice("add")
	next := after["next"]
	if diff := cmp.Diff(map[string]string{
		"phase": "added", "signing": old, "signing_changed": "2026-01-01T00:00:00Z",
		"next": next, "verifying": old + " " + next, "verifying_changed": "2026-07-01T12:02:00Z",
	}, after); diff != "" || next == "" || next == old {
		t.Fatalf("report after add (-want +got):\n%s", diff)
	}
	if !o.good(t, oldToken) || !o.good(t, o.token(t)) {
		t.Error("a token is invalid after add")
	}

	if diff := cmp.Diff(map[string]string{
		"phase": "signed", "signing": next, "signing_changed": "2026-07-01T12:04:00Z",
		"next": "", "verifying": old + " " + next, "verifying_changed": "2026-07-01T12:02:00Z",
	}, twice("sign")); diff != "" {
		t.Fatalf("report after sign (-want +got):\n%s", diff)
	}
	newToken := o.token(t)
	if !o.good(t, oldToken) || !o.good(t, newToken) {
		t.Error("a token is invalid after sign")
	}

	if diff := cmp.Diff(map[string]string{
		"phase": "settled", "signing": next, "signing_changed": "2026-07-01T12:04:00Z",
		"next": "", "verifying": next, "verifying_changed": "2026-07-01T12:06:00Z",
	}, twice("retire")); diff != "" {
		t.Fatalf("report after retire (-want +got):\n%s", diff)
	}
	if o.good(t, oldToken) {
		t.Error("a token from the old key is valid after retire")
	}
	if !o.good(t, newToken) || !o.good(t, o.token(t)) {
		t.Error("a token from the new key is invalid after retire")
	}
	for name, keys := range want {
		if got := slices.Sorted(maps.Keys(o.secrets[name])); !slices.Equal(got, keys) {
			t.Errorf("Secret %s after a rotation: got keys %v, want %v", name, got, keys)
		}
	}

	// Another deployment does not change the keys, and another rotation is possible.
	secrets := maps.Clone(o.secrets)
	if err := run(context.Background(), o.cfg, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(secrets, o.secrets); diff != "" {
		t.Error("the secrets Job changed a Secret after a rotation")
	}
	if again := o.step(t, "add"); again["next"] == next || again["next"] == old {
		t.Error("the second rotation reused a key")
	}
}

// A step can be interrupted before each of its changes. If the operator repeats the step, the step is completed, and no
// additional key is created.
func TestRotationGoesOnWhereItWasBrokenOff(t *testing.T) {
	for broken, tc := range map[string]struct {
		before []string
		step   string
		refuse string // the name of the Secret that cannot be changed
		phase  string // the phase after the interruption
	}{
		"add: create the next key":        {step: "add", refuse: "token-signing-key", phase: "settled"},
		"add: extend the key set":         {step: "add", refuse: "token-keys", phase: "adding"},
		"sign: replace the current key":   {before: []string{"add"}, step: "sign", refuse: "token-signing-key", phase: "added"},
		"retire: reduce the key set":      {before: []string{"add", "sign"}, step: "retire", refuse: "token-keys", phase: "signed"},
		"retire: delete the previous key": {before: []string{"add", "sign"}, step: "retire", refuse: "token-signing-key", phase: "signed"},
	} {
		t.Run(broken, func(t *testing.T) {
			o := deployed(t)
			for _, step := range tc.before {
				o.step(t, step)
			}
			o.refuse["PATCH "+tc.refuse] = 500
			if _, err := o.try(tc.step); err == nil || !strings.Contains(err.Error(), `change Secret "`+tc.refuse+`": 500`) {
				t.Fatalf("got error %v, want one about %s", err, tc.refuse)
			}
			between := o.step(t, "status")
			if between["phase"] != tc.phase {
				t.Errorf("after the interruption, got phase %q, want %q", between["phase"], tc.phase)
			}
			if !o.good(t, o.token(t)) {
				t.Error("a token that is issued after the interruption is invalid")
			}
			delete(o.refuse, "PATCH "+tc.refuse)
			done := o.step(t, tc.step)
			if between["next"] != "" && tc.step == "add" && done["next"] != between["next"] {
				t.Error("the repeated step created another next key")
			}
			wantPhase := map[string]string{"add": "added", "sign": "signed", "retire": "settled"}[tc.step]
			if got := done["phase"]; got != wantPhase {
				t.Errorf("after the repeated step, got phase %q, want %q", got, wantPhase)
			}
			if !o.good(t, o.token(t)) {
				t.Error("a token that is issued after the repeated step is invalid")
			}
		})
	}
}

// If two operators add a key at the same time, the slower one uses the key of the other operator and creates no second key.
func TestRotationAddsOneKeyForTwo(t *testing.T) {
	o := deployed(t)
	var theirs map[string]string
	o.race = func(string) {
		o.race = nil
		theirs = o.step(t, "add")
	}
	ours := o.step(t, "add")
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("reports of two concurrent steps (-theirs +ours):\n%s", diff)
	}
	if got := len(strings.Fields(ours["verifying"])); got != 2 {
		t.Errorf("got %d keys, want 2", got)
	}
}

func TestUndo(t *testing.T) {
	o := deployed(t)
	old := o.step(t, "status")["signing"]
	if _, err := o.try("undo"); !errors.Is(err, errNothing) {
		t.Errorf("undo before the first step: got error %v, want %v", err, errNothing)
	}

	next := o.step(t, "add")["next"]
	undone := o.step(t, "undo")
	if undone["phase"] != "signed" || undone["next"] != "" || undone["signing"] != old || undone["verifying"] != old+" "+next {
		t.Errorf("got report %v after add was undone", undone)
	}
	if _, err := o.try("undo"); !errors.Is(err, errNothing) {
		t.Errorf("second undo: got error %v, want %v", err, errNothing)
	}
	if _, err := o.try("add"); !errors.Is(err, errUnderWay) {
		t.Errorf("add before retire: got error %v, want %v", err, errUnderWay)
	}
	if settled := o.step(t, "retire"); settled["phase"] != "settled" || settled["verifying"] != old {
		t.Errorf("got report %v after add was undone and the key was retired", settled)
	}

	o.step(t, "add")
	signed := o.step(t, "sign")
	newToken := o.token(t)
	undone = o.step(t, "undo")
	if undone["phase"] != "signed" || undone["signing"] != old {
		t.Errorf("got report %v after sign was undone", undone)
	}
	if undone["signing_changed"] == signed["signing_changed"] {
		t.Error("undo did not update the time of the last change, so login pods from before undo keep running")
	}
	if !o.good(t, newToken) || !o.good(t, o.token(t)) {
		t.Error("a token is invalid after sign was undone")
	}
	if settled := o.step(t, "retire"); settled["phase"] != "settled" || settled["verifying"] != old {
		t.Errorf("got report %v after sign was undone and the key was retired", settled)
	}
	if o.good(t, newToken) || !o.good(t, o.token(t)) {
		t.Error("retire removed the wrong key")
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
		"sign before add":     {step: "sign", want: errNotAdded.Error()},
		"sign during add":     {spoil: func(o *operator) { o.secrets["token-signing-key"]["next.jwk"] = foreign }, step: "sign", want: errNotAdded.Error()},
		"retire before sign":  {before: []string{"add"}, step: "retire", want: errNotSigned.Error()},
		"add before retire":   {before: []string{"add", "sign"}, step: "add", want: errUnderWay.Error()},
		"undo during retire":  {before: []string{"add", "sign"}, spoil: func(o *operator) { o.dropOld(t) }, step: "undo", want: errTooLate.Error()},
		"foreign key set":     {spoil: func(o *operator) { o.secrets["token-keys"]["jwks.json"] = foreignSet }, step: "add", want: errStranger.Error()},
		"missing key set":     {spoil: func(o *operator) { delete(o.secrets, "token-keys") }, step: "status", want: `the Secret "token-keys" does not exist`},
		"invalid key set":     {spoil: func(o *operator) { o.secrets["token-keys"]["jwks.json"] = []byte("{}") }, step: "add", want: `read entry jwks.json of Secret "token-keys"`},
		"missing signing key": {spoil: func(o *operator) { delete(o.secrets["token-signing-key"], "key.jwk") }, step: "add", want: `read entry key.jwk of Secret "token-signing-key"`},
		"invalid next key":    {spoil: func(o *operator) { o.secrets["token-signing-key"]["next.jwk"] = []byte(`{"kty":"oct"}`) }, step: "add", want: `read entry next.jwk`},
		"read forbidden":      {spoil: func(o *operator) { o.refuse["GET token-keys"] = 403 }, step: "add", want: `read Secret "token-keys": 403`},
		"unknown step":        {step: "turn", want: errUsage.Error()},
		"endless conflicts":   {spoil: func(o *operator) { o.race = func(name string) { o.Lock(); o.versions[name]++; o.Unlock() } }, step: "add", want: errMoving.Error()},
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
				t.Errorf("got error %v, want one that contains %q", err, tc.want)
			}
			if diff := cmp.Diff(secrets, o.secrets); diff != "" {
				t.Error("the step changed a Secret")
			}
		})
	}
	t.Run("arguments", func(t *testing.T) {
		o := deployed(t)
		for _, args := range [][]string{{"rotate"}, {"add"}, {"rotate", "add", "sign"}} {
			if err := run(context.Background(), o.cfg, args); !errors.Is(err, errUsage) {
				t.Errorf("arguments %q: got error %v, want %v", args, err, errUsage)
			}
		}
	})
}

// dropOld removes all keys except the last from the key set.
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

// The report must not contain a private key, because the operator's terminal and the Job's log show the report.
func TestReportHasNothingPrivate(t *testing.T) {
	o := deployed(t)
	for _, step := range []string{"status", "add", "sign", "retire"} {
		report := o.step(t, step)
		for name, private := range o.secrets["token-signing-key"] {
			var key struct{ D string }
			if err := json.Unmarshal(private, &key); err != nil || key.D == "" {
				t.Fatalf("decode the private part of %s: got %d characters, error %v", name, len(key.D), err)
			}
			for _, value := range report {
				if strings.Contains(value, key.D) {
					t.Errorf("the report of %s contains the private part of %s", step, name)
				}
			}
		}
	}
}
