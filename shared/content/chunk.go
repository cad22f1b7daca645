package content

import (
	"encoding/binary"
	"fmt"

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

// chunkHead is what stands before the bytes in a chunk's document.
type chunkHead struct {
	ID      bson.ObjectID `bson:"_id"`
	FilesID string        `bson:"files_id"`
	N       int32         `bson:"n"`
	Data    bson.Binary   `bson:"data"`
}

const (
	// headSize is the size of a marshalled chunkHead without data, up to the length of the data.
	headSize = 4 + (1 + 4 + 12) + (1 + 9 + 4 + 37) + (1 + 2 + 4) + (1 + 5)
	// tailSize is the zero byte that ends a document.
	tailSize = 1
)

// buffer holds a chunk as the BSON document that it will be sent as, so that its bytes, once read, are not copied.
type buffer [headSize + 4 + 1 + chunkSize + tailSize]byte

func newBuffer() *buffer { return new(buffer) }

// data is where the chunk's bytes belong.
func (b *buffer) data() []byte { return b[headSize+4+1 : len(b)-tailSize] }

// document completes the document of chunk n, whose bytes are the first length of data, and returns it.
func (b *buffer) document(file uuid.UUID, n int32, length int) (bson.Raw, error) {
	head, err := bson.Marshal(chunkHead{chunkID(file, n), file.String(), n, bson.Binary{}})
	if err != nil {
		return nil, fmt.Errorf("encode chunk %d of file %s: %w", n, file, err)
	}
	size := headSize + 4 + 1 + length + tailSize
	copy(b[:headSize], head)
	binary.LittleEndian.PutUint32(b[:4], uint32(size))
	binary.LittleEndian.PutUint32(b[headSize:], uint32(length))
	b[headSize+4] = bson.TypeBinaryGeneric
	b[size-1] = 0
	return b[:size], nil
}
