package events

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/jsonobject"
	"github.com/strongroom-dev/strongroom/shared/problem"
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

// parseFileStored parses the data of a TypeFileStored event. The data must contain each member of the schema exactly
// once, no null values, and no other members. encoding/json alone cannot check this, because it also accepts member
// names that differ in case, and because it uses the last of several members with the same name. Errors wrap
// problem.Unprocessable and do not quote values from the data.
func parseFileStored(data []byte) (file.Info, error) {
	members, err := jsonobject.Members(data)
	if err != nil {
		return file.Info{}, problem.Unprocessable.With("the data does not conform to the schema %s: %v", SchemaFileStored, err)
	}
	var f file.Info
	r := reader{members: members}
	f.ID = r.text("id", fileIDs.MatchString)
	f.Owner = r.text("owner", lengthUpTo(maxOwner))
	f.Name = r.text("name", lengthUpTo(maxName))
	f.Size = r.size("size")
	f.SHA256 = r.text("sha256", digests.MatchString)
	f.ContentType = r.text("content_type", contentTypes.MatchString)
	f.StoredAt = r.time("stored_at")
	if r.err == nil && len(members) > r.taken {
		r.err = fmt.Errorf("unknown members: %d", len(members)-r.taken)
	}
	if r.err != nil {
		return file.Info{}, problem.Unprocessable.With("the data does not conform to the schema %s: %v", SchemaFileStored, r.err)
	}
	return f, nil
}

// reader reads the members of a JSON object by their exact names. It stores the first error that occurs.
type reader struct {
	members map[string]json.RawMessage
	taken   int
	err     error
}

// take decodes the member called name into v, and calls valid to check the decoded value. v must point to a pointer,
// which stays nil if the member is null. After an error, take does nothing.
func (r *reader) take(name string, v any, valid func() bool) {
	raw, ok := r.members[name]
	if r.err != nil {
		return
	}
	r.taken++
	switch {
	case !ok:
		r.err = fmt.Errorf("member %s is missing", name)
	case json.Unmarshal(raw, v) != nil || !valid():
		r.err = fmt.Errorf("member %s is invalid", name)
	}
}

func (r *reader) text(name string, valid func(string) bool) (s string) {
	var v *string
	r.take(name, &v, func() bool { return v != nil && valid(*v) })
	if v != nil {
		s = *v
	}
	return s
}

func (r *reader) size(name string) (n int64) {
	var v *int64
	r.take(name, &v, func() bool { return v != nil && *v >= 0 && *v <= maxSize })
	if v != nil {
		n = *v
	}
	return n
}

func (r *reader) time(name string) (t time.Time) {
	r.text(name, func(s string) bool {
		var err error
		t, err = time.Parse(time.RFC3339Nano, s)
		return err == nil && timestamps.MatchString(s)
	})
	return t
}

// lengthUpTo returns a function that reports whether a string has between 1 and limit characters.
func lengthUpTo(limit int) func(string) bool {
	return func(s string) bool { return s != "" && utf8.RuneCountInString(s) <= limit }
}
