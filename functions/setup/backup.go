package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

const (
	// backupTimeout is the time limit for the backup command. It is shorter than the time limit of the Job in
	// deploy/overlays/backup, so that the command can delete an incomplete backup.
	backupTimeout = 5*time.Hour + 50*time.Minute
	// partial is the suffix of the folder of an incomplete backup.
	partial = ".partial"
	// restoring is the file that exists from the time when a restore begins to replace data until the restore succeeds. It
	// contains the name of the backup.
	restoring = ".restoring"
	// sums is the file with the SHA-256 of each other file of a backup, in the format of sha256sum.
	sums = "SHA256SUMS"
	// accountsFile is the file with the data from MySQL.
	accountsFile = "accounts.jsonl.gz"
	// mongoFolder is the folder with the data from MongoDB, in the format of mongodump --gzip.
	mongoFolder = "mongodb"
	dumpSuffix  = ".bson.gz"
	// filesCollection is the collection with the metadata of the files.
	filesCollection = "fs.files"
)

// backupNames matches the names of complete backups. A name is the time in UTC when the backup began.
var backupNames = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)

// collectionName is the regular expression for the names of the collections that a backup can contain. They are also the
// names of files.
const collectionName = `[A-Za-z0-9_.-]+`

var collectionNames = regexp.MustCompile(`^` + collectionName + `$`)

// skipped lists the collections that a backup does not contain: the data of unfinished uploads and deletions, the usage,
// which contains reservations of unfinished uploads, and the time of the latest sweep. After a restore, fsck repairs the
// data of files that these collections described, and the first upload of a user under a quota counts the files.
var skipped = []string{"uploads", "uploads.journal", "uploads.claims", "deletions", "usage", "sweeps"}

// backup writes a new backup to the folder cfg.BackupDir, and then deletes the oldest backups, so that cfg.BackupKeep
// backups remain. The folder of an incomplete backup has another name. Users can upload files during the backup.
func backup(ctx context.Context, cfg config, now time.Time, out io.Writer) (err error) {
	if err := cfg.checkBackup(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, backupTimeout)
	defer cancel()
	unlock, err := lockBackups(cfg.BackupDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := checkRestored(cfg.BackupDir); err != nil {
		return err
	}
	if err := removePartial(cfg.BackupDir); err != nil {
		return err
	}
	// Check MySQL now, because it takes long to read MongoDB.
	if err := countUsers(ctx, string(cfg.DSN)); err != nil {
		return accounts.Refused("MYSQL_DSN_FILE", err)
	}
	name := now.UTC().Format("20060102T150405Z")
	w := &backupWriter{dir: filepath.Join(cfg.BackupDir, name+partial), sums: map[string]string{}}
	if err := os.MkdirAll(filepath.Join(w.dir, mongoFolder), 0o700); err != nil {
		return fmt.Errorf("create the folder of the backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(w.dir))
		}
	}()
	documents, err := w.writeMongoDB(ctx, string(cfg.MongoURI))
	if err != nil {
		return mongodb.Refused("MONGODB_URI_FILE", err)
	}
	// Back up MySQL last. An account without files does no harm, but a file without an account belongs to nobody.
	rows := 0
	err = w.write(accountsFile, func(to io.Writer) (err error) {
		rows, err = accounts.Dump(ctx, string(cfg.DSN), to)
		return err
	})
	if err != nil {
		return accounts.Refused("MYSQL_DSN_FILE", err)
	}
	if err := w.finish(filepath.Join(cfg.BackupDir, name)); err != nil {
		return err
	}
	slog.InfoContext(ctx, "created backup", "backup", name, "documents", documents, "rows", rows, "bytes", w.bytes)
	if _, err := fmt.Fprintf(out, "backup: %s\n", name); err != nil {
		return err
	}
	return removeOld(ctx, cfg.BackupDir, cfg.BackupKeep)
}

// countUsers checks that MySQL is available and set up.
func countUsers(ctx context.Context, dsn string) error {
	return withStore("MYSQL_DSN_FILE", dsn, openAccounts, func(store *accounts.Store) error {
		_, err := store.CountUsers(ctx)
		return err
	})
}

// checkBackup returns an error if a setting of the backup and restore commands is missing or invalid.
func (cfg config) checkBackup() error {
	err := errors.Join(demand("BACKUP_DIR", cfg.BackupDir), demand("MYSQL_DSN_FILE", string(cfg.DSN)), demand("MONGODB_URI_FILE", string(cfg.MongoURI)))
	if cfg.BackupKeep < 1 {
		err = errors.Join(err, fmt.Errorf("settings: BACKUP_KEEP is %d: want at least 1", cfg.BackupKeep))
	}
	return err
}

// lockBackups locks the folder dir, so that only one backup or restore uses it. The lock ends with the process.
func lockBackups(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("BACKUP_DIR: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("BACKUP_DIR: another backup or restore uses the folder: %w", err)
	}
	return func() { _ = file.Close() }, nil
}

// checkRestored returns an error if a restore has not succeeded, because the stores can then lack data. A backup of
// these stores would look complete, and would replace an older backup.
func checkRestored(dir string) error {
	name, err := os.ReadFile(filepath.Join(dir, restoring))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("BACKUP_DIR: %w", err)
	}
	return fmt.Errorf("the last restore did not succeed, so the stores can lack data: run deploy/job restore %s --overwrite", name)
}

// removePartial deletes the folders of incomplete backups.
func removePartial(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("BACKUP_DIR: %w", err)
	}
	for _, entry := range entries {
		name, incomplete := strings.CutSuffix(entry.Name(), partial)
		if !incomplete || !backupNames.MatchString(name) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("delete an incomplete backup: %w", err)
		}
	}
	return nil
}

// removeOld deletes the oldest backups, so that keep backups remain.
func removeOld(ctx context.Context, dir string, keep int) error {
	names, err := listBackups(dir)
	if err != nil {
		return err
	}
	for _, name := range names[:max(0, len(names)-keep)] {
		// Rename the folder first, so that an interrupted deletion does not leave a backup that looks complete.
		path := filepath.Join(dir, name)
		if err := os.Rename(path, path+partial); err != nil {
			return fmt.Errorf("delete backup %s: %w", name, err)
		}
		if err := os.RemoveAll(path + partial); err != nil {
			return fmt.Errorf("delete backup %s: %w", name, err)
		}
		slog.InfoContext(ctx, "deleted backup", "backup", name)
	}
	return nil
}

// listBackups returns the names of the complete backups, from the oldest to the newest.
func listBackups(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("BACKUP_DIR: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() && backupNames.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// printBackups prints the name and the size of each complete backup.
func printBackups(cfg config, out io.Writer) error {
	if err := demand("BACKUP_DIR", cfg.BackupDir); err != nil {
		return err
	}
	names, err := listBackups(cfg.BackupDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		var size int64
		err := filepath.WalkDir(filepath.Join(cfg.BackupDir, name), func(_ string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				size += info.Size()
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("read backup %s: %w", name, err)
		}
		if _, err := fmt.Fprintf(out, "%s %d bytes\n", name, size); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "backups: %d\n", len(names))
	return err
}

// backupWriter writes the files of a backup.
type backupWriter struct {
	dir   string
	sums  map[string]string // the SHA-256 of each file, by path
	bytes int64
}

// write writes the file at path, compressed with gzip. It calls produce to get the uncompressed content.
func (w *backupWriter) write(path string, produce func(to io.Writer) error) (err error) {
	file, err := os.OpenFile(filepath.Join(w.dir, path), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create file %s of the backup: %w", path, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	counted := new(counter)
	buffered := bufio.NewWriterSize(io.MultiWriter(file, sum, counted), 1<<20)
	compressed, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := produce(compressed); err != nil {
		return err
	}
	if err := errors.Join(compressed.Close(), buffered.Flush(), file.Sync()); err != nil {
		return fmt.Errorf("write file %s of the backup: %w", path, err)
	}
	w.sums[path] = hex.EncodeToString(sum.Sum(nil))
	w.bytes += int64(*counted)
	return nil
}

// counter counts the bytes that are written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// finish writes the checksums, and then renames the folder of the backup to path.
func (w *backupWriter) finish(path string) error {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.sums)) {
		fmt.Fprintf(&text, "%s  %s\n", w.sums[name], name)
	}
	file, err := os.OpenFile(filepath.Join(w.dir, sums), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create file %s of the backup: %w", sums, err)
	}
	_, err = file.WriteString(text.String())
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write file %s of the backup: %w", sums, err)
	}
	for _, dir := range []string{filepath.Join(w.dir, mongoFolder), w.dir} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	if err := os.Rename(w.dir, path); err != nil {
		return fmt.Errorf("complete the backup: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir saves the names of the files in a folder to the disk.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("save the folder of the backup: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("save the folder of the backup: %w", err)
	}
	return nil
}

// writeMongoDB writes one file for each collection, and returns the number of documents.
//
// The files that the backup contains are those that exist before it reads the chunks, so the backup has all their
// chunks. A file that is deleted during the backup can lack chunks. Therefore, the metadata is read again at the end.
func (w *backupWriter) writeMongoDB(ctx context.Context, uri string) (documents int, err error) {
	db, err := mongodb.Open(uri)
	if err != nil {
		return 0, fmt.Errorf("MONGODB_URI_FILE: %w", err)
	}
	defer func() { err = errors.Join(err, mongodb.Close(db)) }()
	names, err := collections(ctx, db)
	if err != nil {
		return 0, err
	}
	files := db.Collection(filesCollection)
	ids, err := os.Create(filepath.Join(w.dir, "ids"))
	if err != nil {
		return 0, fmt.Errorf("create a temporary file of the backup: %w", err)
	}
	defer func() { err = errors.Join(err, ids.Close(), os.Remove(ids.Name())) }()
	buffered := bufio.NewWriter(ids)
	if _, err := mongodb.Dump(ctx, files, bson.D{}, buffered, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}})); err != nil {
		return 0, err
	}
	if err := buffered.Flush(); err != nil {
		return 0, fmt.Errorf("write a temporary file of the backup: %w", err)
	}
	dump := func(name string, produce func(to io.Writer) (int, error)) error {
		return w.write(filepath.Join(mongoFolder, name+dumpSuffix), func(to io.Writer) error {
			n, err := produce(to)
			documents += n
			return err
		})
	}
	for _, name := range names {
		if name == filesCollection || slices.Contains(skipped, name) {
			continue
		}
		if !collectionNames.MatchString(name) {
			return documents, fmt.Errorf("the name of the collection %q has other characters than letters, digits, '_', '.' and '-': "+
				"rename the collection, or move it to another database", name)
		}
		err := dump(name, func(to io.Writer) (int, error) { return mongodb.Dump(ctx, db.Collection(name), bson.D{}, to) })
		if err != nil {
			return documents, err
		}
	}
	if _, err := ids.Seek(0, io.SeekStart); err != nil {
		return documents, fmt.Errorf("read a temporary file of the backup: %w", err)
	}
	err = dump(filesCollection, func(to io.Writer) (int, error) { return dumpFiles(ctx, files, bufio.NewReader(ids), to) })
	return documents, err
}

// collections returns the names of the collections in db.
func collections(ctx context.Context, db *mongo.Database) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, mongoTimeout)
	defer cancel()
	names, err := db.ListCollectionNames(ctx, bson.D{})
	if err != nil {
		return nil, mongodb.Problem(err, "list the collections")
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "system.") })
	slices.Sort(names)
	return names, nil
}

// dumpFiles writes the documents of the files whose IDs are in the dump ids.
func dumpFiles(ctx context.Context, files *mongo.Collection, ids io.Reader, to io.Writer) (documents int, err error) {
	var batch bson.A
	for {
		document, err := mongodb.NextDocument(ids)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return documents, fmt.Errorf("read a temporary file of the backup: %w", err)
		}
		if len(batch) == idsAtOnce || last && len(batch) > 0 {
			filter := bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: batch}}}}
			n, err := mongodb.Dump(ctx, files, filter, to)
			if err != nil {
				return documents, err
			}
			documents += n
			batch = batch[:0]
		}
		if last {
			return documents, nil
		}
		batch = append(batch, document.Lookup("_id"))
	}
}
