package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of accounts against docs/openapi.yaml.
var api = contract.Of("accounts")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

const (
	adaID     = "0195a3f0-0000-7000-8000-00000000ada0"
	graceID   = "0195a3f0-0000-7000-8000-0000000face0"
	goneID    = "0195a3f0-0000-7000-8000-00000000dead"
	demotedID = "0195a3f0-0000-7000-8000-00000000de30"
	newID     = "0195a3f0-0000-7000-8000-00000000beef"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fakeStore is a store that returns the values of its fields and records the calls of its methods.
type fakeStore struct {
	users   map[string]accounts.User // by ID
	entries []accounts.AuditEntry
	next    string
	blocked bool
	err     error // the error of all methods except Current
	away    error // the error of Current
	settled error

	asked    string // the limit and the cursor of the last List or Audit call
	calls    []string
	by       accounts.Actor
	address  netip.Addr
	outcomes []accounts.Outcome
}

func (s *fakeStore) Current(_ context.Context, id string, version int) (accounts.User, error) {
	u, ok := s.users[id]
	if s.away == nil && (!ok || u.Disabled || u.TokenVersion != version) {
		return accounts.User{}, token.ErrStale
	}
	return u, s.away
}

func (s *fakeStore) ByID(_ context.Context, id string) (accounts.User, error) {
	u, ok := s.users[id]
	if !ok {
		return u, problem.NotFound.With("no such user")
	}
	return u, s.err
}

func (s *fakeStore) List(_ context.Context, limit int, cursor string) ([]accounts.User, string, error) {
	s.asked = fmt.Sprint(limit, cursor)
	return []accounts.User{s.users[adaID], s.users[goneID]}, s.next, s.err
}

func (s *fakeStore) Audit(_ context.Context, limit int, cursor string) ([]accounts.AuditEntry, string, error) {
	s.asked = fmt.Sprint(limit, cursor)
	return s.entries, s.next, s.err
}

func (s *fakeStore) Create(_ context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error) {
	s.by, s.calls = by, append(s.calls, fmt.Sprint("create ", n.Username, " ", n.PasswordHash, " ", n.Role))
	return accounts.User{ID: newID, Username: n.Username, PasswordHash: n.PasswordHash, Role: n.Role, CreatedAt: noon, UpdatedAt: noon}, s.err
}

func (s *fakeStore) Update(_ context.Context, by accounts.Actor, id string, patch accounts.Patch) (accounts.User, error) {
	u, ok := s.users[id]
	if !ok {
		return u, problem.NotFound.With("no such user")
	}
	call := "update " + id
	if patch.Role != nil {
		u.Role = *patch.Role
		call += " role " + u.Role
	}
	if patch.Disabled != nil {
		u.Disabled = *patch.Disabled
		call += fmt.Sprint(" disabled ", u.Disabled)
	}
	if patch.PasswordHash != nil {
		call += " hash " + *patch.PasswordHash
	}
	s.by, s.calls = by, append(s.calls, call)
	return u, s.err
}

func (s *fakeStore) Delete(_ context.Context, by accounts.Actor, id string) error {
	if _, ok := s.users[id]; !ok {
		return problem.NotFound.With("no such user")
	}
	s.by, s.calls = by, append(s.calls, "delete "+id)
	return s.err
}

func (s *fakeStore) Reserve(_ context.Context, username string, address netip.Addr) (accounts.Settle, error) {
	if s.blocked {
		return nil, problem.TooManyAttempts.With("try again later").RetryAfter(90 * time.Second)
	}
	s.address = address
	s.calls = append(s.calls, "reserve "+username)
	return func(ctx context.Context, outcome accounts.Outcome) error {
		s.outcomes = append(s.outcomes, outcome)
		return errors.Join(ctx.Err(), s.settled)
	}, nil
}

func (s *fakeStore) ChangePassword(_ context.Context, by accounts.Actor, passwordHash string) error {
	s.by, s.calls = by, append(s.calls, "change "+passwordHash)
	return s.err
}

// fakeHasher is a hasher. Its hash of a password is the password in brackets.
type fakeHasher struct {
	hashErr, verifyErr error
}

func (h *fakeHasher) Hash(_ context.Context, given string) (string, error) {
	return "[" + given + "]", h.hashErr
}

func (h *fakeHasher) Verify(_ context.Context, hash, given string) (ok, rehash bool, err error) {
	if hash == "malformed" {
		return false, false, password.ErrMalformed
	}
	return hash == "["+given+"]", false, h.verifyErr
}

// fixture contains the handler, wrapped as in function.Main and checked against its contract, the fakes that the
// handler uses, and access tokens by name.
type fixture struct {
	http.Handler
	store  *fakeStore
	hasher *fakeHasher
	tokens map[string]string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	signer, verifier, _ := tokentest.New(t)
	f := &fixture{
		store: &fakeStore{users: map[string]accounts.User{
			adaID:     {ID: adaID, Username: "ada", PasswordHash: "[lovelace-1843]", Role: "user", TokenVersion: 3, CreatedAt: noon, UpdatedAt: noon},
			graceID:   {ID: graceID, Username: "grace", PasswordHash: "[hopper-1906]", Role: "admin", TokenVersion: 1, CreatedAt: noon, UpdatedAt: noon},
			goneID:    {ID: goneID, Username: "gone", PasswordHash: "[x]", Role: "admin", Disabled: true, TokenVersion: 2, CreatedAt: noon, UpdatedAt: noon.Add(time.Hour)},
			demotedID: {ID: demotedID, Username: "demoted", PasswordHash: "malformed", Role: "user", TokenVersion: 1},
		}},
		hasher: &fakeHasher{},
		tokens: map[string]string{"broken": "e30.e30.e30"},
	}
	for name, subject := range map[string]token.Subject{
		"ada":     {ID: adaID, Username: "ada", Roles: []string{"user"}, Version: 3},
		"grace":   {ID: graceID, Username: "grace", Roles: []string{"admin"}, Version: 1},
		"old":     {ID: graceID, Username: "grace", Roles: []string{"admin"}, Version: 0},
		"gone":    {ID: goneID, Username: "gone", Roles: []string{"admin"}, Version: 2},
		"deleted": {ID: newID, Username: "deleted", Roles: []string{"admin"}, Version: 1},
		"demoted": {ID: demotedID, Username: "demoted", Roles: []string{"admin"}, Version: 1}, // demoted directly in the database
	} {
		raw, _, err := signer.Sign(subject)
		if err != nil {
			t.Fatal(err)
		}
		f.tokens[name] = raw
	}
	f.Handler = api.Handler(t, function.Wrap(newHandler(verifier, f.store, f.hasher, client.Trust{Hops: 1}), time.Minute))
	return f
}

// request returns a request with the access token named who, or without a token if who is empty. A body that is not
// empty has the type JSON.
func (f *fixture) request(who, method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if who != "" {
		r.Header.Set("Authorization", "Bearer "+f.tokens[who])
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("X-Forwarded-For", "10.0.0.1, 203.0.113.9")
	r.Header.Set("X-Request-Id", "request-1")
	return r
}

func (f *fixture) send(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}
