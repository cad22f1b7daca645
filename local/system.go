package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/local/process"
)

// setupTimeout is how long the setup Job may run. It is longer than the Job's own limit of five minutes, so that
// the Job can report an unavailable store.
const setupTimeout = 6 * time.Minute

// demoUsers are the demo accounts that setup creates, in the JSON format of the setting DEMO_USERS_FILE. Their passwords
// are public.
const demoUsers = `[{"username":"ada","password":"lovelace-1843","role":"user"},` +
	`{"username":"grace","password":"murray-hopper-1906","role":"admin"}]`

// system is a running instance of Strongroom: its addresses, its stores and its functions.
type system struct {
	cfg       settings
	manifests *manifests
	root      string // root directory of the source tree
	dir       string // data directory
	kept      keptSecrets
	out       *output

	// front serves the public address. sink serves the address to which the functions publish events if there is no
	// RabbitMQ server.
	front, sink *server
	// The inside field maps each function's name to the server that receives requests for the function from other
	// functions and from the event sources.
	inside    map[string]*server
	pingers   []*pinger
	pinging   sync.WaitGroup
	stores    *stores
	functions map[string]*function
	// life is the context for background work, such as restarting a store that ends unexpectedly. stop cancels it.
	life context.Context
	end  context.CancelFunc
}

// newSystem returns a system that is already listening on its addresses. If one of the addresses is in use, newSystem
// therefore returns an error before any process starts.
func newSystem(cfg settings, m *manifests, root, dir string, out *output) (*system, error) {
	if len(m.sources) == 0 {
		return nil, errors.New("knative/ contains no RabbitmqSource, so the function that receives the events is unknown")
	}
	kept, err := keepSecrets(filepath.Join(dir, "secrets"))
	if err != nil {
		return nil, err
	}
	s := &system{cfg: cfg, manifests: m, root: root, dir: dir, kept: kept, out: out}
	if s.front, err = serve(cfg.Address); err != nil {
		return nil, err
	}
	if s.sink, err = serve("127.0.0.1:0"); err != nil {
		s.closeAddresses()
		return nil, err
	}
	s.inside = map[string]*server{}
	for _, service := range m.services {
		name := service.Metadata.Name
		if s.inside[name], err = serve("127.0.0.1:0"); err != nil {
			s.closeAddresses()
			return nil, err
		}
	}
	s.stores = &stores{dir: dir, kept: kept, out: out}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// start launches the stores, runs setup and serves the functions. The caller must call stop even if start returns
// an error, because some processes might be running.
func (s *system) start(ctx context.Context) error {
	bin := filepath.Join(s.dir, "bin")
	group, starting := errgroup.WithContext(ctx)
	s.stores.builds.Lock() // build the functions before the stores, so that compile errors appear early
	group.Go(func() error {
		defer s.stores.builds.Unlock()
		return buildPrograms(starting, s.root, bin, s.manifests.packages(), s.out)
	})
	group.Go(func() error { return s.stores.start(starting, s.cfg, s.sink.url()) })
	if err := group.Wait(); err != nil {
		return err
	}
	r := resolver{
		configMaps: s.manifests.configMaps, secrets: s.kept.kubernetes(s.stores.endpoints),
		mounts: filepath.Join(s.dir, "mounts"), inside: map[string]string{}, lookup: os.LookupEnv,
	}
	for name, address := range s.inside {
		r.inside[name] = address.url()
	}
	var err error
	if s.functions, err = newFunctions(s.manifests, r, bin, s.cfg.IdleTimeout, s.out); err != nil {
		return err
	}
	if err := runSetup(ctx, s.manifests, r, bin, s.out); err != nil {
		return err
	}
	for name, f := range s.functions {
		s.inside[name].handle(inside{f})
	}
	if err := s.connectSources(ctx); err != nil {
		return err
	}
	s.stores.supervise(s.life)
	for _, p := range s.pingers {
		s.pinging.Go(func() { p.run(s.life) })
	}
	s.front.handle(router{s.functions})
	return nil
}

// connectSources starts a receive adapter for each RabbitmqSource and prepares a pinger for each PingSource.
func (s *system) connectSources(ctx context.Context) error {
	var receivers broadcast
	for _, source := range s.manifests.sources {
		target := s.inside[source.Spec.Sink.Ref.Name]
		if target == nil {
			return fmt.Errorf("the sink of the RabbitmqSource %s is %q, which is not a function", source.Metadata.Name, source.Spec.Sink.Ref.Name)
		}
		receivers = append(receivers, target)
		if err := s.stores.deliver(ctx, source, target.url()); err != nil {
			return err
		}
	}
	// Without a RabbitMQ server, all events arrive at s.sink, which forwards them to the receivers.
	s.sink.handle(receivers)
	for _, source := range s.manifests.pings {
		target := s.inside[source.Spec.Sink.Ref.Name]
		if target == nil {
			return fmt.Errorf("the sink of the PingSource %s is %q, which is not a function", source.Metadata.Name, source.Spec.Sink.Ref.Name)
		}
		pause, err := interval(source.Spec.Schedule)
		if err != nil {
			return err
		}
		s.pingers = append(s.pingers, &pinger{source, pause, target.url(), s.out})
	}
	return nil
}

// wait blocks until ctx is done, and then returns nil. It returns an error if the public address or the sink can no
// longer accept requests.
func (s *system) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.front.failed:
		return err
	case err := <-s.sink.failed:
		return err
	}
}

// stop first stops the pings, the public requests and the events, then the functions, and finally the stores,
// because a function needs the stores until it has stopped.
func (s *system) stop() error {
	s.end()
	s.pinging.Wait()
	s.front.drain()
	err := s.stores.stopDelivery()
	s.sink.drain()
	stopFunctions(s.functions)
	s.closeAddresses()
	return errors.Join(err, s.stores.stop())
}

// closeAddresses closes the servers at all addresses. It skips nil servers, which are present if an error
// prevented newSystem from starting all servers.
func (s *system) closeAddresses() {
	for _, address := range slices.AppendSeq([]*server{s.front, s.sink}, maps.Values(s.inside)) {
		if address != nil {
			address.close()
		}
	}
}

// packages returns the import paths of the setup program and the functions, sorted and without duplicates.
func (m *manifests) packages() []string {
	packages := []string{m.setup.Containers[0].goPackage()}
	for _, s := range m.services {
		packages = append(packages, s.Spec.Template.Spec.Containers[0].goPackage())
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}

// newFunctions returns all functions, keyed by name. bin is the directory that contains their programs.
func newFunctions(m *manifests, r resolver, bin string, idle time.Duration, out *output) (map[string]*function, error) {
	functions := map[string]*function{}
	for _, s := range m.services {
		pod := s.Spec.Template.Spec
		environment, err := r.environment(s.Metadata.Name, pod)
		if err != nil {
			return nil, err
		}
		binary := filepath.Join(bin, pod.Containers[0].binary())
		f, err := newFunction(s, binary, environment, idle, out)
		if err != nil {
			return nil, err
		}
		functions[f.name] = f
	}
	return functions, nil
}

// buildPrograms compiles the programs with the given import paths and writes the binaries to dir.
func buildPrograms(ctx context.Context, root, dir string, packages []string, out *output) error {
	out.say("build", "building %d programs", len(packages))
	begin := time.Now()
	progress := func(status string) { out.say("build", "%s", status) }
	args := append([]string{"-o", dir + string(os.PathSeparator)}, packages...)
	if err := process.Build(ctx, root, progress, args...); err != nil {
		return fmt.Errorf("build the programs: %w", err)
	}
	out.say("build", "built %d programs in %s", len(packages), time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// stopFunctions stops all functions concurrently.
func stopFunctions(functions map[string]*function) {
	var all sync.WaitGroup
	for _, f := range functions {
		all.Go(f.close)
	}
	all.Wait()
}

// runSetup runs the setup Job and waits until the Job ends. It returns an error if the Job fails or runs for longer
// than setupTimeout.
func runSetup(ctx context.Context, m *manifests, r resolver, bin string, out *output) error {
	environment, err := r.environment("setup", m.setup)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	binary := filepath.Join(bin, m.setup.Containers[0].binary())
	log := out.lines("setup")
	users := filepath.Join(r.mounts, "demo-users.json")
	if err := os.WriteFile(users, []byte(demoUsers), 0o600); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	p, err := launch(binary, append(environment, "DEMO_USERS_FILE="+users), log)
	if err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		_ = p.Stop(stopTimeout) // the error would only say that the process is still running
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("setup did not finish within %s", setupTimeout)
		}
		return ctx.Err()
	}
	if p.Err() != nil {
		return errors.New("setup: " + outcome(p, log))
	}
	return nil
}

// welcome returns the text that `make run` prints when the system is ready. It lists the addresses, the demo users, and
// some commands to try.
func (s *system) welcome() string {
	host, port, _ := net.SplitHostPort(s.front.address) // a listener's address is always valid
	// Print localhost instead of a loopback or unspecified address, to match the functions' addresses, such as
	// login.localhost. Curl and browsers resolve localhost and its subdomains to this machine.
	name := host
	if ip := net.ParseIP(host); host == "" || host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		name = "localhost"
	}
	base := "http://" + net.JoinHostPort(name, port)
	var names []string
	for _, f := range s.functions {
		if f.public {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	var text strings.Builder
	fmt.Fprintf(&text, "\nStrongroom is ready at %s\n", base)
	for _, function := range names {
		fmt.Fprintf(&text, "  %-9s http://%s\n", function, net.JoinHostPort(function+".localhost", port))
	}
	fmt.Fprintf(&text, `
Demo users: ada / lovelace-1843 (user), grace / murray-hopper-1906 (admin)

To try it, paste this into another terminal:
  TOKEN=$(curl -s %[1]s/login -d username=ada -d password=lovelace-1843 | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  ID=$(echo "hello, strongroom" | curl -s %[1]s/upload?name=hello.txt -H "Authorization: Bearer $TOKEN" -H "Content-Type: text/plain" --data-binary @- | tee /dev/stderr | sed 's/.*"id":"\([^"]*\)".*/\1/')
  curl -s %[1]s/files -H "Authorization: Bearer $TOKEN"
  curl -s %[1]s/files/$ID/content -H "Authorization: Bearer $TOKEN"

Each function starts on its first request and stops when it is idle. Press Ctrl+C to stop the system.

`, base)
	return text.String()
}
