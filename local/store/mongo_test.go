package store

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func TestFerretDB(t *testing.T) {
	testMongo(t, func(ctx context.Context, dir string) (*Mongo, error) { return StartFerretDB(ctx, dir, t.Output()) })
}

func TestMongod(t *testing.T) {
	if _, err := FindMongod(); err != nil {
		// Debian has no package of mongod, so this test does not fail even if CI=true.
		t.Skipf("NOT TESTED: %v; install mongod from MongoDB's own packages", err)
	}
	testMongo(t, func(ctx context.Context, dir string) (*Mongo, error) { return StartMongod(ctx, dir, t.Output()) })
}

// testMongo runs testServer on a server with the MongoDB protocol. It also checks that only one of several concurrent
// inserts of the same ID succeeds. Deduplication depends on this.
func testMongo(t *testing.T, start func(ctx context.Context, dir string) (*Mongo, error)) {
	testServer(t, func(ctx context.Context, dir string) (instance, numbers, error) {
		server, err := start(ctx, dir)
		if err != nil {
			return nil, nil, err
		}
		return server, documents{collection(t, server.URI)}, nil
	})
	server, err := start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	t.Run("only one insert succeeds", func(t *testing.T) {
		docs := collection(t, server.URI)
		var inserted atomic.Int32
		var all sync.WaitGroup
		for range 30 {
			all.Go(func() {
				_, err := docs.InsertOne(t.Context(), bson.D{{Key: "_id", Value: "the same"}})
				switch {
				case err == nil:
					inserted.Add(1)
				case !mongo.IsDuplicateKeyError(err):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got := inserted.Load(); got != 1 {
			t.Errorf("%d inserts of the same ID succeeded, want 1", got)
		}
	})
}

func collection(t *testing.T, uri string) *mongo.Collection {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	return client.Database(database).Collection("numbers")
}

// documents stores numbers in a collection.
type documents struct{ *mongo.Collection }

func (d documents) add(ctx context.Context, i int) error {
	_, err := d.InsertOne(ctx, bson.D{{Key: "_id", Value: i}})
	return err
}

func (d documents) all(ctx context.Context) (map[int]bool, error) {
	cursor, err := d.Find(ctx, bson.D{})
	if err != nil {
		return nil, err
	}
	var docs []struct {
		ID int `bson:"_id"`
	}
	if err := cursor.All(ctx, &docs); err != nil {
		return nil, err
	}
	found := map[int]bool{}
	for _, doc := range docs {
		found[doc.ID] = true
	}
	return found, nil
}
