//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// TestRotateSecrets proves that the commands in docs/credentials.md replace each Secret, and that the system then works
// with the new passwords and keys. It also proves what docs/operations.md says about values that kn has changed: the
// deployment resets a value that is in the manifest, and keeps another annotation.
func TestRotateSecrets(t *testing.T) {
	const page = "docs/credentials.md"
	s := open(t)
	f := newFile("rotate.bin", 1<<10)
	s.upload(t, f)
	s.catalogued(t, f, 2*time.Minute)
	link := s.link(t, f)
	if got := s.call(t, http.MethodGet, "gateway", link, "", nil, nil); got.status != http.StatusOK {
		t.Fatalf("get the link before the rotation: got %s, want 200", got)
	}
	secrets := []struct{ name, key string }{
		{"mysql", "dsn"}, {"mongodb", "uri"}, {"rabbitmq-upload", "password"}, {"rabbitmq-sweep", "password"},
		{"rabbitmq-setup", "password"}, {"rabbitmq-source", "password"}, {"rabbitmq-definitions", "definitions.json"},
		{"gateway-key", "key"}, {"link-key", "key"}, {"sign-in-key", "key"}, {"mysql-admin", "password"}, {"mongodb-admin", "password"},
	}
	old := map[string]string{}
	for _, secret := range secrets {
		old[secret.name] = secretValue(t, secret.name, secret.key)
	}

	run(t, "kn", "service", "update", "files", "--namespace", namespace, "--scale-min", "1", "--annotation-revision", "example.com/kept=yes")
	t.Cleanup(func() {
		kubectl(t, "patch", "ksvc", "files", "--type=json", "--patch",
			`[{"op": "remove", "path": "/spec/template/metadata/annotations/example.com~1kept"}]`)
	})
	t.Cleanup(func() {
		if t.Failed() { // create missing Secrets
			_, _ = deploy(t, root)
			kubectl(t, "delete", "pod", "-l", "app.kubernetes.io/component=function")
		}
	})
	runCommands(t, page, "new=$(openssl rand -hex 24)",
		`kubectl exec -i -n strongroom mysql-0 -- bash -c 'MYSQL_PWD=$(</run/secrets/mysql/password) mysql -u root' <<END ALTER USER root@'%' IDENTIFIED BY '$new', root@localhost IDENTIFIED BY '$new'; END`,
		`kubectl patch secret mysql-admin -n strongroom --patch-file /dev/stdin <<END stringData: {password: $new, dsn: "root:$new@tcp(mysql.strongroom.svc:3306)/strongroom"} END`)
	// The stand-in for MongoDB has no mongosh, so the test runs the command that changeUserPassword sends.
	renewed := rand.Text()
	change := bson.D{{Key: "updateUser", Value: "root"}, {Key: "pwd", Value: renewed}}
	if err := mongoAdmin(t).Database("admin").RunCommand(t.Context(), change).Err(); err != nil {
		t.Fatal(err)
	}
	patch, err := json.Marshal(map[string]any{"stringData": map[string]string{
		"password": renewed, "uri": "mongodb://root:" + renewed + "@mongodb.strongroom.svc:27017/strongroom?authSource=admin"}})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "patch", "secret", "mongodb-admin", "--patch", string(patch))

	runCommands(t, page, "kubectl delete -n strongroom secret/mysql secret/mongodb secret/rabbitmq-upload secret/rabbitmq-sweep secret/rabbitmq-setup secret/rabbitmq-source rabbitmqsource/strongroom-files secret/gateway-key secret/link-key secret/sign-in-key")
	if out, err := deploy(t, root); err != nil {
		t.Fatalf("deploy: %v\n%s", err, out)
	}
	annotations := services(t)["files"].Spec.Template.Metadata.Annotations
	if scale, kept := annotations["autoscaling.knative.dev/min-scale"], annotations["example.com/kept"]; scale != "0" || kept != "yes" {
		t.Errorf("after the deployment: got min-scale %q and the annotation %q, want 0 and yes", scale, kept)
	}
	runCommands(t, page, "kubectl delete pod -n strongroom -l app.kubernetes.io/component=function")
	for _, secret := range secrets {
		if secretValue(t, secret.name, secret.key) == old[secret.name] {
			t.Errorf("the Secret %s has not changed", secret.name)
		}
	}

	// The gateway's pod starts again.
	s.token = ""
	eventually(t, 2*time.Minute, func() string {
		if got := s.login(t, s.username, s.password); got.status != http.StatusOK {
			return "sign in: got " + got.String() + ", want 200"
		}
		return ""
	})
	after := newFile("rotated.bin", 1<<10)
	s.upload(t, after)
	s.catalogued(t, after, 2*time.Minute)
	s.download(t, f)
	for _, user := range []string{"setup", "upload", "sweep", "source"} {
		for password, want := range map[string]bool{secretValue(t, "rabbitmq-"+user, "password"): true, old["rabbitmq-"+user]: false} {
			// kubectl port-forward ends when RabbitMQ refuses a connection.
			conn, err := amqp.Dial("amqp://" + user + ":" + password + "@" + forward(t, namespace, "pod/rabbitmq-0", "5672"))
			if (err == nil) != want {
				t.Errorf("connect to RabbitMQ as %s: got error %v, want success: %t", user, err, want)
			}
			if err == nil {
				_ = conn.Close()
			}
		}
	}
	if got := s.call(t, http.MethodGet, "gateway", link, "", nil, nil); got.status < 400 || got.status >= 500 {
		t.Errorf("get the link after the rotation: got %s, want a refusal", got)
	}
	if got := s.call(t, http.MethodGet, "gateway", s.link(t, f), "", nil, nil); got.status != http.StatusOK {
		t.Errorf("get a new link: got %s, want 200", got)
	}
}

// link creates a link to a file and returns its path and query.
func (s *system) link(t *testing.T, f *file) string {
	t.Helper()
	got := s.call(t, http.MethodPost, "files", "/files/"+f.id+"/link", s.signedIn(t), map[string]string{"Content-Type": "application/json"}, []byte("{}"))
	var created struct{ URL string }
	got.decode(t, http.StatusCreated, &created)
	if i := strings.Index(created.URL, "/files/"); i > 0 {
		return created.URL[i:]
	}
	return created.URL
}
