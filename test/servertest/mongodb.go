package servertest

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/local/store"
)

// MongoDBServer is a server of the MongoDB protocol.
type MongoDBServer struct {
	Killable // nil if the server is shared with other tests
	AdminURI string
}

// MongoDB returns the MongoDB server that all tests use.
func MongoDB(t *testing.T) MongoDBServer {
	t.Helper()
	if uri := os.Getenv("MONGODB_ADMIN_URI"); uri != "" {
		return MongoDBServer{AdminURI: uri}
	}
	private, err := privateFerretDB()
	Need(t, "ferretdb", err)
	return MongoDBServer{AdminURI: private.URI}
}

// OwnMongoDB returns a MongoDB server that no other test uses at the same time.
func OwnMongoDB(t *testing.T) MongoDBServer {
	t.Helper()
	if uri := os.Getenv("MONGODB_ADMIN_URI"); uri != "" && os.Getenv("STORES") != "" {
		return MongoDBServer{ownNamed(t, "mongo"), uri}
	}
	private := own(t, "ferretdb", "ferretdb", store.StartFerretDB)
	return MongoDBServer{private, private.URI}
}

// NewDatabase returns the administrator's URI for a new database. The database is dropped when the test ends.
func (s MongoDBServer) NewDatabase(t *testing.T) (uri string) {
	t.Helper()
	u := ParseURL(t, s.AdminURI)
	if query := u.Query(); u.User != nil && !query.Has("authSource") {
		// Set authSource, because its default is the database in the path, and the path changes below.
		query.Set("authSource", cmp.Or(strings.TrimPrefix(u.Path, "/"), "admin"))
		u.RawQuery = query.Encode()
	}
	name := UniqueName()
	u.Path = "/" + name
	db := Database(t, u.String())
	AtEnd(t, "drop MongoDB database "+name, db.Drop)
	return u.String()
}

// NewUser returns uri with the credentials of a user that does not exist yet. uri must be a result of NewDatabase. The
// test must create the user. The user is dropped when the test ends.
func (s MongoDBServer) NewUser(t *testing.T, uri string) string {
	t.Helper()
	u := ParseURL(t, uri)
	if u.User == nil {
		return uri // FerretDB 1 has no users
	}
	name := UniqueName()
	u.User = url.UserPassword(name, rand.Text())
	source := strings.TrimPrefix(u.Path, "/")
	u.RawQuery = url.Values{"authSource": {source}}.Encode()
	client := Database(t, uri).Client()
	AtEnd(t, "drop MongoDB user "+name, func(ctx context.Context) error {
		return client.Database(source).RunCommand(ctx, bson.D{{Key: "dropUser", Value: name}}).Err()
	})
	return u.String()
}

// Database returns the database that uri names. It connects directly with the MongoDB driver.
func Database(t *testing.T, uri string) *mongo.Database {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(context.WithoutCancel(t.Context())) })
	return client.Database(strings.TrimPrefix(ParseURL(t, uri).Path, "/"))
}

// CountDocuments returns the number of documents in c that match filter.
func CountDocuments(t *testing.T, c *mongo.Collection, filter bson.D) int64 {
	t.Helper()
	n, err := c.CountDocuments(t.Context(), filter)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
