package content

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// chunkID returns the _id for chunk n of a file. The _id is an ObjectID, because GridFS requires this type. It contains
// the last 9 bytes of the file ID, of which 62 bits are random.
func chunkID(file uuid.UUID, n int32) bson.ObjectID {
	var id bson.ObjectID
	copy(id[:9], file[7:])
	id[9], id[10], id[11] = byte(n>>16), byte(n>>8), byte(n)
	return id
}

// chunkDocument is a document in the fs.chunks collection.
type chunkDocument struct {
	ID      bson.ObjectID `bson:"_id"`
	FilesID string        `bson:"files_id"`
	N       int32         `bson:"n"`
	Data    bson.Binary   `bson:"data"`
}

// newChunk returns the fs.chunks document for chunk n of a file.
func newChunk(file uuid.UUID, n int32, data []byte) chunkDocument {
	return chunkDocument{chunkID(file, n), file.String(), n, bson.Binary{Data: data}}
}

// chunk returns the bytes of chunk n of a file, or nil if the chunk does not exist.
func (s *Store) chunk(ctx context.Context, file uuid.UUID, n int64) ([]byte, error) {
	raw, err := s.rawChunk(ctx, file, n)
	if err != nil || raw == nil {
		return nil, err
	}
	_, data, ok := raw.Lookup("data").BinaryOK()
	if number, _ := raw.Lookup("n").AsInt64OK(); number != n || !ok {
		return nil, fmt.Errorf("file %s is corrupt: chunk %d has the number %d or no data", file, n, number)
	}
	return data, nil
}

// withoutData is an option for rawChunk. It omits the bytes of the chunk.
var withoutData = options.FindOne().SetProjection(bson.D{{Key: "n", Value: 1}})

// rawChunk returns the document of chunk n of a file, or nil if the chunk does not exist.
func (s *Store) rawChunk(ctx context.Context, file uuid.UUID, n int64, opts ...options.Lister[options.FindOneOptions]) (bson.Raw, error) {
	// Read each chunk with a separate query. A cursor for all chunks would hold resources on the database server
	// while a slow client downloads the file, and a restart of the server would invalidate the cursor.
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	raw, err := s.chunks.FindOne(ctx, inFile(file, n), opts...).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	return raw, mongodb.Problem(err, fmt.Sprintf("read chunk %d of file %s", n, file))
}

// inFile returns a filter for chunk n of a file. It does not use the _id of the chunk, because another file's chunk
// could have the same _id, and because earlier versions generated the _id in another way.
func inFile(file uuid.UUID, n int64) bson.D {
	return bson.D{{Key: "files_id", Value: file.String()}, {Key: "n", Value: int32(n)}}
}

// lentChunk is a chunk whose buffer can be reused before the insert of the chunk ends. After the BSON encoder has
// copied the bytes, the encoder releases the buffer by calling the function in the "returned" field.
type lentChunk struct {
	chunkDocument
	returned func()
}

// lending returns a BSON registry with an encoder for *lentChunk. A collection needs this registry to insert a
// *lentChunk.
func lending() *bson.Registry {
	registry := bson.NewRegistry()
	registry.RegisterTypeEncoder(reflect.TypeFor[*lentChunk](), bson.ValueEncoderFunc(
		func(ec bson.EncodeContext, w bson.ValueWriter, v reflect.Value) error {
			lent := v.Interface().(*lentChunk)
			if lent.returned == nil {
				return fmt.Errorf("encode chunk %d of file %s: the chunk's buffer was already released", lent.N, lent.FilesID)
			}
			defer func() {
				lent.returned()
				lent.returned, lent.Data.Data = nil, nil
			}()
			document := reflect.ValueOf(lent.chunkDocument)
			encoder, err := ec.LookupEncoder(document.Type())
			if err != nil {
				return err
			}
			return encoder.EncodeValue(ec, w, document)
		}))
	return registry
}

type buffer [chunkSize]byte
