package content

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// chunkID returns the _id for chunk n of a file. The _id is an ObjectID, because GridFS requires this type.
func chunkID(file uuid.UUID, n int32) bson.ObjectID {
	var id bson.ObjectID
	seconds, _ := file.Time().UnixTime()
	binary.BigEndian.PutUint32(id[:4], uint32(seconds))
	copy(id[4:9], file[11:]) // the last 5 bytes of the file ID are random
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
	// Read each chunk with a separate query. A cursor for all chunks would hold resources on the database server
	// while a slow client downloads the file, and a restart of the server would invalidate the cursor.
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	// Query by _id. To find a chunk by files_id and n, FerretDB would load all chunks of all files into memory.
	raw, err := s.chunks.FindOne(ctx, bson.D{{Key: "_id", Value: chunkID(file, int32(n))}}).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	if err != nil {
		return nil, mongodb.Problem(err, fmt.Sprintf("read chunk %d of file %s", n, file))
	}
	owner, _ := raw.Lookup("files_id").StringValueOK()
	number, _ := raw.Lookup("n").AsInt64OK()
	_, data, ok := raw.Lookup("data").BinaryOK()
	if owner != file.String() || number != n || !ok {
		return nil, fmt.Errorf("file %s is corrupt: got chunk %d of file %q, want chunk %d", file, number, owner, n)
	}
	return data, nil
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
