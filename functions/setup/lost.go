package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// lostTimeout is the time limit for the lost command.
const lostTimeout = 15 * time.Minute

// lost prints the files whose events are in the journal and of which MongoDB has no trace. After a restore, these are
// the files that users uploaded after the backup. MongoDB has a tombstone of each file that was deleted before the
// backup, so lost does not print such a file. It prints a file that was uploaded and deleted after the backup.
func lost(ctx context.Context, cfg config, out io.Writer) error {
	if cfg.EventsURL == "" {
		return errors.New("settings: EVENTS_ADMIN_URL_FILE is not set: without RabbitMQ, there is no journal of uploads")
	}
	if err := demand("MONGODB_URI_FILE", string(cfg.MongoURI)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lostTimeout)
	defer cancel()
	return withStore("MONGODB_URI_FILE", string(cfg.MongoURI), content.Open, func(files *content.Store) error {
		l := &lostFiles{files: files, out: out, printed: map[uuid.UUID]bool{}}
		n, skipped, err := events.ReadJournal(ctx, string(cfg.EventsURL), func(batch []file.Info) error { return l.add(ctx, batch) })
		if err != nil {
			return err
		}
		if skipped > 0 {
			if _, err := fmt.Fprintf(out, "The journal has %d messages that are not valid events.\n", skipped); err != nil {
				return err
			}
		}
		if n == 0 {
			_, err = fmt.Fprintln(out, "The journal has no events.")
			return err
		}
		_, err = fmt.Fprintf(out, "lost files: %d\nThe journal has %d events. The oldest event is of a file stored at %s.\n",
			len(l.printed), n, l.first.Format(time.RFC3339))
		return err
	})
}

// lostFiles prints lost files.
type lostFiles struct {
	files *content.Store
	out   io.Writer
	first time.Time // when the file of the oldest event was stored
	// printed contains the IDs of the files that add has printed, because the journal can contain several events of a
	// file. The size limit of the journal also limits the size of printed, to about 100 MB.
	printed map[uuid.UUID]bool
}

// add prints the lost files in a batch of files.
func (l *lostFiles) add(ctx context.Context, batch []file.Info) error {
	ids := make([]string, len(batch))
	for i, f := range batch {
		ids[i] = f.ID
	}
	known, err := l.files.Known(ctx, ids)
	if err != nil {
		return err
	}
	if l.first.IsZero() {
		l.first = batch[0].StoredAt
	}
	for _, f := range batch {
		id, err := uuid.Parse(f.ID)
		if err != nil {
			return fmt.Errorf("parse the ID of file %s: %w", f.ID, err)
		}
		if known[f.ID] || l.printed[id] {
			continue
		}
		l.printed[id] = true
		_, err = fmt.Fprintf(l.out, "%s %s owner=%s size=%d name=%q\n", f.StoredAt.Format(time.RFC3339), f.ID, f.Owner, f.Size, f.Name)
		if err != nil {
			return err
		}
	}
	return nil
}
