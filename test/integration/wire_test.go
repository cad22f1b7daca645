package integration

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// moment is a message between a program and one of its stores, as a proxy sees it pass by.
type moment struct {
	// what is the message: "insert fs.chunks" for a command to MongoDB, "message" for a whole event to or from RabbitMQ, "ack"
	// for an acknowledgement by either side, and empty for anything else.
	what string
	// answer tells that it comes from the store; for MongoDB, it is then the answer to what.
	answer bool
	// passed tells that it has been sent on, rather than held.
	passed bool
}

// wire is a proxy that understands what passes through it.
type wire struct {
	address string
	target  string
	// open returns what reads the messages of either side of a new connection.
	open func() (fromClient, fromServer parser)
	// watch is called with each message twice, before and after it is sent on. When it returns true, the connection ends
	// there and then.
	watch func(moment) (cut bool)
}

// parser reads the next message whole.
type parser func(r *bufio.Reader) (message []byte, what string, err error)

// newWire starts a proxy to target that lasts until the test's end.
func newWire(t *testing.T, target string, open func() (fromClient, fromServer parser), watch func(moment) (cut bool)) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: listener.Addr().String(), target: target, watch: watch, open: open}
	var connections sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		connections.Wait()
	})
	connections.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { w.serve(client) })
		}
	})
	return w
}

// serve passes messages on until either side hangs up or the test ends.
func (w *wire) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.target)
	if err != nil {
		return // the client sees that there is nobody
	}
	defer server.Close()
	fromClient, fromServer := w.open()
	var both sync.WaitGroup
	both.Go(func() { w.pass(server, client, fromClient, false) })
	both.Go(func() { w.pass(client, server, fromServer, true) })
	both.Wait()
}

// pass sends on what comes from one side to the other, and hangs up on both in the end.
func (w *wire) pass(to, from net.Conn, read parser, answer bool) {
	defer to.Close()
	defer from.Close()
	for buffered := bufio.NewReaderSize(from, 64<<10); ; {
		message, what, err := read(buffered)
		if err != nil {
			return
		}
		if w.watch(moment{what, answer, false}) {
			return
		}
		if _, err := to.Write(message); err != nil {
			return
		}
		if w.watch(moment{what, answer, true}) {
			return
		}
	}
}

// through returns raw, the URL of a store, with the proxy's address instead of the store's.
func (w *wire) through(t *testing.T, raw string) string {
	t.Helper()
	u := parseURL(t, raw)
	u.Host = w.address
	return u.String()
}

// host returns the address in a URL.
func host(t *testing.T, raw string) string {
	t.Helper()
	return parseURL(t, raw).Host
}

const opMsg = 2013

// mongoMessages reads the MongoDB wire protocol: OP_MSG, with the command's name and its collection.
func mongoMessages() (fromClient, fromServer parser) {
	var mu sync.Mutex
	asked := map[uint32]string{} // what each request was, by its id
	read := func(r *bufio.Reader) ([]byte, uint32, uint32, error) {
		head, err := r.Peek(16)
		if err != nil {
			return nil, 0, 0, err
		}
		length, id, to := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[8:])
		message := make([]byte, length)
		_, err = io.ReadFull(r, message)
		return message, id, to, err
	}
	fromClient = func(r *bufio.Reader) ([]byte, string, error) {
		message, id, _, err := read(r)
		if err != nil {
			return nil, "", err
		}
		what := command(message)
		mu.Lock()
		defer mu.Unlock()
		asked[id] = what
		return message, what, nil
	}
	fromServer = func(r *bufio.Reader) ([]byte, string, error) {
		message, _, to, err := read(r)
		if err != nil {
			return nil, "", err
		}
		mu.Lock()
		defer mu.Unlock()
		what := asked[to]
		delete(asked, to)
		return message, what, nil
	}
	return fromClient, fromServer
}

// command returns the name and the collection of the command in an OP_MSG, such as "insert fs.files".
func command(message []byte) string {
	const body = 16 + 4 // the header, and flags
	if len(message) <= body || binary.LittleEndian.Uint32(message[12:]) != opMsg || message[body] != 0 {
		return ""
	}
	document, ok := bson.Raw(message[body+1:]), true
	if length := int(binary.LittleEndian.Uint32(document)); length <= len(document) {
		document = document[:length]
	}
	first, err := document.IndexErr(0)
	if err != nil {
		return ""
	}
	collection, ok := first.Value().StringValueOK()
	if !ok {
		return first.Key()
	}
	return first.Key() + " " + collection
}

// The frames and methods of AMQP 0-9-1 that matter here.
const (
	frameMethod, frameHeader, frameBody = 1, 2, 3
	basicPublish                        = 60<<16 | 40
	basicAck                            = 60<<16 | 80
)

// amqpFrames reads AMQP 0-9-1: frames, of which the last of an event is a "message".
func amqpFrames() (fromClient, fromServer parser) {
	read := func(greets bool) parser {
		left := map[uint16]uint64{} // of the body of the event that is under way, by channel
		return func(r *bufio.Reader) ([]byte, string, error) {
			if greets { // AMQP 0 0 9 1
				greets = false
				greeting := make([]byte, 8)
				_, err := io.ReadFull(r, greeting)
				return greeting, "", err
			}
			head, err := r.Peek(7)
			if err != nil {
				return nil, "", err
			}
			kind, channel, size := head[0], binary.BigEndian.Uint16(head[1:]), binary.BigEndian.Uint32(head[3:])
			frame := make([]byte, 7+size+1)
			if _, err := io.ReadFull(r, frame); err != nil {
				return nil, "", err
			}
			payload := frame[7 : 7+size]
			switch {
			case kind == frameMethod && binary.BigEndian.Uint32(payload) == basicAck:
				return frame, "ack", nil
			case kind == frameMethod && binary.BigEndian.Uint32(payload) == basicPublish:
				left[channel] = 0
			case kind == frameHeader:
				left[channel] = binary.BigEndian.Uint64(payload[4:])
			case kind == frameBody:
				if left[channel] -= uint64(size); left[channel] == 0 {
					return frame, "message", nil
				}
			}
			return frame, "", nil
		}
	}
	return read(true), read(false)
}

func (m moment) String() string {
	from, how := "to", "held"
	if m.answer {
		from = "from"
	}
	if m.passed {
		how = "passed"
	}
	return fmt.Sprintf("%s %s the store, %s", m.what, from, how)
}
