//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hostname returns the host of a URL without the port.
func hostname(t *testing.T, base string) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname()
}

// newCertificate creates a CA and a certificate of this CA for the hosts. It returns a pool with the CA, and the paths
// of the PEM files with the certificate and its key.
func newCertificate(t *testing.T, hosts ...string) (pool *x509.CertPool, certificate, key string) {
	t.Helper()
	generate := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	sign := func(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Strongroom e2e CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey, leafKey := generate(), generate()
	ca = sign(ca, ca, caKey, caKey)
	leaf := sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, leafKey, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pool = x509.NewCertPool()
	pool.AddCert(ca)
	return pool, write("tls.crt", "CERTIFICATE", leaf.Raw), write("tls.key", "PRIVATE KEY", der)
}

// newDomain maps a domain to the gateway until the test ends, with the kn command and the ClusterDomainClaim of
// docs/ingress.md. options are further options of kn. The domain has the same parent domain as the gateway's URL, so it
// resolves to the ingress.
func newDomain(t *testing.T, gateway string, options ...string) (domain string) {
	t.Helper()
	_, parent, _ := strings.Cut(hostname(t, gateway), ".")
	domain = "e2e-domain." + parent
	t.Cleanup(func() {
		kubectl(t, "delete", "--ignore-not-found", "--timeout=60s", "domainmapping/"+domain)
		kubectl(t, "delete", "--ignore-not-found", "--timeout=60s", "clusterdomainclaim/"+domain)
	})
	claim := filepath.Join(t.TempDir(), "claim.json")
	if err := os.WriteFile(claim, fmt.Appendf(nil, `{"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "ClusterDomainClaim",
		"metadata": {"name": %q}, "spec": {"namespace": %q}}`, domain, namespace), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "--filename", claim)
	run(t, "kn", append([]string{"domain", "create", domain, "--ref", "ksvc:gateway:" + namespace, "--namespace", namespace}, options...)...)
	kubectl(t, "wait", "--for=condition=Ready", "--timeout=100s", "domainmapping/"+domain)
	return domain
}

// TestOwnDomain proves that requests to an operator's own domain reach the gateway, over HTTP, and over HTTPS with a
// certificate of the test's own CA. With the settings in docs/ingress.md, a client cannot forge its address there.
func TestOwnDomain(t *testing.T) {
	s := open(t)
	in := findIngress(t)
	if in.name == "Traefik" {
		t.Skip("SKIPPED: Traefik's Knative provider does not replace the Host header, as a DomainMapping requires")
	}
	t.Run("HTTP", func(t *testing.T) {
		expose := "EXPOSE=all"
		if strings.HasSuffix(services(t)["login"].Status.URL, clusterSuffix) {
			expose = "EXPOSE=gateway"
		}
		set := func(dir, expose string) {
			t.Helper()
			if out, err := deploy(t, dir, expose); err != nil {
				t.Fatalf("deploy with %s: %v\n%s", expose, err, out)
			}
			kubectl(t, "delete", "pods", "--selector", "serving.knative.dev/service in (gateway, login, accounts)", "--grace-period=3", "--timeout=100s")
		}
		// The requests of a DomainMapping pass through Kourier twice, so there is one entry more in X-Forwarded-For.
		dir := copyTree(t)
		settings := filepath.Join(dir, "config/120-settings.yaml")
		content, err := os.ReadFile(settings)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(content, []byte(`TRUSTED_HOPS: "3"`), []byte(`TRUSTED_HOPS: "4"`), 1)
		if bytes.Equal(changed, content) {
			t.Fatalf("%s does not have TRUSTED_HOPS: \"3\"", settings)
		}
		if err := os.WriteFile(settings, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			set(root, expose)
			s.throughGateway().responds(t)
		})
		set(dir, "EXPOSE=none")
		for name, service := range services(t) {
			if !strings.HasSuffix(service.Status.URL, clusterSuffix) {
				t.Errorf("EXPOSE=none: the function %s has the public URL %s", name, service.Status.URL)
			}
		}
		other := s.at("http://" + newDomain(t, s.urls["gateway"]))
		other.responds(t)
		other.wantScheme(t, false)
		other.cannotForgeAddress(t)
		f := newFile("own domain.bin", 1<<20)
		other.upload(t, f)
		other.download(t, f)
	})
	t.Run("HTTPS", func(t *testing.T) {
		const secret = "e2e-certificate"
		_, parent, _ := strings.Cut(hostname(t, s.urls["gateway"]), ".")
		pool, certificate, key := newCertificate(t, "*."+parent)
		newSecret(t, namespace, secret, "kubernetes.io/tls", certificate, key)
		other := s.at("https://" + newDomain(t, s.urls["gateway"], "--tls", secret))
		other.overTLS(pool, forward(t, in.namespace, "service/"+in.service, "443"))
		other.responds(t)
		other.wantScheme(t, true)
		f := newFile("own domain over TLS.bin", 1<<20)
		other.upload(t, f)
		other.download(t, f)
	})
}

// responds waits until the gateway responds, because the ingress needs a moment for a new route or certificate.
func (s *system) responds(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Minute, func() string {
		if got, err := s.send(http.MethodGet, "gateway", "/", "", nil, nil); err != nil || got.status != http.StatusOK {
			return fmt.Sprintf("GET %s/: got %s (%v), want 200", s.urls["gateway"], got, err)
		}
		return ""
	})
}

// overTLS makes s open all its connections to one address, whatever the host in a URL is, and trust only the CAs in
// pool.
func (s *system) overTLS(pool *x509.CertPool, address string) {
	s.client = &http.Client{Timeout: requestLimit, Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
		},
	}}
}

// newSecret creates a Secret from files until the test ends. The keys of the Secret are the base names of the files.
func newSecret(t *testing.T, in, name, kind string, files ...string) {
	t.Helper()
	t.Cleanup(func() { kubectl(t, "delete", "--ignore-not-found", "secret", name, "--namespace", in) })
	args := []string{"create", "secret", "generic", name, "--type", kind, "--namespace", in}
	for _, file := range files {
		args = append(args, "--from-file", file)
	}
	kubectl(t, args...)
}

// wantScheme checks that the gateway recognizes whether a browser uses HTTPS, whatever scheme X-Forwarded-Proto claims.
func (s *system) wantScheme(t *testing.T, https bool) {
	t.Helper()
	for _, claimed := range []string{"", "http", "https"} {
		header := map[string]string{"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin", "Origin": s.urls["gateway"]}
		if claimed != "" {
			header["X-Forwarded-Proto"] = claimed
		}
		got := s.call(t, http.MethodPost, "gateway", "/session", "", header, s.credentials(t))
		cookie := got.sessionCookie(t)
		if hsts := got.header.Get("Strict-Transport-Security") != ""; cookie.Secure != https || hsts != https {
			t.Errorf("X-Forwarded-Proto %q: got a Secure cookie %t and Strict-Transport-Security %t, want %t", claimed, cookie.Secure, hsts, https)
		}
		s.call(t, http.MethodDelete, "gateway", "/session", "", map[string]string{"Cookie": cookie.Name + "=" + cookie.Value}, nil)
	}
}

// certificateSecret is the name of the Secret with the certificate of the ingress.
const certificateSecret = "e2e-certificate"

// terminateTLS makes the ingress serve HTTPS for all hosts with one certificate until the test ends. It returns the
// local address of a port that kubectl forwards to the ingress.
func (in ingress) terminateTLS(t *testing.T, certificate, key string) string {
	t.Helper()
	if in.name == "Kourier" {
		newSecret(t, in.namespace, certificateSecret, "kubernetes.io/tls", certificate, key)
		t.Cleanup(func() { setKourier(t, map[string]any{"certs-secret-name": nil, "certs-secret-namespace": nil}) })
		setKourier(t, map[string]any{"certs-secret-name": certificateSecret, "certs-secret-namespace": in.namespace})
		return forward(t, in.namespace, "service/"+in.service, "443")
	}
	settings := filepath.Join(t.TempDir(), "tls.yaml")
	content := "tls: {stores: {default: {defaultCertificate: {certFile: /e2e/tls.crt, keyFile: /e2e/tls.key}}}}\n"
	if err := os.WriteFile(settings, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	newSecret(t, in.namespace, certificateSecret, "Opaque", certificate, key, settings)
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	const pod = "/spec/template/spec/"
	patch := []operation{
		// The node has only one port 80, so the old pod must end before the new pod can start.
		{"replace", "/spec/strategy", map[string]string{"type": "Recreate"}},
		{"add", pod + "volumes", []any{map[string]any{"name": "e2e", "secret": map[string]string{"secretName": certificateSecret}}}},
		{"add", pod + "containers/0/volumeMounts", []any{map[string]string{"name": "e2e", "mountPath": "/e2e"}}},
	}
	for _, option := range []string{"--entrypoints.e2e.address=:8443", "--entrypoints.e2e.http.tls=true",
		"--providers.knative.publicentrypoints=e2e", "--providers.file.filename=/e2e/tls.yaml"} {
		patch = append(patch, operation{"add", pod + "containers/0/args/-", option})
	}
	encoded, err := json.Marshal(patch)
	if err != nil {
		t.Fatal(err)
	}
	replaced := func() {
		t.Helper()
		kubectl(t, "rollout", "status", "deployment/"+in.deployment, "--namespace", in.namespace, "--timeout=100s")
	}
	strategy := kubectl(t, "get", "deployment", in.deployment, "--namespace", in.namespace, "-o", "jsonpath={.spec.strategy}")
	t.Cleanup(func() {
		kubectl(t, "rollout", "undo", "deployment/"+in.deployment, "--namespace", in.namespace)
		replaced()
		kubectl(t, "patch", "deployment", in.deployment, "--namespace", in.namespace, "--type=json",
			"--patch", `[{"op": "replace", "path": "/spec/strategy", "value": `+strategy+`}]`)
	})
	kubectl(t, "patch", "deployment", in.deployment, "--namespace", in.namespace, "--type=json", "--patch", string(encoded))
	replaced()
	return forward(t, in.namespace, "deployment/"+in.deployment, "8443")
}

// TestTLS proves that the gateway recognizes HTTPS at its own URL, that uploads work over HTTP/2, and that an operator
// can renew the certificate.
func TestTLS(t *testing.T) {
	s := open(t)
	in := findIngress(t)
	s.throughGateway().wantScheme(t, strings.HasPrefix(s.urls["gateway"], "https://"))
	host := hostname(t, s.urls["gateway"])
	pool, certificate, key := newCertificate(t, host)
	secure := s.at("https://" + host)
	address := in.terminateTLS(t, certificate, key)
	secure.overTLS(pool, address)
	secure.responds(t)
	secure.wantScheme(t, true)
	f := newFile("over TLS.bin", 5<<20)
	secure.upload(t, f)
	secure.download(t, f)
	if in.name != "Kourier" {
		return
	}
	// Kourier serves a renewed certificate after a restart of its controller, as docs/production.md says.
	pool, certificate, key = newCertificate(t, host)
	kubectl(t, "delete", "secret", certificateSecret, "--namespace", in.namespace)
	newSecret(t, in.namespace, certificateSecret, "kubernetes.io/tls", certificate, key)
	kubectl(t, "rollout", "restart", "deployment/net-kourier-controller", "--namespace", "knative-serving")
	kubectl(t, "rollout", "status", "deployment/net-kourier-controller", "--namespace", "knative-serving", "--timeout=100s")
	secure.overTLS(pool, address)
	secure.responds(t)
}
