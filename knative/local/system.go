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
)

// setupTimeout bounds a run of the setup Job, which waits for stores that are away for five minutes itself.
const setupTimeout = 6 * time.Minute

// demoUsers are made by setup where they are not there; their passwords are public.
const demoUsers = `[{"username":"ada","password":"lovelace-1843","role":"user"},` +
	`{"username":"grace","password":"hopper-1906","role":"admin"}]`

// system is all that runs.
type system struct {
	cfg       settings
	manifests *manifests
	root      string // of the source tree
	dir       string // of all that is kept
	kept      keptSecrets
	out       *output

	// front is the public address; sink is where the event source finds the function that its events are for.
	front, sink *server
	// inside are the addresses of the functions for one another, by name.
	inside    map[string]*server
	pingers   []*pinger
	pinging   sync.WaitGroup
	stores    *stores
	functions map[string]*function
	// life ends when stop begins: until then stores that end are started again.
	life context.Context
	end  context.CancelFunc
}

// newSystem takes the addresses, so that it fails at once where one is taken, and starts nothing.
func newSystem(cfg settings, m *manifests, root, dir string, out *output) (*system, error) {
	if m.source == nil {
		return nil, errors.New("knative/ has no RabbitmqSource: its sink is where events go")
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
	for _, source := range m.pings {
		if err := s.addPinger(source); err != nil {
			s.closeAddresses()
			return nil, err
		}
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

// addPinger takes the address at which a pinger finds its function.
func (s *system) addPinger(source pingSource) error {
	pause, err := interval(source.Spec.Schedule)
	if err != nil {
		return err
	}
	sink, err := serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	s.pingers = append(s.pingers, &pinger{source, pause, sink, s.out})
	return nil
}

// start builds the functions while it starts the stores, runs setup, and opens the addresses. stop must follow, whatever
// it returns.
func (s *system) start(ctx context.Context) error {
	bin := filepath.Join(s.dir, "bin")
	group, starting := errgroup.WithContext(ctx)
	s.stores.builds.Lock() // first, since what is wrong with the functions should be known first
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
	target := s.manifests.source.Spec.Sink.Ref.Name
	if s.functions[target] == nil {
		return fmt.Errorf("the sink of the RabbitmqSource, %q, is no function", target)
	}
	for _, p := range s.pingers {
		target := p.source.Spec.Sink.Ref.Name
		if s.functions[target] == nil {
			return fmt.Errorf("the sink of the PingSource %s, %q, is no function", p.source.Metadata.Name, target)
		}
		p.sink.handle(s.functions[target])
	}
	if err := runSetup(ctx, s.manifests, r, bin, s.out); err != nil {
		return err
	}
	for name, f := range s.functions {
		s.inside[name].handle(inside{f})
	}
	s.sink.handle(s.functions[target])
	if err := s.stores.deliver(ctx, s.manifests.source, s.sink.url()); err != nil {
		return err
	}
	s.stores.supervise(s.life)
	for _, p := range s.pingers {
		s.pinging.Go(func() { p.run(s.life) })
	}
	s.front.handle(router{s.functions})
	return nil
}

// wait returns when ctx ends, or with the reason why the system can not go on.
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

// stop stops everything, in this order: no new requests from outside, no new events, then the functions, then what they
// need.
func (s *system) stop() error {
	s.end()
	s.pinging.Wait()
	for _, p := range s.pingers {
		p.sink.close()
	}
	s.front.drain()
	err := s.stores.stopDelivery()
	s.sink.drain()
	stopFunctions(s.functions)
	s.closeAddresses()
	return errors.Join(err, s.stores.stop())
}

// closeAddresses closes all addresses that there are.
func (s *system) closeAddresses() {
	for _, address := range slices.AppendSeq([]*server{s.front, s.sink}, maps.Values(s.inside)) {
		if address != nil {
			address.close()
		}
	}
}

// packages are the import paths of all programs.
func (m *manifests) packages() []string {
	packages := []string{m.setup.Containers[0].goPackage()}
	for _, s := range m.services {
		packages = append(packages, s.Spec.Template.Spec.Containers[0].goPackage())
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}

// newFunctions returns the functions by name. Their programs are in bin.
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

// stopFunctions stops all of them, side by side.
func stopFunctions(functions map[string]*function) {
	var all sync.WaitGroup
	for _, f := range functions {
		all.Go(f.close)
	}
	all.Wait()
}

// runSetup runs the setup Job to its end.
func runSetup(ctx context.Context, m *manifests, r resolver, bin string, out *output) error {
	environment, err := r.environment("setup", m.setup)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	binary := filepath.Join(bin, m.setup.Containers[0].binary())
	p, err := launch(binary, append(environment, "DEMO_USERS="+demoUsers), out.lines("setup"))
	if err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("setup: not done after %s", setupTimeout)
		}
		return ctx.Err()
	}
	if p.err != nil {
		return errors.New("setup: " + p.outcome())
	}
	return nil
}

// welcome says where the system is and how to try it.
func (s *system) welcome() string {
	host, port, _ := net.SplitHostPort(s.front.address) // it is one that a listener gave
	// *.localhost is this machine for curl and browsers; any other address has only the gateway's paths.
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
Demo users: ada / lovelace-1843 (user), grace / hopper-1906 (admin)

Try it; this can be pasted into another terminal:
  TOKEN=$(curl -s %[1]s/login -d username=ada -d password=lovelace-1843 | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  ID=$(echo "hello, strongroom" | curl -s %[1]s/upload?name=hello.txt -H "Authorization: Bearer $TOKEN" -H "Content-Type: text/plain" --data-binary @- | tee /dev/stderr | sed 's/.*"id":"\([^"]*\)".*/\1/')
  curl -s %[1]s/files -H "Authorization: Bearer $TOKEN"
  curl -s %[1]s/files/$ID/content -H "Authorization: Bearer $TOKEN"

Each function starts at its first request and stops when idle. Ctrl-C stops everything.

`, base)
	return text.String()
}
