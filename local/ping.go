package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// pingTimeout is how long a function may take to respond to a ping. It is the longest request timeout that Knative
// allows by default.
const pingTimeout = 10 * time.Minute

// pingClient sends the pings. It needs no timeout, because the context of each request has a deadline.
var pingClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// schedules matches the cron schedules that the runner supports: "* * * * *" (every minute) and "*/N * * * *" (every N
// minutes).
var schedules = regexp.MustCompile(`^\*(?:/([1-9][0-9]?))? \* \* \* \*$`)

// interval returns the time between two runs of a cron schedule. It returns an error if the schedule is
// unsupported or if the interval does not divide an hour evenly.
func interval(schedule string) (time.Duration, error) {
	found := schedules.FindStringSubmatch(schedule)
	if found == nil {
		return 0, fmt.Errorf(`"make run" supports only schedules such as */5 * * * *, not %q`, schedule)
	}
	minutes := 1
	if found[1] != "" {
		minutes, _ = strconv.Atoi(found[1]) // never fails, because the expression allows only digits
	}
	if 60%minutes != 0 {
		return 0, fmt.Errorf(`"make run" does not support the schedule %q, because its interval does not divide an hour evenly`, schedule)
	}
	return time.Duration(minutes) * time.Minute, nil
}

// pinger replaces Knative's PingSource adapter. It posts a CloudEvent to the sink at the times in the PingSource's
// schedule.
type pinger struct {
	source   pingSource
	interval time.Duration
	// url is the address of the function that receives the events.
	url string
	out *output
}

// run sends pings until ctx is done. Canceling ctx also cancels a ping that is being delivered.
func (p *pinger) run(ctx context.Context) {
	for {
		// Like cron, count the intervals from the start of the hour. Truncate has this effect, because the interval
		// divides an hour evenly.
		next := time.Now().Truncate(p.interval).Add(p.interval)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		// Do not retry a failed ping, because the next ping has the same effect. Knative's PingSource adapter retries
		// immediately, but sweep refuses such a retry.
		if err := p.ping(ctx, next); err != nil && ctx.Err() == nil {
			p.out.say("run", "could not ping %s: %v", p.source.Spec.Sink.Ref.Name, err)
		}
	}
}

// ping sends one event with the given time. Like Knative's PingSource adapter, it uses CloudEvents binary mode, in
// which the event's attributes are HTTP headers.
func (p *pinger) ping(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/", nil)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"ce-specversion": "1.0",
		"ce-type":        "dev.knative.sources.ping",
		"ce-source":      "/apis/v1/namespaces/" + p.source.Metadata.Namespace + "/pingsources/" + p.source.Metadata.Name,
		"ce-id":          uuid.NewString(),
		"ce-time":        now.UTC().Format(time.RFC3339),
	} {
		request.Header.Set(name, value)
	}
	response, err := pingClient.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("unexpected response status %s", response.Status)
	}
	return nil
}
