package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// setupTimeout bounds a run of the setup Job, which waits for stores that are away for five minutes itself.
const setupTimeout = 6 * time.Minute

// demoUsers are made by setup where they are not there; their passwords are public.
const demoUsers = `[{"username":"ada","password":"lovelace-1843","role":"user"},` +
	`{"username":"grace","password":"hopper-1906","role":"admin"}]`

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
func welcome(address string, functions map[string]*function) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, "80"
	}
	// *.localhost is this machine for curl and browsers; any other address has only the gateway's paths.
	name := host
	if ip := net.ParseIP(host); host == "" || host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		name = "localhost"
	}
	base := "http://" + net.JoinHostPort(name, port)
	var names []string
	for _, f := range functions {
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
