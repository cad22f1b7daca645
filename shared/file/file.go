// Package file defines the attributes of a stored file. The content store, the catalog, the events and the API share
// this definition.
package file

import "time"

// Info contains the attributes of a stored file. The events package defines limits for these attributes. It does
// not create an event for a file that exceeds a limit.
type Info struct {
	// ID is a UUIDv7 in lower case.
	ID string `json:"id" bson:"_id"`
	// Owner is the ID of the user who uploaded the file.
	Owner string `json:"owner" bson:"owner"`
	// Name is the file name that the user chose. It can contain any character.
	Name string `json:"name" bson:"name"`
	// Size is the file's size in bytes.
	Size int64 `json:"size" bson:"size"`
	// SHA256 is the SHA-256 digest of the file's bytes, in lowercase hexadecimal.
	SHA256 string `json:"sha256" bson:"sha256"`
	// ContentType is the file's media type, including its parameters. The user declared it, or Strongroom detected it.
	ContentType string `json:"content_type" bson:"content_type"`
	// StoredAt is the time when the upload was committed, in UTC with millisecond precision.
	StoredAt time.Time `json:"stored_at" bson:"stored_at"`
}
