package catalog

import (
	"context"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// MaxName is the maximum length of Query.Name in bytes.
	MaxName = 255
	// maxNameKey and maxWord are the maximum lengths of the values of the fields name_key and words, in bytes. They
	// limit the size of an index entry.
	maxNameKey, maxWord = 128, 64
	// maxWords is the maximum number of words of a name. It limits the number of index entries of a catalog entry.
	maxWords = 32
	// updatesAtOnce is the number of concurrent updates of AddKeys.
	updatesAtOnce = 8
)

// keys contains the fields of a document by which List sorts and searches. An entry that the previous version of
// Strongroom inserted has no keys until AddKeys adds them.
type keys struct {
	NameKey string   `bson:"name_key"`
	Words   []string `bson:"words"`
}

func keysOf(name string) keys { return keys{cut(fold(name), maxNameKey), words(name)} }

// fold returns s without differences in case and in compatibility variants (Unicode form NFKC), such as full-width
// letters.
func fold(s string) string {
	return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s)))
}

// cut returns the first characters of s, which have at most limit bytes.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// words returns the first distinct words of a name, folded. A word begins with a letter or a digit. It ends before the
// next character that is not a letter, a digit or a mark.
func words(name string) []string {
	separates := func(r rune) bool { return !unicode.In(r, unicode.L, unicode.N, unicode.M) }
	found := []string{} // the field words must not be null
	for word := range strings.FieldsFuncSeq(fold(name), separates) {
		word = cut(strings.TrimLeftFunc(word, unicode.IsMark), maxWord)
		if word != "" && len(found) < maxWords && !slices.Contains(found, word) {
			found = append(found, word)
		}
	}
	return found
}

// search returns filters that together select the entries whose names match the text in Query.Name. The results of the
// filters are disjoint.
func search(text string) ([]bson.D, error) {
	if text == "" {
		return []bson.D{{}}, nil
	}
	if len(text) > MaxName || !mongodb.Plain(text) {
		return nil, problem.BadRequest.With("the text to search for must be valid UTF-8 without control characters and at most %d bytes long", MaxName)
	}
	sought := words(text)
	if len(sought) == 0 {
		return nil, problem.BadRequest.With("the text to search for must contain a letter or a digit")
	}
	begins, contains := bson.A{}, bson.A{}
	for _, word := range sought {
		// A server can look up a pattern in an index if the pattern begins with ^ and distinguishes case. A word
		// contains no special character of a pattern.
		begins = append(begins, bson.D{{Key: "words", Value: bson.Regex{Pattern: "^" + word}}})
		contains = append(contains, bson.D{{Key: "name", Value: bson.Regex{Pattern: word, Options: "i"}}})
	}
	return []bson.D{
		{{Key: "$and", Value: begins}},
		// Find the entries without keys, too, by a pattern. This filter selects an empty range of an index after
		// AddKeys has added all keys. Without the folded names, it can select too many entries, or too few if the names
		// contain compatibility variants.
		{withoutKeys, {Key: "$and", Value: contains}},
	}, nil
}

// withoutKeys is a condition for the entries without keys.
var withoutKeys = bson.E{Key: "words", Value: nil}

// AddKeys adds the keys to up to limit entries without keys, and returns the number of these entries. It can be called
// repeatedly and concurrently, because the keys depend only on the name of the file, which never changes.
func (s *Store) AddKeys(ctx context.Context, limit int) (int, error) {
	entries, err := s.unkeyed(ctx, limit)
	if err != nil {
		return 0, err
	}
	// Do not send all updates in one command, because FerretDB 1.24 hangs if a command contains 100 updates.
	var group errgroup.Group
	group.SetLimit(updatesAtOnce)
	for _, e := range entries {
		group.Go(func() error {
			return mongodb.Update(ctx, s.entries, mongodb.CallTimeout, mongodb.ID(e.ID), bson.D{{Key: "$set", Value: keysOf(e.Name)}})
		})
	}
	return len(entries), group.Wait()
}

// unkeyed returns up to limit entries without keys.
func (s *Store) unkeyed(ctx context.Context, limit int) ([]document, error) {
	ctx, cancel := context.WithTimeout(ctx, mongodb.CallTimeout)
	defer cancel()
	return s.find(ctx, bson.D{withoutKeys}, options.Find().SetLimit(int64(limit)))
}
