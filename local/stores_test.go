package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	serving "github.com/strongroom-dev/strongroom/shared/function"
)

func TestNamedStores(t *testing.T) {
	const sink = "http://127.0.0.1:1234"
	tests := []struct {
		name string
		cfg  settings
		want endpoints
		says string
	}{
		{
			"all named", settings{MySQLDSN: "u@tcp(db)/x", MongoURI: "mongodb://m/x", EventsURL: "https://broker.example/"},
			endpoints{mysql: "u@tcp(db)/x", mongodb: "mongodb://m/x", events: "https://broker.example/"}, "must forward the events to " + sink,
		},
		{
			"with administrators",
			settings{
				MySQLDSN: "u@tcp(db)/x", MySQLAdminDSN: "root@tcp(db)/x", MongoURI: "mongodb://m/x", MongoAdminURI: "mongodb://root@m/x",
				EventsURL: "http://broker.example/",
			},
			endpoints{
				mysql: "u@tcp(db)/x", mysqlAdmin: "root@tcp(db)/x", mongodb: "mongodb://m/x", mongodbAdmin: "mongodb://root@m/x",
				events: "http://broker.example/",
			},
			"from MYSQL_DSN_FILE",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			shows := &screen{}
			s := &stores{dir: t.TempDir(), out: &output{w: shows}}
			if err := s.start(t.Context(), test.cfg, sink); err != nil {
				t.Fatal(err)
			}
			if s.endpoints != test.want {
				t.Errorf("got %+v, want %+v", s.endpoints, test.want)
			}
			if !strings.Contains(shows.String(), test.says) || strings.Count(shows.String(), "| using ") != 3 {
				t.Errorf("got the output %q, want one line for each of the three stores, and %q", shows, test.says)
			}
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEventsWithoutBroker(t *testing.T) {
	shows := &screen{}
	s := &stores{out: &output{w: shows}}
	if err := s.startEvents(t.Context(), settings{Stores: embeddedStores, EventsURL: "amqp://ignored"}, "http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if want := (endpoints{events: "http://127.0.0.1:1"}); s.endpoints != want || !strings.Contains(shows.String(), "503") {
		t.Errorf("got %+v and the output %q, want %+v and a warning that mentions 503", s.endpoints, shows, want)
	}
	if err := s.deliver(t.Context(), rabbitmqSource{}, ""); err != nil || s.adapters != nil {
		t.Errorf("got adapter %v and error %v without RabbitMQ, want neither", s.adapters, err)
	}
}

func TestWrongEventsURL(t *testing.T) {
	for _, wrong := range []string{"broker:5672", "ftp://broker/", "amqp://", "amqp://%zz"} {
		s := &stores{out: &output{w: &screen{}}}
		err := s.startEvents(t.Context(), settings{EventsURL: serving.Secret(wrong)}, "")
		if err == nil || !strings.Contains(err.Error(), "EVENTS_URL_FILE") || strings.Contains(err.Error(), "%zz") {
			t.Errorf("%s: got %v, want an error that names EVENTS_URL_FILE but does not contain its value", wrong, err)
		}
	}
}

func TestDataStaysWithItsServer(t *testing.T) {
	s := &stores{dir: t.TempDir()}
	if s.has("tidb") {
		t.Error("has found data in an empty directory")
	}
	if err := os.Mkdir(filepath.Join(s.dir, "tidb"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !s.has("tidb") || s.has("mariadbd") {
		t.Errorf("got tidb %t and mariadbd %t, want only the data of tidb", s.has("tidb"), s.has("mariadbd"))
	}
}
