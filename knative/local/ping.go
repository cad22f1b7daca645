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

// pingTimeout bounds one delivery of a ping: the longest that Knative lets a request take by default.
const pingTimeout = 10 * time.Minute

// pingClient waits for the answer as long as the request's context lets it.
var pingClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// schedules are those that the runner understands: every minute, and each so many minutes.
var schedules = regexp.MustCompile(`^\*(?:/([1-9][0-9]?))? \* \* \* \*$`)

// interval returns the pause between two pings of a cron schedule.
func interval(schedule string) (time.Duration, error) {
	found := schedules.FindStringSubmatch(schedule)
	if found == nil {
		return 0, fmt.Errorf("make run knows schedules like */5 * * * * only, not %q", schedule)
	}
	minutes := 1
	if found[1] != "" {
		minutes, _ = strconv.Atoi(found[1]) // digits, as the expression has it
	}
	if 60%minutes != 0 {
		return 0, fmt.Errorf("the schedule %q has pauses that differ, which make run does not know", schedule)
	}
	return time.Duration(minutes) * time.Minute, nil
}

// pinger stands for the adapter of a PingSource: it posts a CloudEvent to the sink at the minutes of the schedule.
type pinger struct {
	source   pingSource
	interval time.Duration
	sink     *server
	out      *output
}

// run pings until ctx ends, which cuts off a delivery. As with the real one, a ping that fails is told and forgotten: the
// next is as good.
func (p *pinger) run(ctx context.Context) {
	for {
		// On the clock, as cron has it; the pauses of an hour's divisors begin with the hour.
		next := time.Now().Truncate(p.interval).Add(p.interval)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		if err := p.ping(ctx, next); err != nil && ctx.Err() == nil {
			p.out.say("run", "%s was not woken: %v", p.source.Spec.Sink.Ref.Name, err)
		}
	}
}

// ping delivers one event, in binary mode like the real one.
func (p *pinger) ping(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.sink.url()+"/", nil)
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
		return fmt.Errorf("it answered %s", response.Status)
	}
	return nil
}
