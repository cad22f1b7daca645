package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// module creates a Go module with a program and returns the root directory of the module.
func module(t *testing.T, source string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.org/m\n\ngo 1.26\n", "functions/f/main.go": source} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBuild(t *testing.T) {
	root := module(t, "package main\n\nfunc main() { println(\"hello\") }\n")
	bin, shows := filepath.Join(root, "bin"), &screen{}
	out := &output{w: shows}
	if err := buildPrograms(t.Context(), root, bin, []string{"example.org/m/functions/f"}, out); err != nil {
		t.Fatal(err)
	}
	m := &manifests{setup: podSpec{Containers: []container{{Image: "ko://example.org/m/functions/f"}}}}
	if err := runSetup(t.Context(), m, resolver{mounts: t.TempDir(), lookup: os.LookupEnv}, bin, out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(shows.String(), "setup    | hello\n") {
		t.Errorf("got the output %q, want the output of the built program in it", shows)
	}
}

func TestBuildFails(t *testing.T) {
	root := module(t, "package main\n\nfunc main() { undefined() }\n")
	err := buildPrograms(t.Context(), root, filepath.Join(root, "bin"), []string{"example.org/m/functions/f"}, &output{w: &screen{}})
	if err == nil || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("got %v, want the compiler's error in it", err)
	}
}

func TestBuildIsInterrupted(t *testing.T) {
	root := module(t, "package main\n\nfunc main() {}\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := buildPrograms(ctx, root, filepath.Join(root, "bin"), []string{"example.org/m/functions/f"}, &output{w: &screen{}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// program creates a shell script that runSetup runs as the program of the setup Job. It returns the manifests and the
// directory of the script.
func program(t *testing.T, script string) (*manifests, string) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "setup"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &manifests{setup: podSpec{Containers: []container{{Image: "ko://example.org/functions/setup"}}}}, bin
}

func TestSetup(t *testing.T) {
	m, bin := program(t, `cat "$DEMO_USERS_FILE"; echo; echo 'no database' >&2; exit 3`)
	shows := &screen{}
	err := runSetup(t.Context(), m, resolver{mounts: t.TempDir(), lookup: os.LookupEnv}, bin, &output{w: shows})
	if err == nil || !strings.HasPrefix(err.Error(), "setup: exit status 3: ") {
		t.Errorf("got %v, want an error with the exit status of setup", err)
	}
	for _, want := range []string{demoUsers, "no database"} {
		if !strings.Contains(shows.String(), want) {
			t.Errorf("got the output %q, want %q in it", shows, want)
		}
	}
}

func TestSetupIsInterrupted(t *testing.T) {
	m, bin := program(t, "echo begun; exec sleep 600")
	shows := &screen{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- runSetup(ctx, m, resolver{mounts: t.TempDir(), lookup: os.LookupEnv}, bin, &output{w: shows})
	}()
	eventually(t, "setup is running", func() bool { return strings.Contains(shows.String(), "begun") })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestAddressBeforeAndAfterStart(t *testing.T) {
	s, err := serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	response, err := http.Get(s.url())
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, response, http.StatusServiceUnavailable, "the system is starting")
	f, _ := play(t, "f", "function", nil)
	s.handle(f)
	if got := get(t, s.url()).Name; got != "f" {
		t.Errorf("got %q, want f", got)
	}
	if _, err := serve(s.address); err == nil || !strings.Contains(err.Error(), "ADDR") || !strings.Contains(err.Error(), s.address) {
		t.Errorf("got %v, want an error that names ADDR and the address", err)
	}
	s.drain()
	if _, err := http.Get(s.url()); err == nil {
		t.Error("got a response after drain")
	}
	if _, err := serve("nowhere"); err == nil || !strings.Contains(err.Error(), "ADDR") {
		t.Errorf("got %v, want an error that names ADDR", err)
	}
}

func TestWelcome(t *testing.T) {
	tests := []struct{ address, want string }{
		{"127.0.0.1:8080", "http://localhost:8080"},
		{"[::]:9000", "http://localhost:9000"},
		{"192.0.2.1:80", "http://192.0.2.1:80"},
		{"[2001:db8::1]:80", "http://[2001:db8::1]:80"},
	}
	for _, test := range tests {
		s := &system{front: &server{address: test.address}, functions: map[string]*function{
			"login": {name: "login", public: true}, "record": {name: "record"},
		}}
		text := s.welcome()
		for _, want := range []string{"ready at " + test.want + "\n", test.want + "/login ", "http://login.localhost:", "lovelace-1843", "murray-hopper-1906"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: got %q, want %q in it", test.address, text, want)
			}
		}
		if strings.Contains(text, "record") {
			t.Errorf("%s: got %q, want no cluster-local function in it", test.address, text)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, name := range []string{"ADDR", "IDLE_TIMEOUT", "STRONGROOM_DIR", "STRONGROOM_STORES"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readSettings()
	if err != nil || got.Address != "127.0.0.1:8080" || got.Dir != ".strongroom" || got.IdleTimeout != 0 {
		t.Errorf("got %+v, %v, want the defaults", got, err)
	}
	t.Setenv("IDLE_TIMEOUT", "5s")
	if got, err := readSettings(); err != nil || got.IdleTimeout != 5*time.Second {
		t.Errorf("got %v, %v, want 5s", got.IdleTimeout, err)
	}
	for name, value := range map[string]string{"STRONGROOM_STORES": "borrowed", "IDLE_TIMEOUT": "soon"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if _, err := readSettings(); err == nil || !strings.Contains(err.Error(), value) {
				t.Errorf("got %v, want an error that contains %q", err, value)
			}
		})
	}
}

// TestRunReportsAnInvalidSetting also checks that the data directory is unlocked after each error.
func TestRunReportsAnInvalidSetting(t *testing.T) {
	used, err := serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(used.close)
	t.Chdir("..") // the root directory of the source tree
	for name, tc := range map[string]struct{ setting, value, want string }{
		"unknown stores":           {"STRONGROOM_STORES", "borrowed", "STRONGROOM_STORES: "},
		"address in use":           {"ADDR", used.address, "ADDR: another program is listening on " + used.address},
		"data directory is a file": {"STRONGROOM_DIR", "go.mod", "go.mod: not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("ADDR", "127.0.0.1:0")
			t.Setenv("STRONGROOM_DIR", dir)
			t.Setenv(tc.setting, tc.value)
			if err := run(t.Context(), &output{w: &screen{}}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that contains %q", err, tc.want)
			}
			release, err := openData(dir)
			if err != nil {
				t.Fatalf("after the error: got %v, want an unlocked data directory", err)
			}
			if err := release(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConnectSources(t *testing.T) {
	for name, tc := range map[string]struct {
		events, pings, schedule string // the sinks of a RabbitmqSource and a PingSource, and the schedule
		want                    string // part of the error; empty if no error is expected
	}{
		"the sinks are functions":              {"record", "sweep", "*/5 * * * *", ""},
		"the events go to no function":         {"absent", "sweep", "*/5 * * * *", `the RabbitmqSource source is "absent"`},
		"the pings go to no function":          {"record", "absent", "*/5 * * * *", `the PingSource timer is "absent"`},
		"the schedule of pings is unsupported": {"record", "sweep", "@hourly", `"@hourly"`},
	} {
		t.Run(name, func(t *testing.T) {
			var events rabbitmqSource
			events.Metadata.Name, events.Spec.Sink.Ref.Name = "source", tc.events
			var pings pingSource
			pings.Metadata.Name, pings.Spec.Sink.Ref.Name, pings.Spec.Schedule = "timer", tc.pings, tc.schedule
			s := &system{
				manifests: &manifests{sources: []rabbitmqSource{events}, pings: []pingSource{pings}},
				inside:    map[string]*server{"record": {address: "a:1"}, "sweep": {address: "b:2"}},
				sink:      &server{}, stores: &stores{},
			}
			err := s.connectSources(t.Context())
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want an error that contains %q", err, tc.want)
				}
				return
			}
			if err != nil || len(s.pingers) != 1 || s.pingers[0].url != "http://b:2" || s.pingers[0].interval != 5*time.Minute {
				t.Errorf("got pingers %+v and error %v, want one pinger of sweep every 5 minutes", s.pingers, err)
			}
		})
	}
}
