package events

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/jsonobject"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// The rules of file-stored.v1.schema.json, checked by hand because a function that starts in milliseconds has no time
// to compile a schema. A test holds both together.
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

// parseFileStored reads the data of a TypeFileStored event. It takes exactly the members of the schema, each once and
// none null; encoding/json by itself would also take other spellings of their names, and keep the last of several.
// Errors wrap problem.Unprocessable and quote no value.
func parseFileStored(data []byte) (FileStored, error) {
	members, err := jsonobject.Members(data)
	if err != nil {
		return FileStored{}, problem.Unprocessable.With("the data is not what %s describes: %v", SchemaFileStored, err)
	}
	var f FileStored
	r := reader{members: members}
	f.ID = r.text("id", fileIDs.MatchString)
	f.Owner = r.text("owner", lengthUpTo(maxOwner))
	f.Name = r.text("name", lengthUpTo(maxName))
	f.Size = r.size("size")
	f.SHA256 = r.text("sha256", digests.MatchString)
	f.ContentType = r.text("content_type", contentTypes.MatchString)
	f.StoredAt = r.time("stored_at")
	if r.err == nil && len(members) > r.taken {
		r.err = fmt.Errorf("it has %d members that are not known", len(members)-r.taken)
	}
	if r.err != nil {
		return FileStored{}, problem.Unprocessable.With("the data is not what %s describes: %v", SchemaFileStored, r.err)
	}
	return f, nil
}

// reader takes members of a JSON object by their exact names and keeps the first error.
type reader struct {
	members map[string]json.RawMessage
	taken   int
	err     error
}

// take decodes the member name into v, which stays nil for null, and checks it.
func (r *reader) take(name string, v any, valid func() bool) {
	raw, ok := r.members[name]
	if r.err != nil {
		return
	}
	r.taken++
	switch {
	case !ok:
		r.err = fmt.Errorf("%s is missing", name)
	case json.Unmarshal(raw, v) != nil || !valid():
		r.err = fmt.Errorf("%s is not valid", name)
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

// lengthUpTo returns a check for 1 to limit characters.
func lengthUpTo(limit int) func(string) bool {
	return func(s string) bool { return s != "" && utf8.RuneCountInString(s) <= limit }
}
