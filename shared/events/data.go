package events

import (
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/strictjson"
)

// These patterns and the limits below implement the rules in file-stored.v1.schema.json. This package does not
// evaluate the schema at run time, because compiling the schema would delay the start of a function, which otherwise
// takes only milliseconds. TestSchema checks that this code and the schema agree.
var (
	fileIDs      = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	digests      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	contentTypes = regexp.MustCompile(`^[ -~]{1,255}$`)
	timestamps   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,9})?Z$`)
)

const (
	maxOwner = 128
	maxName  = 1024
	maxSize  = 1<<53 - 1
)

// parseFileStored parses the data of a TypeFileStored event. Each member that the schema defines must occur exactly
// once and must not be null. No other members are allowed. Errors wrap problem.Unprocessable and do not quote values
// from the data.
func parseFileStored(data []byte) (file.Info, error) {
	f, err := decodeFileStored(data)
	if err != nil {
		return file.Info{}, problem.Unprocessable.With("the data does not conform to the schema %s: %w", SchemaFileStored, err)
	}
	return f, nil
}

func decodeFileStored(data []byte) (file.Info, error) {
	var d struct {
		ID          string `json:"id"`
		Owner       string `json:"owner"`
		Name        string `json:"name"`
		Size        int64  `json:"size"`
		SHA256      string `json:"sha256"`
		ContentType string `json:"content_type"`
		StoredAt    string `json:"stored_at"`
	}
	if err := strictjson.Decode(data, &d); err != nil {
		return file.Info{}, err
	}
	storedAt, err := time.Parse(time.RFC3339Nano, d.StoredAt)
	for _, member := range []struct {
		name  string
		valid bool
	}{
		{"id", fileIDs.MatchString(d.ID)},
		{"owner", hasLength(d.Owner, maxOwner)},
		{"name", hasLength(d.Name, maxName)},
		{"size", d.Size >= 0 && d.Size <= maxSize},
		{"sha256", digests.MatchString(d.SHA256)},
		{"content_type", contentTypes.MatchString(d.ContentType)},
		{"stored_at", err == nil && timestamps.MatchString(d.StoredAt)},
	} {
		if !member.valid {
			return file.Info{}, fmt.Errorf("member %s is invalid", member.name)
		}
	}
	return file.Info{ID: d.ID, Owner: d.Owner, Name: d.Name, Size: d.Size, SHA256: d.SHA256, ContentType: d.ContentType, StoredAt: storedAt}, nil
}

// hasLength reports whether the length of s, in characters, is at least 1 and does not exceed the parameter limit.
func hasLength(s string, limit int) bool { return s != "" && utf8.RuneCountInString(s) <= limit }
