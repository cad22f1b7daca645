package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestSetup(t *testing.T) {
	good := config{MongoURI: "mongodb://u:s3cret@127.0.0.1:1/strongroom", EventsURL: "amqp://u:s3cret@127.0.0.1:1",
		PendingGrace: time.Minute, OrphanGrace: 15 * time.Minute}
	for name, test := range map[string]struct {
		change func(*config)
		want   string // the start of the error; empty if no error is expected
	}{
		"valid":                  {change: func(*config) {}}, // setup opens no connection
		"HTTP sink":              {change: func(c *config) { c.EventsURL = "http://127.0.0.1:1" }},
		"equal graces":           {change: func(c *config) { c.OrphanGrace = c.PendingGrace }},
		"zero pending grace":     {change: func(c *config) { c.PendingGrace = 0 }, want: "PENDING_GRACE: "},
		"short orphan grace":     {change: func(c *config) { c.OrphanGrace = time.Second }, want: "ORPHAN_GRACE: "},
		"no interval":            {change: func(c *config) { c.Interval = 0 }},
		"negative interval":      {change: func(c *config) { c.Interval = -time.Second }, want: "SWEEP_INTERVAL: "},
		"no events URL":          {change: func(c *config) { c.EventsURL = "" }, want: "EVENTS_URL_FILE: "},
		"malformed events URL":   {change: func(c *config) { c.EventsURL = "amqp://u:s3cret%@127.0.0.1" }, want: "EVENTS_URL_FILE: "},
		"other scheme":           {change: func(c *config) { c.EventsURL = "kafka://u:s3cret@127.0.0.1" }, want: "EVENTS_URL_FILE: "},
		"malformed MongoDB URI":  {change: func(c *config) { c.MongoURI = "u:s3cret@127.0.0.1" }, want: "MONGODB_URI_FILE: "},
		"URI without a database": {change: func(c *config) { c.MongoURI = "mongodb://u:s3cret@h" }, want: "MONGODB_URI_FILE: "},
	} {
		cfg := good
		test.change(&cfg)
		handler, err := setup(t.Context(), cfg)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: got error %v, want none", name, err)
		case test.want == "":
			if err := handler.(io.Closer).Close(); err != nil {
				t.Errorf("%s: got error %v from Close, want none", name, err)
			}
		case err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: got error %v, want one that starts with %q and does not contain the password", name, err, test.want)
		}
	}
}
