//go:build e2e

package e2e

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestExternalStores proves that the main job works with the stores of test/production/stores, that all connections to
// MySQL and RabbitMQ use TLS, and that the Secrets of the administrators are not needed after the deployment. It also
// proves that a deployment adds the Secret registry, which TestProductionPage creates, to the service accounts.
func TestExternalStores(t *testing.T) {
	if !strings.Contains(secretValue(t, "mysql", "dsn"), "@tcp(mysql.stores.svc:3306)") {
		t.Skip("SKIPPED: the deployed functions do not use the stores of test/production/stores")
	}
	s := open(t)
	mainJob := func() {
		t.Helper()
		s.token = ""
		f := newFile("external.bin", 1<<20)
		s.upload(t, f)
		s.catalogued(t, f, 2*time.Minute)
		s.download(t, f)
	}
	mainJob()

	sql := func(statement string) string {
		return strings.TrimSpace(run(t, "kubectl", "exec", "-n", "stores", "mysql-0", "--",
			"bash", "-c", `MYSQL_PWD=$(</run/secrets/mysql/password) mysql -u root --batch --skip-column-names -e "$0"`, statement))
	}
	// With this setting, MySQL rejects each TCP connection without TLS.
	if got := sql("SELECT @@require_secure_transport"); got != "1" {
		t.Errorf("require_secure_transport of MySQL: got %s, want 1", got)
	}
	if got := sql("SELECT COUNT(*) FROM strongroom.sessions"); got == "0" {
		t.Error("got no sessions in the external MySQL, want those of this test")
	}
	connections := map[string]bool{}
	for line := range strings.Lines(run(t, "kubectl", "exec", "-n", "stores", "rabbitmq-0", "--",
		"env", "HOME=/var/lib/rabbitmq", "rabbitmqctl", "--quiet", "--no-table-headers", "list_connections", "user", "ssl")) {
		if fields := strings.Fields(line); len(fields) == 2 {
			connections[fields[0]+" "+fields[1]] = true
		}
	}
	if got, want := slices.Sorted(maps.Keys(connections)), []string{"source true", "upload true"}; !slices.Equal(got, want) {
		t.Errorf("RabbitMQ users and whether they use TLS: got %q, want %q", got, want)
	}

	saved := kubectl(t, "get", "secret", "mysql-admin", "mongodb-admin", "rabbitmq-setup", "-o", "json")
	t.Cleanup(func() { restore(t, saved) })
	on, err := commands.On(root, "docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(on, func(c commands.Command) bool { return strings.HasPrefix(c.Text, "kubectl delete secret ") })
	if i < 0 {
		t.Fatal("docs/stores.md has no command that deletes Secrets")
	}
	run(t, "bash", "-c", on[i].Text)
	if out, err := deploy(t, root); err != nil {
		t.Fatalf("deploy without the Secrets of the administrators: %v\n%s", err, out)
	}
	const pullSecrets = "jsonpath={range .items[*]}{.metadata.name}={.imagePullSecrets[*].name} {end}"
	if got, want := kubectl(t, "get", "serviceaccount", "secrets", "strongroom", "-o", pullSecrets), "secrets=registry strongroom=registry "; got != want {
		t.Errorf("pull secrets of the service accounts: got %q, want %q", got, want)
	}
	kubectl(t, "delete", "pods", "--selector", "app.kubernetes.io/component=function", "--grace-period=3", "--timeout=100s")
	mainJob()
}

// restore creates the Secrets in list, which is the output of `kubectl get`, again.
func restore(t *testing.T, list string) {
	t.Helper()
	var secrets struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Data map[string][]byte `json:"data"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(list), &secrets); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		args := []string{"create", "secret", "generic", secret.Metadata.Name}
		for key, value := range secret.Data {
			args = append(args, "--from-literal="+key+"="+string(value))
		}
		kubectl(t, args...)
	}
}
