package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// checkTimeout is the time limit for the commands fsck and scrub. It is shorter than the time limit of their Job in
	// deploy/job, so that scrub can still print the ID from which it must continue.
	checkTimeout = 11 * time.Hour
	// idsAtOnce is the maximum number of documents per query.
	idsAtOnce = 500
	// strayAge is the minimum age of an upload whose data fsck reports. The data of a younger upload can still change.
	strayAge = 24 * time.Hour
)

// errFound reports that a check has found problems and has not repaired them.
var errFound = errors.New("the check found problems")

// checker compares the collections of files, notes and catalog entries.
type checker struct {
	files   *content.Store
	entries *catalog.Store
	out     io.Writer
	repair  bool
	found   int
}

// withStores opens the file store and the catalog, calls check, and closes both.
func withStores(cfg config, check func(files *content.Store, entries *catalog.Store) error) error {
	if err := demand("MONGODB_URI_FILE", string(cfg.MongoURI)); err != nil {
		return err
	}
	return withStore("MONGODB_URI_FILE", string(cfg.MongoURI), content.Open, func(files *content.Store) error {
		return check(files, catalog.New(files.Database()))
	})
}

// fsck reports files that will never be cataloged, catalog entries without a file, data without a file, and wrong
// usages. If repair is true, it also repairs these problems.
func fsck(ctx context.Context, cfg config, repair bool, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return withStores(cfg, func(files *content.Store, entries *catalog.Store) error {
		c := &checker{files: files, entries: entries, out: out, repair: repair}
		for _, check := range []func(context.Context) error{c.checkFiles, c.checkEntries, c.checkChunks, c.checkJournals, c.checkUsage} {
			if err := check(ctx); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(out, "problems: %d\n", c.found)
		if c.found > 0 && !repair {
			err = errors.Join(err, fmt.Errorf("%w: run setup fsck --repair", errFound))
		}
		return err
	})
}

// report prints what is wrong with the file, upload or entry with the given ID. If the checker repairs problems, report
// then calls fix.
func (c *checker) report(id, what string, fix func() error) error {
	c.found++
	if _, err := fmt.Fprintf(c.out, "%s: %s\n", id, what); err != nil {
		return err
	}
	if !c.repair {
		return nil
	}
	return fix()
}

// list returns a page of IDs after the given ID, and the value of "after" for the next page.
type list func(after string) (ids []string, next string, err error)

// listFiles returns a list of all files that Strongroom has stored. It skips the files of other programs, which can use
// GridFS in the same database.
func listFiles(ctx context.Context, files *content.Store) list {
	return func(after string) ([]string, string, error) {
		ids, next, err := files.IDs(ctx, after, idsAtOnce)
		return slices.DeleteFunc(ids, func(id string) bool { _, ok := startedAt(id); return !ok }), next, err
	}
}

// startedAt returns the time when the upload with the given ID began. ok is false if another program has chosen the ID.
func startedAt(id string) (_ time.Time, ok bool) {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.Version() != 7 || parsed.String() != id {
		return time.Time{}, false
	}
	return time.Unix(parsed.Time().UnixTime()), true
}

// pages calls visit with each page of IDs, until list returns no next page.
func pages(after string, list list, visit func(ids []string, next string) error) error {
	for {
		ids, next, err := list(after)
		if err != nil || next == "" {
			return err
		}
		if err := visit(ids, next); err != nil {
			return err
		}
		after = next
	}
}

// checkFiles reports files that have neither a catalog entry nor a note, for example after a backup was restored. The
// repair adds a note, so that the sweep function publishes the file's event.
func (c *checker) checkFiles(ctx context.Context) error {
	return pages("", listFiles(ctx, c.files), func(ids []string, _ string) error {
		return eachForgotten(ctx, c.files, c.entries, ids, func(f content.File) error {
			return c.report(f.ID, "the file has no catalog entry, and no note", func() error { return addNote(ctx, c.files, f) })
		})
	})
}

// eachForgotten calls visit for each of the given files that has neither a catalog entry nor a note.
func eachForgotten(ctx context.Context, files *content.Store, entries *catalog.Store, ids []string, visit func(content.File) error) error {
	missing, err := entries.Missing(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range missing {
		note, err := files.Notes.Note(ctx, id)
		if err != nil {
			return err
		}
		if note != nil {
			continue
		}
		f, err := files.Get(ctx, id)
		if errors.Is(err, problem.NotFound) { // the file was deleted in the meantime
			continue
		}
		if err != nil {
			return err
		}
		if f.Owner == "" {
			continue // another program has written the file
		}
		// Look for the entry again, because record might have added it and closed the note in the meantime.
		if still, err := entries.Missing(ctx, []string{id}); err != nil {
			return err
		} else if len(still) == 0 {
			continue
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

// addNote adds a note that is due immediately. The owner's usage already contains the file.
func addNote(ctx context.Context, files *content.Store, f content.File) error {
	err := files.Notes.Add(ctx, outbox.Note{ID: f.ID, Owner: f.Owner, Length: f.Size, IsReserved: true, DueAt: f.StoredAt})
	if errors.Is(err, mongodb.ErrExists) {
		return nil
	}
	return err
}

// checkEntries reports catalog entries whose file does not exist.
func (c *checker) checkEntries(ctx context.Context) error {
	return pages("", func(after string) (ids []string, next string, err error) {
		if ids, err = c.entries.IDs(ctx, after, idsAtOnce); len(ids) > 0 {
			next = ids[len(ids)-1]
		}
		return ids, next, err
	}, func(ids []string, _ string) error {
		for _, id := range ids {
			// If there is a note or a deletion record, sweep completes the work.
			noted, stored, err := c.files.Check(ctx, id)
			if err != nil {
				return err
			}
			if noted || stored {
				continue
			}
			if err := c.report(id, "the catalog entry has no file", func() error { return c.entries.Delete(ctx, id) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkChunks reports chunks that belong to no file and to no upload.
func (c *checker) checkChunks(ctx context.Context) error {
	chunks := func(after string) ([]string, string, error) { return c.files.IDsOfChunks(ctx, after, idsAtOnce) }
	return c.checkStrays(ctx, chunks, func(id string, stored bool) error {
		if stored {
			return nil
		}
		return c.report(id, "the chunks belong to no file and to no upload", func() error { return c.files.Discard(ctx, id) })
	})
}

// checkJournals reports journals that belong to no upload.
func (c *checker) checkJournals(ctx context.Context) error {
	journals := func(after string) ([]string, string, error) { return c.files.IDsOfJournals(ctx, after, idsAtOnce) }
	return c.checkStrays(ctx, journals, func(id string, _ bool) error {
		return c.report(id, "the journal belongs to no upload", func() error { return c.files.DropJournal(ctx, id) })
	})
}

// checkUsage reports users whose recorded usage is not the sum of their files, for example after a backup was restored.
func (c *checker) checkUsage(ctx context.Context) error {
	for owner := ""; ; {
		var err error
		if owner, err = c.files.NextOwner(ctx, owner); err != nil || owner == "" {
			return err
		}
		ok, err := c.files.IsUsageCorrect(ctx, owner)
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		if err := c.report(owner, "the recorded usage of this user is wrong", func() error { return c.files.Recount(ctx, owner) }); err != nil {
			return err
		}
	}
}

// checkStrays calls visit for each listed ID that has neither a note nor a deletion record. The parameter stored
// reports whether a file has the ID. checkStrays skips uploads that are younger than strayAge, and the files of other
// programs.
func (c *checker) checkStrays(ctx context.Context, list list, visit func(id string, stored bool) error) error {
	return pages("", list, func(ids []string, _ string) error {
		for _, id := range ids {
			if started, ok := startedAt(id); !ok || time.Since(started) < strayAge {
				continue
			}
			noted, stored, err := c.files.Check(ctx, id)
			if err != nil {
				return err
			}
			if noted {
				continue
			}
			if err := visit(id, stored); err != nil {
				return err
			}
		}
		return nil
	})
}

// scrub reads all files and reports those whose bytes are missing or do not match their SHA-256. It starts after the
// given file ID.
func scrub(ctx context.Context, cfg config, after string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return withStores(cfg, func(files *content.Store, _ *catalog.Store) error {
		read, corrupt := 0, 0
		err := pages(after, listFiles(ctx, files), func(ids []string, next string) error {
			for _, id := range ids {
				f, err := files.Get(ctx, id)
				if errors.Is(err, problem.NotFound) { // the file was deleted in the meantime
					continue
				}
				if err == nil {
					_, err = io.Copy(io.Discard, files.Reader(ctx, f))
				}
				if err != nil && ctx.Err() != nil || errors.Is(err, problem.Unavailable) {
					return err
				}
				read++
				if err != nil {
					corrupt++
					if _, err := fmt.Fprintf(out, "%s: %v\n", id, err); err != nil {
						return err
					}
				}
				after = id
			}
			return nil
		})
		if err != nil && after != "" {
			err = fmt.Errorf("continue with setup scrub %s: %w", after, err)
		}
		_, printed := fmt.Fprintf(out, "files: %d\ncorrupt: %d\n", read, corrupt)
		if corrupt > 0 {
			err = errors.Join(err, fmt.Errorf("%w: %d files are corrupt", errFound, corrupt))
		}
		return errors.Join(err, printed)
	})
}

// upgrade adds a note for each file that has neither a catalog entry nor a note. The previous version deleted a file's
// note when the broker had confirmed the event, even if the catalog entry did not exist yet. upgrade runs once. If it
// is interrupted, the next run of setup continues it.
func upgrade(ctx context.Context, cfg config) error {
	return withStores(cfg, func(files *content.Store, entries *catalog.Store) error {
		after, done, err := files.Upgrade(ctx)
		if err != nil || done {
			return err
		}
		last := after
		add := func(f content.File) error { return addNote(ctx, files, f) }
		err = pages(after, listFiles(ctx, files), func(ids []string, next string) error {
			if err := eachForgotten(ctx, files, entries, ids, add); err != nil {
				return err
			}
			last = next
			return files.SetUpgrade(ctx, next, false)
		})
		if err != nil {
			return err
		}
		return files.SetUpgrade(ctx, last, true)
	})
}
