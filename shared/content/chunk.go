package content

import (
	"encoding/binary"
	"fmt"
	"reflect"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// chunkID returns the _id of chunk n of a file: an ObjectID, as GridFS wants it, made of the second in which the file's
// id was made, five random bytes of that id, and n. So a chunk can be read by its _id alone, and its age can still be
// told. MongoDB would find it as fast by files_id and n, but FerretDB then reads all chunks of all files into its own
// memory to look at them, while for an _id it lets SQLite do the looking, up to the first hit.
func chunkID(file uuid.UUID, n int32) bson.ObjectID {
	var id bson.ObjectID
	seconds, _ := file.Time().UnixTime()
	binary.BigEndian.PutUint32(id[:4], uint32(seconds))
	copy(id[4:9], file[11:])
	id[9], id[10], id[11] = byte(n>>16), byte(n>>8), byte(n)
	return id
}

// chunkDocument is a document of fs.chunks.
type chunkDocument struct {
	ID      bson.ObjectID `bson:"_id"`
	FilesID string        `bson:"files_id"`
	N       int32         `bson:"n"`
	Data    bson.Binary   `bson:"data"`
}

// newChunk returns the document of chunk n of a file, with the given bytes.
func newChunk(file uuid.UUID, n int32, data []byte) chunkDocument {
	return chunkDocument{chunkID(file, n), file.String(), n, bson.Binary{Data: data}}
}

// lentChunk is a chunk whose bytes are only lent to the driver, which copies them first of all, and then holds copies of
// its own until the server has answered. returned is called when it has made the first copy, so that the buffer can be
// filled again meanwhile.
type lentChunk struct {
	chunkDocument
	returned func()
}

// lending is the registry that a collection needs to be lent chunks.
func lending() *bson.Registry {
	registry := bson.NewRegistry()
	registry.RegisterTypeEncoder(reflect.TypeFor[*lentChunk](), bson.ValueEncoderFunc(
		func(ec bson.EncodeContext, w bson.ValueWriter, v reflect.Value) error {
			lent := v.Interface().(*lentChunk)
			if lent.returned == nil {
				return fmt.Errorf("chunk %d of file %s is encoded a second time, after its bytes were given back", lent.N, lent.FilesID)
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

// buffer is what a chunk is filled in.
type buffer [chunkSize]byte
