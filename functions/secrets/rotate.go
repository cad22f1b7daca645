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

// The names of the two Secrets that a key rotation changes, and of the entries in these Secrets.
const (
	// All private signing keys are in one Secret, so that a single atomic change can replace the current key and keep
	// it as the previous key.
	signingSecret = "token-signing-key"
	currentKey    = "key.jwk"      // the key that the login function signs with
	nextKey       = "next.jwk"     // the key that will replace the current key; exists from "add" to "sign"
	previousKey   = "previous.jwk" // the current key before "sign"; exists until "retire", so that "sign" can be undone

	verifyingSecret = "token-keys"
	keySet          = "jwks.json" // the public keys with which the other functions verify tokens
)

// changedAt is a Secret annotation that contains the time of the latest change to the entries that the functions
// use. A pod that started after this time uses the current keys.
const changedAt = "strongroom.dev/keys-changed"

// phase is the state of a key rotation. It is derived only from the token-signing-key and token-keys Secrets, so that
// an interrupted rotation can be continued.
type phase string

const (
	settled phase = "settled" // no rotation is in progress
	adding  phase = "adding"  // a next key exists, but the key set does not contain it yet
	added   phase = "added"   // a next key exists, and the key set contains it
	signed  phase = "signed"  // a previous key exists, or the key set contains keys other than the current key
)

var (
	errUsage     = errors.New(`invalid arguments: use no arguments, or "rotate" and one of "add", "sign", "retire", "undo" and "status"`)
	errUnderWay  = errors.New(`a key rotation is already in progress: run "retire" before "add"`)
	errNotAdded  = errors.New(`the key set contains no new key: run "add" before "sign"`)
	errNotSigned = errors.New(`the login function does not sign with the added key yet: run "sign" or "undo" before "retire"`)
	errNothing   = errors.New("there is no key rotation step to undo")
	errTooLate   = errors.New("cannot sign with the old key again, because that key is no longer in the key set")
	errStranger  = errors.New("the token-keys Secret does not contain the key that the login function signs with, so no access token is valid: restore the Secret, or delete it and run the secrets Job")
	errMoving    = errors.New("the token-signing-key and token-keys Secrets keep changing: another client is rotating the keys at the same time")
)

// maxChanges is the maximum number of changes that one step attempts, so that the step ends even if another client
// keeps changing the Secrets.
const maxChanges = 10

// ring holds the token-signing-key and token-keys Secrets, along with the keys that they contain.
type ring struct {
	signing, verifying      secret
	current, next, previous string // key IDs; "" if the key does not exist
	nextPublic              json.RawMessage
	ids                     []string // the IDs of the keys in set
	set                     []json.RawMessage
}

// change describes an atomic update of one Secret. data maps entry names to new values. A nil value deletes the
// entry.
type change struct {
	of   secret
	data map[string][]byte
	// read is true if a serverless function reads any of the entries in data.
	read bool
}

// rotate performs one step of a key rotation. It then writes the state of the rotation to out as NAME=VALUE lines,
// which contain no private data.
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
		if c == nil { // the step is complete, perhaps since an earlier run
			return r.report(out)
		}
		annotations := map[string]string{}
		if c.read {
			annotations[changedAt] = now().UTC().Format(time.RFC3339)
		}
		err = api.patch(ctx, c.of, annotations, c.data)
		if errors.Is(err, errConflict) {
			continue // another client has changed the Secret, so plan again
		}
		if err != nil {
			return err
		}
		slog.InfoContext(ctx, "changed Secret", "secret", c.of.Metadata.Name, "step", step)
		if step == "undo" { // a single change completes "undo", and planning again would return errNothing
			plan = func(*ring) (*change, error) { return nil, nil }
		}
	}
	return errMoving
}

// planAdd returns the next change for the "add" step of a key rotation, or nil if the step is complete.
func planAdd(r *ring) (*change, error) {
	switch r.phase() {
	case settled: // first, create the next key
		private, _, err := token.GenerateKey()
		return &change{of: r.signing, data: map[string][]byte{nextKey: private}}, err
	case adding: // then, add the public part of the next key to the key set
		return r.newSet(append(slices.Clone(r.set), r.nextPublic))
	case added:
		return nil, nil
	}
	return nil, errUnderWay
}

// planSign returns the change that replaces the current key with the next key, or nil if this change has already
// been made.
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

// planRetire returns the next change for the "retire" step of a key rotation, or nil if the step is complete.
func planRetire(r *ring) (*change, error) {
	switch {
	case r.phase() == settled:
		return nil, nil
	case r.phase() != signed:
		return nil, errNotSigned
	case len(r.set) > 1: // first, remove all keys except the current key from the key set
		i := slices.Index(r.ids, r.current)
		return r.newSet(r.set[i : i+1])
	}
	// Then, delete the previous private key.
	return &change{of: r.signing, data: map[string][]byte{previousKey: nil}}, nil
}

// planUndo returns the change that undoes the last step: it deletes the next key, or makes the previous key the
// current key again.
func planUndo(r *ring) (*change, error) {
	switch {
	case r.next != "":
		return &change{of: r.signing, data: map[string][]byte{nextKey: nil}}, nil
	case r.previous == "":
		return nil, errNothing
	case !slices.Contains(r.ids, r.previous):
		return nil, errTooLate
	}
	// Do not change the key set until the "retire" step, because the login function might have signed tokens with the
	// key that "undo" replaces.
	return &change{of: r.signing, read: true, data: map[string][]byte{
		currentKey: r.signing.Data[previousKey], previousKey: nil,
	}}, nil
}

// readRing reads the token-signing-key and token-keys Secrets, and parses and checks the keys that they contain.
func readRing(ctx context.Context, api *kubernetes) (*ring, error) {
	var r ring
	for name, into := range map[string]*secret{signingSecret: &r.signing, verifyingSecret: &r.verifying} {
		found, err := api.read(ctx, name)
		if err != nil {
			return nil, err
		}
		if found == nil {
			return nil, fmt.Errorf("the Secret %q does not exist: deploy Strongroom first", name)
		}
		*into = *found
	}
	var err error
	if r.ids, r.set, err = split(r.verifying.Data[keySet]); err != nil {
		return nil, fmt.Errorf("read entry %s of Secret %q: %w", keySet, verifyingSecret, err)
	}
	for name, id := range map[string]*string{currentKey: &r.current, nextKey: &r.next, previousKey: &r.previous} {
		private, there := r.signing.Data[name]
		if !there && name != currentKey {
			continue
		}
		public, err := publicSet(private)
		if err != nil {
			return nil, fmt.Errorf("read entry %s of Secret %q: %w", name, signingSecret, err)
		}
		ids, keys, err := split(public)
		if err != nil {
			return nil, fmt.Errorf("read entry %s of Secret %q: %w", name, signingSecret, err)
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

// split returns the keys in a JWK Set and, in the same order, their IDs.
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

// newSet returns the change that replaces the key set with the given keys. It returns an error if the functions that
// verify tokens would reject the new key set.
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

// changed returns the time, in RFC 3339 format, of the latest change to the entries that the functions use. If none
// of these entries has changed, the result is the time when the Secret was created.
func (s secret) changed() string {
	if at := s.Metadata.Annotations[changedAt]; at != "" {
		return at
	}
	return s.Metadata.Created
}
