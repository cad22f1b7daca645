package mongodb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const (
	// maxDocument is the maximum size of a document in a dump, in bytes. MongoDB allows 16 MiB.
	maxDocument = 16 << 20
	// loadBytes and loadDocuments limit the size of one insert by Load.
	loadBytes     = 8 << 20
	loadDocuments = 1000
	// dumpBatch is the maximum number of documents per reply of the server. A document can contain a chunk of 1 MiB.
	dumpBatch = 16
)

// Dump writes the documents in a collection that match filter to w, one after another in BSON. This is the format of
// the files that mongodump writes. Dump returns the number of documents.
func Dump(ctx context.Context, from *mongo.Collection, filter bson.D, w io.Writer, opts ...options.Lister[options.FindOptions]) (n int, err error) {
	found, err := from.Find(ctx, filter, append(opts, options.Find().SetBatchSize(dumpBatch))...)
	if err != nil {
		return 0, Problem(err, "dump collection "+from.Name())
	}
	defer func() { _ = found.Close(context.WithoutCancel(ctx)) }()
	for found.Next(ctx) {
		if _, err := w.Write(found.Current); err != nil {
			return n, fmt.Errorf("write document %d of collection %s: %w", n, from.Name(), err)
		}
		n++
	}
	return n, Problem(found.Err(), "dump collection "+from.Name())
}

// NextDocument reads the next document of a dump. The error is io.EOF after the last document.
func NextDocument(r io.Reader) (bson.Raw, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("read the length of a document: %w", err)
	}
	length := int32(binary.LittleEndian.Uint32(prefix[:]))
	if length < 5 || length > maxDocument+maxDocument/1024 {
		return nil, fmt.Errorf("read a document: invalid length %d", length)
	}
	document := make(bson.Raw, length)
	copy(document, prefix[:])
	if _, err := io.ReadFull(r, document[4:]); err != nil {
		if errors.Is(err, io.EOF) { // io.EOF would mean that the dump is complete
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read a document of %d bytes: %w", length, err)
	}
	return document, nil
}

// Load inserts the documents of a dump into a collection. It returns the number of documents.
func Load(ctx context.Context, into *mongo.Collection, dump io.Reader) (n int, err error) {
	var batch []bson.Raw
	size := 0
	for {
		document, err := NextDocument(dump)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return n, fmt.Errorf("read the dump of collection %s: %w", into.Name(), err)
		}
		if len(batch) > 0 && (last || len(batch) == loadDocuments || size+len(document) > loadBytes) {
			if err := insertAll(ctx, into, batch); err != nil {
				return n, err
			}
			n += len(batch)
			batch, size = batch[:0], 0
		}
		if last {
			return n, nil
		}
		batch = append(batch, document)
		size += len(document)
	}
}

// insertAll inserts documents within BulkTimeout.
func insertAll(ctx context.Context, into *mongo.Collection, documents []bson.Raw) error {
	ctx, cancel := context.WithTimeout(ctx, BulkTimeout)
	defer cancel()
	_, err := into.InsertMany(ctx, documents)
	return Problem(err, "load documents into collection "+into.Name())
}
