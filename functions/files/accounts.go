package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/dialer"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// accountsTimeout limits a request to the accounts function. It includes the time that Knative needs to start an
	// instance of the function.
	accountsTimeout = 30 * time.Second
	// maxAccount is the maximum size of a response of the accounts function, in bytes.
	maxAccount = 4 << 10
)

// accountChecker asks the accounts function whether access tokens are current. The files function therefore needs no
// access to the account store.
type accountChecker struct {
	url       *url.URL // the base URL of the accounts function
	trust     client.Trust
	transport http.RoundTripper
}

func newAccountChecker(base *url.URL, trust client.Trust) *accountChecker {
	return &accountChecker{base, trust, &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		// The accounts function closes idle connections after two minutes.
		IdleConnTimeout: 90 * time.Second,
	}}
}

// Check returns a problem with a challenge if the access token in r is not current, because its session has ended,
// its account has changed, or its user needs a second factor now and signed in without it. The error is a
// problem.Unavailable if the accounts function does not respond.
func (c *accountChecker) Check(r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), accountsTimeout)
	defer cancel()
	get, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url.JoinPath("/accounts/me").String(), nil)
	if err != nil {
		return fmt.Errorf("create the request to the accounts function: %w", err)
	}
	get.Header.Set("Authorization", r.Header.Get("Authorization"))
	// Sign the origin, so that the log of the accounts function contains the client's address and the same request ID.
	c.trust.Introduce(get.Header, request.OriginOf(ctx))
	telemetry.Inject(ctx, get.Header)
	answer, err := c.transport.RoundTrip(get)
	if err == nil {
		// Read the body, so that the connection can be used again.
		_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAccount))
		err = errors.Join(err, answer.Body.Close())
	}
	switch {
	case err != nil:
		return problem.Unavailable.Because(err, "the account cannot be checked right now: try again later")
	case answer.StatusCode == http.StatusUnauthorized:
		return token.Challenge(token.ErrStale)
	case answer.StatusCode != http.StatusOK:
		err = fmt.Errorf("got status %d from the accounts function", answer.StatusCode)
		return problem.Unavailable.Because(err, "the account cannot be checked right now: try again later")
	}
	return nil
}
