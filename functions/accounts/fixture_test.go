package main

import (
	"context"
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
	"github.com/strongroom-dev/strongroom/shared/request"
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
	renamed bool  // whether another user has the names of all users

	roles     []string           // the roles that require a second factor
	challenge accounts.Challenge // the last used challenge

	sessions []accounts.Session
	asked    string // the limit, the cursor and the filter of the last List or Audit call, or the user of the last Sessions call
	calls    []string
	by       accounts.Actor
	attempt  accounts.Attempt
	outcomes []string // the result of each comparison
}

func (s *fakeStore) Current(_ context.Context, claims *token.Claims) (accounts.User, error) {
	u, ok := s.users[claims.Subject]
	if s.away == nil && (!ok || u.Disabled || u.TokenVersion != claims.Version) {
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

func (s *fakeStore) Audit(_ context.Context, filter accounts.AuditFilter, limit int, cursor string) ([]accounts.AuditEntry, string, error) {
	s.asked = fmt.Sprint(limit, cursor)
	if filter != (accounts.AuditFilter{}) {
		s.asked += fmt.Sprint(" ", filter.Username, " ", filter.Action, " ", filter.From.Format("15:04"), " ", filter.To.Format("15:04"))
	}
	return s.entries, s.next, s.err
}

func (s *fakeStore) Create(_ context.Context, by accounts.Actor, n accounts.NewUser) (accounts.User, error) {
	s.by, s.calls = by, append(s.calls, fmt.Sprint("create ", n.Username, " ", n.PasswordHash, " ", n.Role, " must change: ", n.MustChangePassword))
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

func (s *fakeStore) EndSessions(_ context.Context, by accounts.Actor, id string) error {
	if _, ok := s.users[id]; !ok {
		return problem.NotFound.With("no such user")
	}
	s.by, s.calls = by, append(s.calls, "end all of "+id)
	return s.err
}

func (s *fakeStore) Unlock(_ context.Context, by accounts.Actor, id string) error {
	if _, ok := s.users[id]; !ok {
		return problem.NotFound.With("no such user")
	}
	s.by, s.calls = by, append(s.calls, "unlock "+id)
	return s.err
}

// Attempt records the result of compare, or its error.
func (s *fakeStore) Attempt(ctx context.Context, a accounts.Attempt, compare func(context.Context, accounts.User) (bool, error)) (accounts.User, error) {
	if s.blocked {
		return accounts.User{}, problem.TooManyAttempts.With("try again later").RetryAfter(90 * time.Second)
	}
	s.attempt = a
	s.calls = append(s.calls, "attempt "+a.Username)
	for _, u := range s.users {
		if u.Username == a.Username {
			if s.renamed {
				u.ID = newID
			}
			ok, err := compare(ctx, u)
			s.outcomes = append(s.outcomes, fmt.Sprint(ok && err == nil, " ", err))
			if err == nil && !ok {
				err = accounts.ErrBadCredentials
			}
			return u, err
		}
	}
	return accounts.User{}, accounts.ErrBadCredentials
}

func (s *fakeStore) ChangePassword(_ context.Context, by accounts.Actor, passwordHash string) (accounts.User, error) {
	s.by, s.calls = by, append(s.calls, "change "+passwordHash)
	return s.users[by.ID], s.err
}

func (s *fakeStore) Sessions(_ context.Context, user string) ([]accounts.Session, error) {
	s.asked = user
	return s.sessions, s.err
}

func (s *fakeStore) EndOwnSession(_ context.Context, by accounts.Actor, session string) error {
	s.by, s.calls = by, append(s.calls, "end "+session)
	return s.err
}

func (s *fakeStore) EndOtherSessions(_ context.Context, by accounts.Actor, session string) error {
	s.by, s.calls = by, append(s.calls, "end others than "+session)
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
			graceID:   {ID: graceID, Username: "grace", PasswordHash: "[murray-hopper-1906]", Role: "admin", TokenVersion: 1, CreatedAt: noon, UpdatedAt: noon},
			goneID:    {ID: goneID, Username: "gone", PasswordHash: "[x]", Role: "admin", Disabled: true, TokenVersion: 2, CreatedAt: noon, UpdatedAt: noon.Add(time.Hour)},
			demotedID: {ID: demotedID, Username: "demoted", PasswordHash: "malformed", Role: "user", TokenVersion: 1},
		}},
		hasher: &fakeHasher{},
		tokens: map[string]string{"broken": "e30.e30.e30"},
	}
	for name, subject := range map[string]token.Subject{
		"ada":           {ID: adaID, Username: "ada", Roles: []string{"user"}, Version: 3, Session: "0a", AuthTime: noon},
		"grace":         {ID: graceID, Username: "grace", Roles: []string{"admin"}, Version: 1, AuthTime: noon},
		"passkey":       {ID: adaID, Username: "ada", Roles: []string{"user"}, Version: 3, AuthTime: noon, ACR: token.ACRMultiFactor},
		"admin passkey": {ID: graceID, Username: "grace", Roles: []string{"admin"}, Version: 1, AuthTime: noon, ACR: token.ACRMultiFactor},
		"late":          {ID: graceID, Username: "grace", Roles: []string{"admin"}, Version: 1, AuthTime: noon.Add(-10*time.Minute - time.Second)},
		"earlier":       {ID: graceID, Username: "grace", Roles: []string{"admin"}, Version: 1}, // the token of an earlier version
		"old":           {ID: graceID, Username: "grace", Roles: []string{"admin"}, Version: 0},
		"gone":          {ID: goneID, Username: "gone", Roles: []string{"admin"}, Version: 2},
		"deleted":       {ID: newID, Username: "deleted", Roles: []string{"admin"}, Version: 1},
		"demoted":       {ID: demotedID, Username: "demoted", Roles: []string{"admin"}, Version: 1}, // demoted directly in the database
	} {
		raw, _, err := signer.Sign(subject)
		if err != nil {
			t.Fatal(err)
		}
		f.tokens[name] = raw
	}
	policy, err := password.PolicySettings{MinLength: 12}.Policy()
	if err != nil {
		t.Fatal(err)
	}
	f.Handler = api.Handler(t, function.Wrap(newHandler(verifier, f.store, f.hasher, policy, client.Trust{Hops: 1, Key: []byte(testKey)}, func() time.Time { return noon }), time.Minute))
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
	return r.WithContext(request.WithOrigin(r.Context(), &request.Origin{ID: "request-1", Address: netip.MustParseAddr("203.0.113.9")}))
}

func (f *fixture) send(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}
