package main

import (
	"context"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// The events in the log that record who had access to a file, or to a list of files.
const (
	eventListed     = "files.listed"    // by an admin: the files of another user, or of all users
	eventRead       = "file.read"       // by an admin: the description of another user's file
	eventDownloaded = "file.downloaded" // by an admin: the content of another user's file
	eventLinked     = "file.link-created"
	eventDeleted    = "file.deleted"
	eventRefused    = "file.refused" // the file of another user, by a user who is not allowed to access it
)

// record logs an event. owner is the user ID of the file's owner. For a list of the files of all users, id and owner
// are empty.
func record(ctx context.Context, event, id, owner string) {
	slog.InfoContext(ctx, "access to a file", "event", event, "user_id", token.Caller(ctx).Subject, "owner_id", owner,
		"file_id", id, "address", request.OriginOf(ctx).Address)
}

// recordForeign logs an event if the caller is not the owner.
func recordForeign(ctx context.Context, event, id, owner string) {
	if owner != token.Caller(ctx).Subject {
		record(ctx, event, id, owner)
	}
}
