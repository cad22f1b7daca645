package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// backupTime is the time when the first backup of a test begins.
var backupTime = time.Date(2026, 11, 27, 1, 2, 3, 0, time.UTC)

const firstBackup = "20261127T010203Z"

// newBackupStores returns prepared stores with files and three accounts, and the settings of the backup commands.
func newBackupStores(t *testing.T) *stores {
	t.Helper()
	s := newStores(t)
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	s.cfg.AdminDSN, s.cfg.DSN = function.OptionalSecret(admin), function.Secret(dsn)
	s.cfg.BackupDir, s.cfg.BackupKeep = t.TempDir(), 2
	s.cfg.AdminUsername, s.cfg.AdminPassword = "admin", "the password of the admin"
	s.cfg.DemoUsers = seeds{{"ada", "lovelace-1843", "user"}, {"größe", "lovelace-1843", "user"}}
	s.must(prepare(s.Context(), s.cfg))
	s.cfg.DemoUsers = nil
	s.cataloged("first")
	deleted := s.cataloged("second")
	s.must(errors.Join(s.files.MarkDeleted(s.Context(), deleted.ID), s.entries.Delete(s.Context(), deleted.ID), s.files.Delete(s.Context(), deleted.ID)))
	return s
}

// backup creates a backup at the given time.
func (s *stores) backup(at time.Time) {
	s.Helper()
	var out strings.Builder
	s.must(backup(s.Context(), s.cfg, at, &out))
	if want := "backup: " + at.Format("20060102T150405Z") + "\n"; out.String() != want {
		s.Errorf("got the output %q, want %q", out.String(), want)
	}
}

// rows returns the data in MySQL as text.
func (s *stores) rows() string {
	s.Helper()
	var out bytes.Buffer
	_, err := accounts.Dump(s.Context(), string(s.cfg.DSN), &out)
	s.must(err)
	return out.String()
}

// names returns the names of the files in the folder of the backups, without the lock.
func (s *stores) names() (names []string) {
	s.Helper()
	entries, err := os.ReadDir(s.cfg.BackupDir)
	s.must(err)
	for _, entry := range entries {
		if entry.Name() != ".lock" {
			names = append(names, entry.Name())
		}
	}
	return names
}

// TestBackupAndRestore proves that a restore returns both stores to the state at the time of the backup, and that it
// replaces files and accounts only with --overwrite. The stores can be empty, or have later data.
func TestBackupAndRestore(t *testing.T) {
	s := newBackupStores(t)
	documents, rows := s.dump(), s.rows()
	s.put("unfinished") // stored, but not in the catalog
	s.backup(backupTime)
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(rows, s.rows()); diff != "" {
			t.Errorf("%s: rows in MySQL (-want +got):\n%s", when, diff)
		}
		out, err := s.fsck(false)
		if err != nil || out != "problems: 0\n" {
			t.Errorf("%s: fsck: got %q and error %v, want no problems", when, out, err)
		}
		// The restore adds a note for the file without a catalog entry, so that sweep publishes its event.
		if n := s.count("uploads", bson.D{}); n != 1 {
			t.Errorf("%s: got %d notes, want 1", when, n)
		}
		for line := range strings.Lines(documents) {
			if !strings.Contains(s.dump(), strings.TrimSuffix(line, "\n")) {
				t.Errorf("%s: the database lacks the document %s", when, line)
			}
		}
	}
	var out strings.Builder

	s.cataloged("later")
	hint := "run deploy/job restore " + firstBackup + " --overwrite"
	if err := restore(t.Context(), s.cfg, firstBackup, false, &out); !errors.Is(err, errOccupied) || !strings.Contains(err.Error(), hint) {
		t.Errorf("restore over files: got error %v, want %v and %q", err, errOccupied, hint)
	}
	if n := s.count("fs.files", bson.D{}); n != 4 {
		t.Errorf("refused restore: got %d documents of files, want 4", n)
	}
	s.must(restore(t.Context(), s.cfg, firstBackup, true, &out))
	check("restore over files")
	if n := s.count("fs.files", bson.D{}); n != 3 {
		t.Errorf("restore over files: got %d documents of files, want 3", n)
	}

	s.must(s.db.Drop(t.Context()))
	if err := restore(t.Context(), s.cfg, firstBackup, false, &out); !errors.Is(err, errOccupied) {
		t.Errorf("restore over accounts: got error %v, want %v", err, errOccupied)
	}
	database := servertest.DatabaseName(t, string(s.cfg.DSN))
	if _, err := servertest.OpenSQL(t, string(s.cfg.AdminDSN)).ExecContext(t.Context(), "DROP DATABASE "+database); err != nil {
		t.Fatal(err)
	}
	s.must(restore(t.Context(), s.cfg, firstBackup, false, &out))
	check("restore into empty stores")
}

// TestBackupKeepsTheNewest proves that backup deletes the oldest backups and the folders of incomplete backups, and no
// other files, and that setup backups lists the backups.
func TestBackupKeepsTheNewest(t *testing.T) {
	s := newBackupStores(t)
	s.must(os.MkdirAll(filepath.Join(s.cfg.BackupDir, "20200101T000000Z.partial", "mongodb"), 0o700))
	s.must(os.Mkdir(filepath.Join(s.cfg.BackupDir, "lost+found"), 0o700))
	for i := range 3 {
		s.backup(backupTime.Add(time.Duration(i) * time.Hour))
	}
	if diff := cmp.Diff([]string{"20261127T020203Z", "20261127T030203Z", "lost+found"}, s.names()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	var out strings.Builder
	s.must(printBackups(s.cfg, &out))
	if lines := strings.Split(out.String(), "\n"); len(lines) != 4 || !strings.HasPrefix(lines[0], "20261127T020203Z ") || lines[2] != "backups: 2" {
		t.Errorf("setup backups: got %q, want two backups", out.String())
	}
	unlock, err := lockBackups(s.cfg.BackupDir)
	s.must(err)
	defer unlock()
	if err := backup(t.Context(), s.cfg, backupTime, &out); err == nil || !strings.Contains(err.Error(), "another backup") {
		t.Errorf("concurrent backup: got error %v, want a refusal", err)
	}
}

// TestFailedBackup proves that a backup that fails leaves no folder, deletes no other backup, and names the setting.
func TestFailedBackup(t *testing.T) {
	s := newBackupStores(t)
	s.cfg.BackupKeep = 1
	s.backup(backupTime)
	for name, test := range map[string]struct {
		change func(cfg *config)
		want   string
	}{
		"no MySQL":   {func(cfg *config) { cfg.DSN = "x:y@tcp(127.0.0.1:1)/x" }, "unavailable"},
		"no MongoDB": {func(cfg *config) { cfg.MongoURI = "mongodb://127.0.0.1:1/x" }, "list the collections"},
		"no folder":  {func(cfg *config) { cfg.BackupDir += "/missing" }, "BACKUP_DIR"},
		"no setting": {func(cfg *config) { cfg.BackupDir = "" }, "BACKUP_DIR is not set"},
		"collection": {func(*config) { s.insert("a b", bson.D{}) }, `the name of the collection "a b"`},
		"keep none":  {func(cfg *config) { cfg.BackupKeep = 0 }, "BACKUP_KEEP is 0"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.cfg
			test.change(&cfg)
			var out strings.Builder
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err := backup(ctx, cfg, backupTime.Add(time.Hour), &out)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
			if diff := cmp.Diff([]string{firstBackup}, s.names()); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out strings.Builder
	if err := backup(ctx, s.cfg, backupTime.Add(time.Hour), &out); err == nil {
		t.Error("canceled backup: got no error, want an error")
	}
	if diff := cmp.Diff([]string{firstBackup}, s.names()); diff != "" {
		t.Errorf("canceled backup: files (-want +got):\n%s", diff)
	}
}

// TestRestoreRefusesDamage proves that restore changes nothing if the backup does not exist, is damaged, or has a newer
// version, or if the MySQL user cannot replace the tables.
func TestRestoreRefusesDamage(t *testing.T) {
	s := newBackupStores(t)
	s.backup(backupTime)
	documents, rows := s.dump(), s.rows()
	path := func(name string) string { return filepath.Join(s.cfg.BackupDir, firstBackup, name) }
	read := func(name string) []byte {
		b, err := os.ReadFile(path(name))
		s.must(err)
		return b
	}
	accountsData, checksums := read(accountsFile), read(sums)
	newer := func() error {
		var data bytes.Buffer
		w := gzip.NewWriter(&data)
		_, err := io.WriteString(w, `{"schema":1000}`+"\n")
		s.must(errors.Join(err, w.Close()))
		lines := strings.SplitAfter(string(checksums), "\n")
		for i, line := range lines {
			if strings.HasSuffix(line, accountsFile+"\n") {
				lines[i] = fmt.Sprintf("%x  %s\n", sha256.Sum256(data.Bytes()), accountsFile)
			}
		}
		return errors.Join(os.WriteFile(path(accountsFile), data.Bytes(), 0o600), os.WriteFile(path(sums), []byte(strings.Join(lines, "")), 0o600))
	}
	for name, test := range map[string]struct {
		backup string
		damage func() error
		want   string
	}{
		"unknown backup": {"20261127T010204Z", func() error { return nil }, "no such file"},
		"path":           {"../" + firstBackup, func() error { return nil }, "invalid name"},
		"partial backup": {firstBackup + partial, func() error { return nil }, "invalid name"},
		"changed byte":   {firstBackup, func() error { return os.WriteFile(path(accountsFile), append([]byte("x"), accountsData[1:]...), 0o600) }, "the SHA-256"},
		"missing file":   {firstBackup, func() error { return os.Remove(path(accountsFile)) }, "no such file"},
		"no checksums":   {firstBackup, func() error { return os.WriteFile(path(sums), nil, 0o600) }, "both stores"},
		"other path": {firstBackup, func() error {
			return os.WriteFile(path(sums), append(checksums, []byte(strings.Repeat("a", 64)+"  ../x\n")...), 0o600)
		}, "invalid line"},
		"missing checksum": {firstBackup, func() error { return os.WriteFile(path(sums), checksums[bytes.IndexByte(checksums, '\n')+1:], 0o600) }, "both stores"},
		"newer version":    {firstBackup, newer, "the dump has version 1000 of the tables"},
		"no administrator": {firstBackup, func() error { s.cfg.AdminDSN = ""; return nil }, "MYSQL_ADMIN_DSN_FILE is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			admin := s.cfg.AdminDSN
			defer func() {
				s.cfg.AdminDSN = admin
				s.must(errors.Join(os.WriteFile(path(accountsFile), accountsData, 0o600), os.WriteFile(path(sums), checksums, 0o600)))
			}()
			s.must(test.damage())
			var out strings.Builder
			err := restore(t.Context(), s.cfg, test.backup, true, &out)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
			if s.dump() != documents || s.rows() != rows {
				t.Error("the restore has changed the stores")
			}
		})
	}
}

// TestBackupCollections proves that each collection of Strongroom is either in a backup or in skipped. If you add a
// collection, add its name to one of the two lists.
func TestBackupCollections(t *testing.T) {
	want := append([]string{"catalogue", "deletions.tombstones", "fs.chunks", "fs.files", "upgrades"}, skipped...)
	sources, err := filepath.Glob("../../shared/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	literal := regexp.MustCompile(`\.Collection\("([^"]+)"`)
	var got []string
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range literal.FindAllStringSubmatch(string(text), -1) {
			got = append(got, match[1])
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("collections (-want +got):\n%s", diff)
	}
}

// TestBackupAfterFailedRestore proves that backup refuses to run after a restore that has replaced data and failed, until
// a restore succeeds.
func TestBackupAfterFailedRestore(t *testing.T) {
	s := newBackupStores(t)
	s.backup(backupTime)
	path := filepath.Join(s.cfg.BackupDir, firstBackup)
	data, err := os.ReadFile(filepath.Join(path, sums))
	s.must(err)
	// The checksums are right, but the file is not a dump of a collection.
	damaged := filepath.Join(mongoFolder, "x"+dumpSuffix)
	s.must(os.WriteFile(filepath.Join(path, damaged), nil, 0o600))
	line := fmt.Sprintf("%x  %s\n", sha256.Sum256(nil), damaged)
	s.must(os.WriteFile(filepath.Join(path, sums), append(slices.Clone(data), line...), 0o600))
	var out strings.Builder
	if err := restore(t.Context(), s.cfg, firstBackup, true, &out); err == nil {
		t.Fatal("restore of a damaged file: got no error, want an error")
	}
	want := "run deploy/job restore " + firstBackup + " --overwrite"
	if err := backup(t.Context(), s.cfg, backupTime.Add(time.Hour), &out); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("backup after the failed restore: got error %v, want %q", err, want)
	}
	if diff := cmp.Diff([]string{restoring, firstBackup}, s.names()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	s.must(os.WriteFile(filepath.Join(path, sums), data, 0o600))
	s.must(restore(t.Context(), s.cfg, firstBackup, true, &out))
	s.backup(backupTime.Add(time.Hour))
}

// TestBackupManifest proves that the CronJob runs the backup command in a restricted container, with no other Secrets
// than those of the functions' users, and that its time limit is longer than that of the command. TestPodsGetOnlyTheirSecrets
// in knative/ proves that the files are those of the Secrets.
func TestBackupManifest(t *testing.T) {
	content, err := os.ReadFile("../../deploy/overlays/backup/backup.yaml")
	if err != nil {
		t.Fatal(err)
	}
	claim, job, found := bytes.Cut(content, []byte("\n---\n"))
	var volume corev1.PersistentVolumeClaim
	var cron batchv1.CronJob
	if err := errors.Join(yaml.UnmarshalStrict(claim, &volume), yaml.UnmarshalStrict(job, &cron)); err != nil || !found {
		t.Fatalf("decode the manifest: got error %v, want two objects", err)
	}
	spec := cron.Spec.JobTemplate.Spec
	pod := spec.Template.Spec
	if limit := time.Duration(*spec.ActiveDeadlineSeconds) * time.Second; limit <= backupTimeout {
		t.Errorf("got the time limit %v, want more than %v", limit, backupTimeout)
	}
	if cron.Spec.ConcurrencyPolicy != batchv1.ForbidConcurrent || *pod.AutomountServiceAccountToken || pod.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("got concurrency policy %s, token %t and restart policy %s, want Forbid, false and Never",
			cron.Spec.ConcurrencyPolicy, *pod.AutomountServiceAccountToken, pod.RestartPolicy)
	}
	if got := spec.Template.Labels["app.kubernetes.io/component"]; got != "backup" {
		t.Errorf("got the component %q, want backup", got)
	}
	container := pod.Containers[0]
	settings := map[string]string{}
	for _, variable := range container.Env {
		settings[variable.Name] = variable.Value
		if from := variable.ValueFrom; from != nil && from.ConfigMapKeyRef == nil {
			t.Errorf("got the source %v of %s, want only a ConfigMap", from, variable.Name)
		}
	}
	want := map[string]string{"LOG_LEVEL": "", "MYSQL_DSN_FILE": "/var/run/strongroom/mysql/dsn", "MONGODB_URI_FILE": "/var/run/strongroom/mongodb/uri",
		"BACKUP_DIR": "/backup", "BACKUP_KEEP": "14", "SSL_CERT_DIR": "/var/run/strongroom/stores-ca"}
	if diff := cmp.Diff(want, settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"backup"}, container.Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if mount, claim := container.VolumeMounts[0], pod.Volumes[len(pod.Volumes)-1].PersistentVolumeClaim.ClaimName; mount.MountPath != settings["BACKUP_DIR"] || claim != volume.Name {
		t.Errorf("got the volume %s at %s, want %s at %s", claim, mount.MountPath, volume.Name, settings["BACKUP_DIR"])
	}
	if c := container.SecurityContext; !*c.RunAsNonRoot || !*c.ReadOnlyRootFilesystem || *c.AllowPrivilegeEscalation || c.Capabilities.Drop[0] != "ALL" {
		t.Errorf("got the security context %+v, want a restricted one", c)
	}
}
