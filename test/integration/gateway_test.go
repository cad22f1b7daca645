package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestGateway proves that a browser can use `make run` through the gateway: it signs in, refreshes its session, which
// is in a cookie, uploads and downloads a file, and signs out, all at one address.
func TestGateway(t *testing.T) {
	_, err := store.FindMySQL(t.Context())
	servertest.Need(t, "mariadb-server", err)
	r := startRunner(t, t.TempDir())
	ask := func(method, path, cookie string, body string, header ...string) answer {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		if cookie != "" {
			request.Header.Set("Cookie", "strongroom_session_"+r.url[strings.LastIndexByte(r.url, ':')+1:]+"="+cookie)
		}
		for i := 0; i < len(header); i += 2 {
			request.Header.Set(header[i], header[i+1])
		}
		response, err := httpClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		got, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{response.StatusCode, response.Header, got}
	}
	// signedIn returns the access token in a response and the value of the session cookie. The names of all cookies must
	// be want, which is sorted.
	signedIn := func(got answer, want ...string) (token, cookie string) {
		t.Helper()
		var session struct {
			AccessToken  string `json:"access_token"`
			RefreshToken string `json:"refresh_token"`
		}
		if err := json.Unmarshal(got.body, &session); got.status != http.StatusOK || err != nil || session.AccessToken == "" || session.RefreshToken != "" {
			t.Fatalf("got %s, want 200 with an access token and no refresh token", got)
		}
		var names []string
		for _, c := range (&http.Response{Header: got.header}).Cookies() {
			name := c.Name[:strings.LastIndexByte(c.Name, '_')] // without the port
			if !c.HttpOnly || c.Path != "/" {
				t.Errorf("got the cookie %v, want an HttpOnly cookie for the path /", c)
			}
			if names = append(names, name); name == "strongroom_session" {
				cookie = c.Value
			}
		}
		if slices.Sort(names); !slices.Equal(names, want) {
			t.Fatalf("got the cookies %q, want %q", names, want)
		}
		return session.AccessToken, cookie
	}

	const ada = `{"username":"ada","password":"lovelace-1843"}`
	if got := ask(http.MethodPost, "/session", "", strings.Replace(ada, "1843", "1844", 1)); got.status != http.StatusUnauthorized {
		t.Errorf("sign in with a wrong password: got %s, want 401", got)
	}
	if got := ask(http.MethodPost, "/session", "", ada, "Sec-Fetch-Site", "cross-site"); got.status != http.StatusForbidden {
		t.Errorf("sign in from another site: got %s, want 403", got)
	}
	_, first := signedIn(ask(http.MethodPost, "/session", "", ada), "strongroom_device", "strongroom_session")
	token, second := signedIn(ask(http.MethodPost, "/session/refresh", first, ""), "strongroom_session")
	if second == first {
		t.Error("refresh: got the same refresh token, want a new token")
	}
	content := bytes.Repeat([]byte("through the gateway\n"), 1<<17)
	id := r.upload(t, token, content)
	r.wantCatalogued(t, token, id)
	r.wantContent(t, token, id, content)

	r.wantClientAddresses(t)

	// X-Auth headers from the client do not authorize a request. The gateway has no routes to internal endpoints.
	if got := ask(http.MethodGet, "/files", "", "", "X-Auth-User-Id", "1", "X-Auth-Scope", "files:any"); got.status != http.StatusUnauthorized {
		t.Errorf("X-Auth headers without a token: got %s, want 401", got)
	}
	for _, path := range []string{"/record", "/sweep", "/metrics"} {
		if got := ask(http.MethodPost, path, "", "{}", "Authorization", "Bearer "+token); got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: got %s, want 404 or 405", path, got)
		}
	}
	// The response to a refused upload arrives although the client has not sent the whole body.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/upload?name=huge", endless{})
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = 1 << 40
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusRequestEntityTooLarge || response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("upload of 1 TiB: got %s, want 413 with a problem document", response.Status)
	}

	if got := ask(http.MethodDelete, "/session", second, ""); got.status != http.StatusNoContent {
		t.Errorf("sign out: got %s, want 204", got)
	}
	for cookie, want := range map[string]int{second: http.StatusUnauthorized, "": http.StatusNoContent} {
		if got := ask(http.MethodPost, "/session/refresh", cookie, ""); got.status != want {
			t.Errorf("refresh with the cookie %q after signing out: got %s, want %d", cookie, got, want)
		}
	}
	r.stop(t, syscall.SIGTERM)
}

// wantClientAddresses checks that login uses the address from which the client connects, at each URL for signing in.
// Headers from the client must not change that address.
func (r *runner) wantClientAddresses(t *testing.T) {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	forged := []string{"", "203.0.113.9", "203.0.113.9, 10.0.0.1", "203.0.113.9, 10.0.0.1, 10.0.0.2", "203.0.113.9, 10.0.0.1, 10.0.0.2, 10.0.0.3"}
	for _, client := range []string{"127.0.0.1", "127.0.0.2"} {
		transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}).DialContext}
		defer transport.CloseIdleConnections()
		for at, where := range [][2]string{{"login.localhost:" + port, "/login"}, {"127.0.0.1:" + port, "/login"}, {"127.0.0.1:" + port, "/session"}} {
			for i, forwarded := range forged {
				id := fmt.Sprintf("address-%s-%d-%d", client, at, i)
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+where[1],
					strings.NewReader(fmt.Sprintf(`{"username":%q,"password":"wrong"}`, id)))
				if err != nil {
					t.Fatal(err)
				}
				request.Host = where[0]
				request.Header.Set("Content-Type", "application/json")
				request.Header.Set("X-Request-Id", id)
				if forwarded != "" {
					request.Header.Set("X-Forwarded-For", forwarded)
					request.Header.Set("X-Client-Address", "203.0.113.9 1800000000 00")
				}
				response, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(request)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if response.StatusCode != http.StatusUnauthorized {
					t.Fatalf("%s%s: got %s, want 401", where[0], where[1], response.Status)
				}
				servertest.Eventually(t, servertest.Recovery, "login has logged the attempt "+id, func() error {
					for line := range strings.Lines(r.output()) {
						if strings.Contains(line, "rejected sign-in") && strings.Contains(line, "client_request_id="+id) {
							if !strings.Contains(line, " address="+client+" ") {
								t.Errorf("%s%s with X-Forwarded-For %q: got the log line %s, want the address %s",
									where[0], where[1], forwarded, line, client)
							}
							return nil
						}
					}
					return errors.New("the output has no such line")
				})
			}
		}
	}
}

// endless is a request body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// gatewayKey writes a key file for the gateway and returns the setting with its path.
func gatewayKey(t *testing.T) (setting string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	return "GATEWAY_KEY_FILE=" + path
}

// gatewaySettings returns the settings of a gateway that forwards the requests for all functions to target.
func gatewaySettings(key, target string) []string {
	settings := []string{key}
	for _, name := range []string{"LOGIN", "VALIDATE", "UPLOAD", "FILES", "ACCOUNTS"} {
		settings = append(settings, name+"_URL="+target)
	}
	return settings
}

// TestLockoutBehindTheGateway proves that the lockout of login distinguishes the client addresses behind the gateway.
// login accepts a client address only with the gateway's signature.
func TestLockoutBehindTheGateway(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	createUser(t, dsn, "ada", "lovelace-1843")
	settings, _ := loginSettings(t, dsn)
	key := gatewayKey(t)
	login := runFunction(t, "login", append(settings, key)...)
	gateway := runFunction(t, "gateway", append(gatewaySettings(key, login), "TRUSTED_HOPS=1")...)
	guess := func(base, from string, header ...string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/login", strings.NewReader(`{"username":"ada","password":"babbage-1822"}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-Forwarded-For", "203.0.113.250, "+from) // the trusted proxy added only the last address
		for i := 0; i < len(header); i += 2 {
			request.Header.Set(header[i], header[i+1])
		}
		response, err := httpClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	for range 5 {
		if got := guess(gateway, "192.0.2.1"); got != http.StatusUnauthorized {
			t.Fatalf("wrong guess: got %d, want 401", got)
		}
	}
	began, through := time.Now(), 0
	signed := fmt.Sprintf("192.0.2.9 %d %064x", time.Now().Unix(), 0)
	for what, got := range map[string]int{
		"another guess":                                guess(gateway, "192.0.2.1"),
		"forged signature":                             guess(gateway, "192.0.2.1", "X-Client-Address", signed),
		"directly to login":                            guess(login, "192.0.2.1"),
		"directly to login, forged signature":          guess(login, "192.0.2.1", "X-Client-Address", signed),
		"directly to login, address without signature": guess(login, "192.0.2.1", "X-Client-Address", "192.0.2.9"),
	} {
		if got != http.StatusTooManyRequests {
			t.Logf("%s: got %d", what, got)
			through++
		}
	}
	// After the fifth failure, the delays are 1 s, 2 s, 4 s and so on. A guess is admitted for each delay that has
	// passed since then, so a slow run can admit a few guesses.
	if allowed := int(math.Log2(time.Since(began).Seconds() + 1)); through > allowed {
		t.Errorf("got %d more admitted guesses, want at most %d", through, allowed)
	}
	if status, _, _, err := signIn(gateway, "192.0.2.2", "ada", "lovelace-1843"); err != nil || status != http.StatusOK {
		t.Errorf("sign in from another address: got %d, %v, want 200", status, err)
	}
}

// TestGatewayHoldsNothing proves that the gateway streams bodies instead of buffering them. It needs at most 64 MiB of
// memory to forward 256 MiB in each direction, in one stream and in eight concurrent streams.
func TestGatewayHoldsNothing(t *testing.T) {
	const size, limit = 256 << 20, 64 << 20
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			for range size / len(block) {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Errorf("read the upload in the backend: %v", err)
		}
		fmt.Fprint(w, n)
	}))
	defer backend.Close()
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(build(t, "gateway"))
	cmd.Env = append(gatewaySettings(gatewayKey(t), backend.URL), "HOST=127.0.0.1", "PORT="+port)
	url := "http://" + address
	runProgram(t, "gateway", cmd, func() error {
		response, err := http.Get(url + "/healthz")
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
	stream := func(part int64) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/upload", io.LimitReader(endless{}, part))
		if err != nil {
			t.Error(err)
			return
		}
		request.ContentLength = part
		response, err := httpClient.Do(request)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		if got, err := io.ReadAll(response.Body); err != nil || string(got) != fmt.Sprint(part) {
			t.Errorf("upload of %d bytes: got %q (%v), want %d received bytes", part, got, err, part)
		}
		down, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/files/1/content", nil)
		if err != nil {
			t.Error(err)
			return
		}
		response, err = httpClient.Do(down)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		if n, err := io.CopyN(io.Discard, response.Body, part); err != nil {
			t.Errorf("download of %d bytes: got %d bytes (%v)", part, n, err)
		}
	}
	stream(size)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { stream(size / 8) })
	}
	all.Wait()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	peak := 0
	for line := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &peak) // fails for all lines except one
	}
	t.Logf("peak RSS of the gateway: %.1f MiB", float64(peak)/(1<<10))
	if peak == 0 || peak<<10 > limit {
		t.Errorf("peak RSS of the gateway: got %d KiB, want at most %d MiB", peak, limit>>20)
	}
}
