package integration

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// recording contains the queries that a proxy has forwarded to MongoDB.
type recording struct {
	mu sync.Mutex
	// queries contains the queries by their shape. Queries with the same shape differ only in their values.
	queries map[string]bson.D
	// inserted contains a document for each collection into which a document was inserted.
	inserted map[string]bson.D
	unknown  []string // the commands that record cannot convert to a query
}

// messages returns the parsers of a proxy that records queries.
func (q *recording) messages() (fromClient, fromServer parser) {
	read, fromServer := mongoMessages()
	return func(r *bufio.Reader) ([]byte, string, error) {
		message, what, err := read(r)
		if err == nil && what != "" {
			q.record(message)
		}
		return message, what, err
	}, fromServer
}

// record records the query of an OP_MSG message. For an update or a deletion, the query is a search for the documents.
func (q *recording) record(message []byte) {
	body, sequence := sections(message)
	name := body[0].Key
	collection, _ := body[0].Value.(string)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch name {
	case "find":
		query := bson.D{}
		for _, e := range body {
			if slices.Contains([]string{"find", "filter", "sort", "projection", "limit"}, e.Key) {
				query = append(query, e)
			}
		}
		q.add(query)
	case "aggregate":
		query := bson.D{{Key: name, Value: collection}, {Key: "cursor", Value: bson.D{}}}
		for _, e := range body {
			if e.Key == "pipeline" {
				query = append(query, e)
			}
		}
		q.add(query)
	case "update", "delete":
		for _, write := range sequence {
			q.add(bson.D{{Key: "find", Value: collection}, {Key: "filter", Value: write[0].Value}})
		}
	case "insert":
		q.inserted[collection] = sequence[0]
	case "getMore", "createIndexes":
	case "hello", "isMaster", "ping", "saslStart", "saslContinue", "endSessions":
	default:
		q.unknown = append(q.unknown, name)
	}
}

func (q *recording) add(query bson.D) {
	key := shape(query)
	if _, exists := q.queries[key]; !exists {
		q.queries[key] = query
	}
}

// sections returns the command in an OP_MSG message, and the documents that the message contains in addition to the
// command, such as those of an update.
func sections(message []byte) (command bson.D, sequence []bson.D) {
	for rest := message[16+4:]; len(rest) > 4; {
		kind := rest[0]
		rest = rest[1:]
		length := binary.LittleEndian.Uint32(rest)
		section := rest[:length]
		rest = rest[length:]
		if kind == 0 {
			_ = bson.Unmarshal(section, &command) // the driver has encoded it
			continue
		}
		_, documents, _ := bytes.Cut(section[4:], []byte{0}) // after the name of the sequence
		for len(documents) > 0 {
			var document bson.D
			length := binary.LittleEndian.Uint32(documents)
			_ = bson.Unmarshal(documents[:length], &document)
			sequence = append(sequence, document)
			documents = documents[length:]
		}
	}
	return command, sequence
}

// shape returns a text that is the same for queries that differ only in their values.
func shape(value any) string {
	switch value := value.(type) {
	case bson.D:
		var members []string
		for _, e := range value {
			member := shape(e.Value)
			if e.Key == "find" || e.Key == "aggregate" || e.Key == "sort" {
				member = fmt.Sprint(e.Value)
			}
			members = append(members, e.Key+": "+member)
		}
		return "{" + strings.Join(members, ", ") + "}"
	case bson.A:
		elements := map[string]bool{}
		for _, element := range value {
			elements[shape(element)] = true
		}
		return "[" + strings.Join(slices.Sorted(maps.Keys(elements)), ", ") + "]"
	}
	return fmt.Sprintf("%T", value)
}

// unbounded contains the collections in which a query is allowed to read all documents, with the reason.
var unbounded = map[string]string{
	"sweeps":               "sweep deletes all documents except the latest",
	"deletions.tombstones": "sweep deletes its documents after 24 h, and the next version does not need it",
}

// TestQueriesUseIndexes proves that no query of the packages content, outbox and catalog reads all documents of a
// collection. It records the queries of a scenario that calls all methods, and asks the server for the plan of each
// query.
func TestQueriesUseIndexes(t *testing.T) {
	if os.Getenv("MONGODB_ADMIN_URI") == "" {
		t.Skip("FerretDB 1.24 uses no index for most queries, so this test needs a server in MONGODB_ADMIN_URI")
	}
	server := servertest.MongoDB(t)
	recorded := &recording{queries: map[string]bson.D{}, inserted: map[string]bson.D{}}
	uri := server.NewDatabase(t)
	proxy := newWire(t, host(t, uri), recorded.messages, func(moment) bool { return false })
	contenttest.Test(t, func(t *testing.T) (contenttest.Store, contenttest.Notes) {
		s, _ := servertest.OpenContent(t, proxy.through(t, server.NewDatabase(t)))
		s.Limits = contenttest.Limits
		return s, s.Notes
	})
	files, _ := servertest.OpenContent(t, proxy.through(t, uri))
	entries := openCatalog(t, proxy.through(t, uri))
	called := callOthers(t, files, entries)
	for of, tested := range map[reflect.Type][]string{
		reflect.TypeFor[*content.Store](): methods(reflect.TypeFor[contenttest.Store]()),
		reflect.TypeFor[*outbox.Notes]():  methods(reflect.TypeFor[contenttest.Notes]()),
		reflect.TypeFor[*catalog.Store](): nil,
	} {
		for _, method := range methods(of) {
			queries := !slices.Contains([]string{"Close", "Database", "EnsureIndexes"}, method)
			if name := of.Elem().String() + "." + method; queries && !slices.Contains(tested, method) && !called[name] {
				t.Errorf("the test does not call the method %s", name)
			}
		}
	}
	recorded.mu.Lock() // the driver can still send commands
	defer recorded.mu.Unlock()
	if len(recorded.unknown) > 0 {
		t.Errorf("got the unknown commands %q", recorded.unknown)
	}
	db := servertest.Database(t, uri)
	fill(t, db, recorded.inserted)
	for _, key := range slices.Sorted(maps.Keys(recorded.queries)) {
		query := recorded.queries[key]
		var plan bson.D
		if err := db.RunCommand(t.Context(), bson.D{{Key: "explain", Value: query}, {Key: "verbosity", Value: "queryPlanner"}}).Decode(&plan); err != nil {
			t.Errorf("explain %s: %v", key, err)
			continue
		}
		steps, scan := inspect(plan)
		if _, allowed := unbounded[query[0].Value.(string)]; steps == 0 || scan && !allowed {
			text, err := bson.MarshalExtJSON(plan, false, false)
			t.Errorf("%s: got a plan with %d steps that reads all documents: %t, want a plan that uses an index: %s (%v)", key, steps, scan, text, err)
		}
	}
	t.Logf("checked the plans of %d queries", len(recorded.queries))
}

// methods returns the names of the exported methods of a type.
func methods(of reflect.Type) (names []string) {
	for method := range of.Methods() {
		names = append(names, method.Name)
	}
	return names
}

// callOthers calls the methods that contenttest.Test does not call, and returns their names.
func callOthers(t *testing.T, files *content.Store, entries *catalog.Store) (called map[string]bool) {
	t.Helper()
	ctx, called := t.Context(), map[string]bool{}
	call := func(name string, err error) {
		t.Helper()
		if called[name] = true; err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	id := uuid.Must(uuid.NewV7()).String()
	_, _, err := files.IDsOfChunks(ctx, id, 10)
	call("content.Store.IDsOfChunks", err)
	_, _, err = files.IDsOfJournals(ctx, id, 10)
	call("content.Store.IDsOfJournals", err)
	_, _, err = files.Check(ctx, id)
	call("content.Store.Check", err)
	_, err = files.Known(ctx, []string{id})
	call("content.Store.Known", err)
	call("content.Store.DropJournal", files.DropJournal(ctx, id))
	call("content.Store.SetUpgrade", files.SetUpgrade(ctx, id, false))
	_, _, err = files.Upgrade(ctx)
	call("content.Store.Upgrade", err)
	call("outbox.Notes.Add", files.Notes.Add(ctx, outbox.Note{ID: id, Owner: "ada", DueAt: time.Now()}))
	call("outbox.Notes.End", files.Notes.End(ctx, id, time.Now()))
	_, err = files.Notes.Owned(ctx, "ada")
	call("outbox.Notes.Owned", err)
	_, err = files.Notes.Existing(ctx, []string{id, "x"})
	call("outbox.Notes.Existing", err)
	call("outbox.Notes.Reserved", files.Notes.Reserved(ctx, id))
	_, err = files.NextOwner(ctx, "a")
	call("content.Store.NextOwner", err)
	_, err = files.IsUsageCorrect(ctx, "ada")
	call("content.Store.IsUsageCorrect", err)
	call("content.Store.Recount", files.Recount(ctx, "ada"))
	call("content.Store.BeginSweep", files.BeginSweep(ctx, time.Minute))
	call("outbox.Notes.Remove", files.Notes.Remove(ctx, id))

	call("catalog.Store.EnsureIndexes", entries.EnsureIndexes(ctx))
	for n := range 4 {
		at := time.Unix(1_800_000_000+int64(n), 0).UTC()
		_, err := entries.Insert(ctx, catalog.Entry{Info: file.Info{ID: uuid.Must(uuid.NewV7()).String(), Owner: "ada", Name: fmt.Sprintf("Notes %d.txt", n),
			StoredAt: at}, CataloguedAt: at})
		call("catalog.Store.Insert", err)
	}
	for _, owner := range []string{"", "ada"} {
		for _, sort := range []string{"date", "-date", "size", "-size", "name", "-name"} {
			for _, name := range []string{"", "notes", "tx note"} {
				if owner == "" && !strings.HasSuffix(sort, "date") {
					continue
				}
				query := catalog.Query{Owner: owner, Sort: sort, Name: name, Limit: 1}
				_, query.Cursor, err = entries.List(ctx, query)
				call("catalog.Store.List", err)
				_, _, err = entries.List(ctx, query)
				call("catalog.Store.List", err)
			}
		}
	}
	ids, err := entries.IDs(ctx, "0", 10)
	call("catalog.Store.IDs", err)
	_, err = entries.Missing(ctx, ids)
	call("catalog.Store.Missing", err)
	_, err = entries.Get(ctx, ids[0])
	call("catalog.Store.Get", err)
	_, err = entries.AddKeys(ctx, 10)
	call("catalog.Store.AddKeys", err)
	call("catalog.Store.Delete", entries.Delete(ctx, ids[0]))
	return called
}

// fill inserts many variants of a document into each collection. Otherwise, the server would possibly read the whole
// collection because it is small.
func fill(t *testing.T, db *mongo.Database, documents map[string]bson.D) {
	t.Helper()
	for collection, document := range documents {
		var variants []any
		for n := range 2000 {
			variants = append(variants, variant(document, n))
		}
		if _, err := db.Collection(collection).InsertMany(t.Context(), variants); err != nil {
			t.Fatal(err)
		}
	}
}

// variant returns a value that is similar to value, and different for each n.
func variant(value any, n int) any {
	switch value := value.(type) {
	case bson.D:
		members := bson.D{}
		for _, e := range value {
			members = append(members, bson.E{Key: e.Key, Value: variant(e.Value, n)})
		}
		return members
	case bson.A:
		elements := bson.A{}
		for _, element := range value {
			elements = append(elements, variant(element, n))
		}
		return elements
	case string:
		return fmt.Sprint(value, "/", n)
	case int64:
		return value + int64(n) + 1 // the document with value exists
	case bson.DateTime:
		return value + bson.DateTime(n)
	case bson.ObjectID:
		return bson.NewObjectID()
	case bson.Binary:
		return bson.Binary{Subtype: value.Subtype, Data: fmt.Append(nil, n)}
	}
	return value
}

// unindexed matches the condition of a plan of DocumentDB that selects all documents of a collection.
var unindexed = regexp.MustCompile(`^\(shard_key_value = '\d+'::bigint\)$`)

// inspect returns the number of steps in a plan, and reports whether a step reads all documents of a collection, except
// for a step that reads them in the order of the index until it has found a page. The members of a step are the ones of
// MongoDB, or those of DocumentDB, which are from PostgreSQL.
func inspect(plan any) (steps int, scan bool) {
	switch plan := plan.(type) {
	case bson.A:
		for _, element := range plan {
			n, s := inspect(element)
			steps, scan = steps+n, scan || s
		}
	case bson.D:
		var filtered bool
		var condition string
		for _, e := range plan {
			switch text, _ := e.Value.(string); e.Key {
			case "stage", "Node Type":
				steps++
				scan = scan || text == "COLLSCAN" || text == "Seq Scan"
			case "Index Cond", "Recheck Cond":
				condition = text
			case "Filter":
				filtered = true
			}
			n, s := inspect(e.Value)
			steps, scan = steps+n, scan || s
		}
		scan = scan || filtered && unindexed.MatchString(condition)
	}
	return steps, scan
}
