package mongodb_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// TestNextDocument proves that NextDocument returns each document of a dump, and an error for a damaged dump.
func TestNextDocument(t *testing.T) {
	document, err := bson.Marshal(bson.D{{Key: "_id", Value: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		dump string
		want int // documents before the end or the error
		err  string
	}{
		"empty":               {},
		"two documents":       {dump: strings.Repeat(string(document), 2), want: 2},
		"truncated document":  {dump: string(document) + string(document[:9]), want: 1, err: "unexpected EOF"},
		"truncated length":    {dump: string(document) + "\x05", want: 1, err: "unexpected EOF"},
		"only a length":       {dump: string(document[:4]), err: "unexpected EOF"},
		"length is too small": {dump: "\x04\x00\x00\x00", err: "invalid length 4"},
		"length is too large": {dump: "\x00\x00\x00\x02", err: "invalid length 33554432"},
		"negative length":     {dump: "\xff\xff\xff\xff", err: "invalid length -1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := strings.NewReader(test.dump)
			for range test.want {
				if got, err := mongodb.NextDocument(r); err != nil || !bytes.Equal(got, document) {
					t.Fatalf("got document %v and error %v, want %v", got, err, bson.Raw(document))
				}
			}
			_, err := mongodb.NextDocument(r)
			if test.err == "" && !errors.Is(err, io.EOF) || test.err != "" && (errors.Is(err, io.EOF) || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got error %v, want io.EOF or %q", err, test.err)
			}
		})
	}
}
