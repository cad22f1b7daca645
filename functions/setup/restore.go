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
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// maxSums is the maximum size of the file with the checksums of a backup, in bytes.
const maxSums = 1 << 20

// sumLine matches a line of the file with the checksums. The path is that of accountsFile, or of a collection.
var sumLine = regexp.MustCompile(`^([0-9a-f]{64})  (accounts\.jsonl\.gz|mongodb/` + collectionName + `\.bson\.gz)$`)

// errOccupied reports that the stores contain data that a restore would replace.
var errOccupied = errors.New("the stores contain data")

// restore replaces the data in MySQL and MongoDB with the backup of the given name. If the stores contain files, or more
// than one account, it does so only if overwrite is true. It then prepares the stores as setup does, and repairs the
// data of files whose upload or deletion was unfinished. If restore fails, run it again: until it succeeds, backup
// refuses to run.
func restore(ctx context.Context, cfg config, name string, overwrite bool, out io.Writer) error {
	if err := cfg.checkBackup(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if !backupNames.MatchString(name) {
		return fmt.Errorf("invalid name of a backup %q: setup backups lists the names", name)
	}
	unlock, err := lockBackups(cfg.BackupDir)
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(cfg.BackupDir, name)
	names, err := verify(ctx, dir)
	if err != nil {
		return fmt.Errorf("check backup %s: %w", name, err)
	}
	// Prepare the stores, because they can be empty.
	if err := prepare(ctx, cfg); err != nil {
		return err
	}
	switch err := checkEmpty(ctx, cfg); {
	case errors.Is(err, errOccupied) && overwrite:
	case errors.Is(err, errOccupied):
		return fmt.Errorf("%w: run deploy/job restore %s --overwrite to replace the data", err, name)
	case err != nil:
		return err
	}
	// Check MySQL before MongoDB is replaced, so that a restore that cannot work changes no data.
	err = readFile(filepath.Join(dir, accountsFile), func(from io.Reader) error {
		return accounts.CheckLoad(ctx, string(cfg.AdminDSN), string(cfg.DSN), from)
	})
	if err != nil {
		return err
	}
	marker := filepath.Join(cfg.BackupDir, restoring)
	if err := os.WriteFile(marker, []byte(name), 0o600); err != nil {
		return fmt.Errorf("mark the beginning of the restore: %w", err)
	}
	if err := syncDir(cfg.BackupDir); err != nil {
		return err
	}
	documents, err := loadMongoDB(ctx, cfg, dir, names)
	if err != nil {
		return mongodb.Refused("MONGODB_URI_FILE", err)
	}
	rows := 0
	err = readFile(filepath.Join(dir, accountsFile), func(from io.Reader) (err error) {
		rows, err = accounts.Load(ctx, string(cfg.AdminDSN), string(cfg.DSN), from)
		return err
	})
	if err != nil {
		return err
	}
	// Update the data of an older version.
	if err := prepare(ctx, cfg); err != nil {
		return err
	}
	if err := fsck(ctx, cfg, true, out); err != nil {
		return err
	}
	if err := os.Remove(marker); err != nil {
		return fmt.Errorf("mark the end of the restore: %w", err)
	}
	_, err = fmt.Fprintf(out, "restored backup %s: %d documents in MongoDB, %d rows in MySQL\n", name, documents, rows)
	return err
}

// verify compares the files of a backup with their checksums. It returns the paths of the files with the data from
// MongoDB.
func verify(ctx context.Context, dir string) (names []string, err error) {
	file, err := os.Open(filepath.Join(dir, sums))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSums))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", sums, err)
	}
	hasAccounts := false
	for line := range strings.Lines(string(text)) {
		parts := sumLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if parts == nil {
			return nil, fmt.Errorf("%s has an invalid line", sums)
		}
		sum, err := sumOf(ctx, filepath.Join(dir, parts[2]))
		if err != nil {
			return nil, err
		}
		if sum != parts[1] {
			return nil, fmt.Errorf("the SHA-256 of %s is %s, want %s", parts[2], sum, parts[1])
		}
		if parts[2] == accountsFile {
			hasAccounts = true
		} else {
			names = append(names, parts[2])
		}
	}
	if !hasAccounts || len(names) == 0 {
		return nil, fmt.Errorf("%s does not name the data of both stores", sums)
	}
	return names, nil
}

// sumOf returns the SHA-256 of a file.
func sumOf(ctx context.Context, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	for {
		_, err := io.CopyN(sum, file, 64<<20)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", path, err)
		}
	}
}

// checkEmpty returns errOccupied if MongoDB contains files, or if MySQL contains more than one account. A new
// installation has one account, which setup has created.
func checkEmpty(ctx context.Context, cfg config) error {
	err := withStores(cfg, func(files *content.Store, _ *catalog.Store) error {
		ids, _, err := files.IDs(ctx, "", 1)
		if err == nil && len(ids) > 0 {
			err = fmt.Errorf("%w: MongoDB contains files", errOccupied)
		}
		return err
	})
	if err != nil {
		return err
	}
	return withStore("MYSQL_DSN_FILE", string(cfg.DSN), openAccounts, func(store *accounts.Store) error {
		n, err := store.CountUsers(ctx)
		if err == nil && n > 1 {
			err = fmt.Errorf("%w: MySQL contains %d accounts", errOccupied, n)
		}
		return err
	})
}

// loadMongoDB deletes all collections, and loads the data in the given files of the folder dir. It loads the metadata of
// the files last, so that a file exists only if its chunks exist.
func loadMongoDB(ctx context.Context, cfg config, dir string, names []string) (documents int, err error) {
	db, err := mongodb.Open(string(cfg.MongoURI))
	if err != nil {
		return 0, fmt.Errorf("MONGODB_URI_FILE: %w", err)
	}
	defer func() { err = errors.Join(err, mongodb.Close(db)) }()
	existing, err := collections(ctx, db)
	if err != nil {
		return 0, err
	}
	// Delete the metadata of the files first, for the same reason.
	for _, name := range append([]string{filesCollection}, existing...) {
		if err := drop(ctx, db.Collection(name)); err != nil {
			return 0, err
		}
	}
	// Create the indexes of the empty collections, because the time limit of setup can be too short for an index on many
	// documents.
	if err := ensureIndexes(ctx, cfg); err != nil {
		return 0, err
	}
	metadata := filepath.Join(mongoFolder, filesCollection+dumpSuffix)
	data := slices.DeleteFunc(slices.Clone(names), func(path string) bool { return path == metadata })
	for _, path := range append(data, metadata) {
		collection := db.Collection(strings.TrimSuffix(filepath.Base(path), dumpSuffix))
		err := readFile(filepath.Join(dir, path), func(from io.Reader) error {
			n, err := mongodb.Load(ctx, collection, from)
			documents += n
			return err
		})
		if err != nil {
			return documents, err
		}
	}
	return documents, nil
}

// drop deletes a collection.
func drop(ctx context.Context, collection *mongo.Collection) error {
	ctx, cancel := context.WithTimeout(ctx, mongodb.BulkTimeout)
	defer cancel()
	return mongodb.Problem(collection.Drop(ctx), "delete collection "+collection.Name())
}

// readFile calls consume with the uncompressed content of a file.
func readFile(path string, consume func(from io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	defer func() { _ = file.Close() }()
	uncompressed, err := gzip.NewReader(bufio.NewReaderSize(file, 1<<20))
	if err != nil {
		return fmt.Errorf("read file %s of the backup: %w", path, err)
	}
	// Without a buffer, each document would cause several small reads.
	return consume(bufio.NewReaderSize(uncompressed, 1<<20))
}
