package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/token"
)

// The Secrets that a rotation changes, and what is in them. All private keys are in one Secret, so that one change of it
// moves a key from one role to the next, and there is no state in between.
const (
	signingSecret = "token-signing-key"
	currentKey    = "key.jwk"      // what login signs with
	nextKey       = "next.jwk"     // what it will sign with: there from add to sign
	previousKey   = "previous.jwk" // what it signed with before: there from sign to retire, so that sign can be undone

	verifyingSecret = "token-keys"
	keySet          = "jwks.json" // what the others verify with
)

// changedAt is the annotation of such a Secret that says when what functions read of it changed last: a pod that started
// after its Secret changed knows the keys of now.
const changedAt = "strongroom.dev/keys-changed"

// phase says where a rotation is. It follows from what the Secrets hold and from nothing else, so that a rotation goes on
// wherever it was broken off.
type phase string

const (
	settled phase = "settled" // no rotation is under way
	adding  phase = "adding"  // there is a next key, which the key set does not have yet
	added   phase = "added"   // there is a next key
	signed  phase = "signed"  // there are keys in the key set besides the one that login signs with
)

var (
	errUsage     = errors.New("the arguments are none, or rotate add|sign|retire|undo|status")
	errUnderWay  = errors.New("a rotation is under way, whose old key is not retired yet: retire it before another key is added")
	errNotAdded  = errors.New("there is no other key to sign with: add one first")
	errNotSigned = errors.New("a key was added and does not sign yet: sign with it or undo that, before any is retired")
	errNothing   = errors.New("there is nothing to undo")
	errTooLate   = errors.New("the old key can not be signed with again: the key set does not have it any more")
	errStranger  = errors.New("the Secret token-keys does not have the key that login signs with, so no token is good: restore it, or delete it and run the secrets Job")
	errMoving    = errors.New("the Secrets keep changing: somebody else rotates the keys, too")
)

// maxChanges bounds the changes of one step, those that came too late included.
const maxChanges = 10

// ring is what the two Secrets hold.
type ring struct {
	signing, verifying      secret
	current, next, previous string // key ids, "" where there is no such key
	nextPublic              json.RawMessage
	ids                     []string // of the keys in the key set
	set                     []json.RawMessage
}

// change is one atomic change of a Secret. A key whose data is nil goes.
type change struct {
	of   secret
	data map[string][]byte
	// read says that functions read what changes.
	read bool
}

// rotate does one step of a rotation, and then writes to out where the rotation is, as lines of NAME=VALUE with nothing
// private in them. A step that is done already changes nothing.
func rotate(ctx context.Context, api *kubernetes, step string, now func() time.Time, out io.Writer) error {
	plan, known := map[string]func(*ring) (*change, error){
		"add": planAdd, "sign": planSign, "retire": planRetire, "undo": planUndo,
		"status": func(*ring) (*change, error) { return nil, nil },
	}[step]
	if !known {
		return errUsage
	}
	for range maxChanges {
		r, err := readRing(ctx, api)
		if err != nil {
			return err
		}
		c, err := plan(r)
		if err != nil {
			return err
		}
		if c == nil {
			return r.report(out)
		}
		annotations := map[string]string{}
		if c.read {
			annotations[changedAt] = now().UTC().Format(time.RFC3339)
		}
		err = api.patch(ctx, c.of, annotations, c.data)
		if errors.Is(err, errConflict) {
			continue // somebody else was faster: plan anew with what is there now
		}
		if err != nil {
			return err
		}
		slog.InfoContext(ctx, "changed", "secret", c.of.Metadata.Name, "step", step)
		if step == "undo" { // one step back, not all the way
			plan = func(*ring) (*change, error) { return nil, nil }
		}
	}
	return errMoving
}

// planAdd makes the next key, and then puts its public half into the key set.
func planAdd(r *ring) (*change, error) {
	switch r.phase() {
	case settled:
		private, _, err := token.GenerateKey()
		return &change{of: r.signing, data: map[string][]byte{nextKey: private}}, err
	case adding:
		return r.newSet(append(slices.Clone(r.set), r.nextPublic))
	case added:
		return nil, nil
	}
	return nil, errUnderWay
}

// planSign makes the next key the current one.
func planSign(r *ring) (*change, error) {
	switch r.phase() {
	case added:
		return &change{of: r.signing, read: true, data: map[string][]byte{
			currentKey: r.signing.Data[nextKey], nextKey: nil, previousKey: r.signing.Data[currentKey],
		}}, nil
	case signed:
		return nil, nil
	}
	return nil, errNotAdded
}

// planRetire leaves the current key alone in the key set, and then drops the private half of the one before.
func planRetire(r *ring) (*change, error) {
	switch {
	case r.phase() == settled:
		return nil, nil
	case r.phase() != signed:
		return nil, errNotSigned
	case len(r.set) > 1:
		i := slices.Index(r.ids, r.current)
		return r.newSet(r.set[i : i+1])
	}
	return &change{of: r.signing, data: map[string][]byte{previousKey: nil}}, nil
}

// planUndo takes the last step back: a key that was added goes, or what signed before signs again. The key set stays as
// it is until its superfluous keys are retired, for there may be tokens that were signed with them.
func planUndo(r *ring) (*change, error) {
	switch {
	case r.next != "":
		return &change{of: r.signing, data: map[string][]byte{nextKey: nil}}, nil
	case r.previous == "":
		return nil, errNothing
	case !slices.Contains(r.ids, r.previous):
		return nil, errTooLate
	}
	return &change{of: r.signing, read: true, data: map[string][]byte{
		currentKey: r.signing.Data[previousKey], previousKey: nil,
	}}, nil
}

// readRing reads and checks what the Secrets hold.
func readRing(ctx context.Context, api *kubernetes) (*ring, error) {
	var r ring
	for name, into := range map[string]*secret{signingSecret: &r.signing, verifyingSecret: &r.verifying} {
		found, err := api.read(ctx, name)
		if err != nil {
			return nil, err
		}
		if found == nil {
			return nil, fmt.Errorf("there is no Secret %q: deploy Strongroom first", name)
		}
		*into = *found
	}
	var err error
	if r.ids, r.set, err = split(r.verifying.Data[keySet]); err != nil {
		return nil, fmt.Errorf("read %s of Secret %q: %w", keySet, verifyingSecret, err)
	}
	for name, id := range map[string]*string{currentKey: &r.current, nextKey: &r.next, previousKey: &r.previous} {
		private, there := r.signing.Data[name]
		if !there && name != currentKey {
			continue
		}
		public, err := publicSet(private)
		if err != nil {
			return nil, fmt.Errorf("read %s of Secret %q: %w", name, signingSecret, err)
		}
		ids, keys, err := split(public)
		if err != nil {
			return nil, fmt.Errorf("read %s of Secret %q: %w", name, signingSecret, err)
		}
		*id = ids[0]
		if name == nextKey {
			r.nextPublic = keys[0]
		}
	}
	if !slices.Contains(r.ids, r.current) {
		return nil, errStranger
	}
	return &r, nil
}

// split returns the ids and the keys of a JWK Set.
func split(set []byte) (ids []string, keys []json.RawMessage, err error) {
	parsed, err := token.ParseKeys(set)
	if err != nil {
		return nil, nil, err
	}
	var normal struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(parsed.JWKS(), &normal); err != nil {
		return nil, nil, err
	}
	for _, key := range normal.Keys {
		var named struct {
			ID string `json:"kid"`
		}
		if err := json.Unmarshal(key, &named); err != nil {
			return nil, nil, err
		}
		ids = append(ids, named.ID)
	}
	return ids, normal.Keys, nil
}

func (r *ring) phase() phase {
	switch {
	case r.next != "" && !slices.Contains(r.ids, r.next):
		return adding
	case r.next != "":
		return added
	case len(r.ids) > 1 || r.previous != "":
		return signed
	}
	return settled
}

// newSet replaces the key set, and makes sure that the verifiers will take it.
func (r *ring) newSet(keys []json.RawMessage) (*change, error) {
	set, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		return nil, err
	}
	if _, err := token.ParseKeys(set); err != nil {
		return nil, fmt.Errorf("build the key set: %w", err)
	}
	return &change{of: r.verifying, read: true, data: map[string][]byte{keySet: set}}, nil
}

func (r *ring) report(out io.Writer) error {
	_, err := fmt.Fprintf(out, "phase=%s\nsigning=%s\nsigning_changed=%s\nnext=%s\nverifying=%s\nverifying_changed=%s\n",
		r.phase(), r.current, r.signing.changed(), r.next, strings.Join(r.ids, " "), r.verifying.changed())
	return err
}

// changed says when what functions read of the Secret changed last.
func (s secret) changed() string {
	if at := s.Metadata.Annotations[changedAt]; at != "" {
		return at
	}
	return s.Metadata.Created
}
