package integration

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// moment is a point in time at which a proxy between a program and a store has received or forwarded a message.
type moment struct {
	// what describes the message. For a command to MongoDB, it is the name and the collection of the command, such as
	// "insert fs.chunks". For RabbitMQ, it is "message" for the last frame of an event, and "ack" for an acknowledgment
	// from either side. For any other message, it is empty.
	what string
	// answer reports whether the message comes from the store. A message from MongoDB is the reply to the command in
	// what.
	answer bool
	// passed reports whether the proxy has already forwarded the message.
	passed bool
}

// wire is a proxy that parses the messages between a program and a store.
type wire struct {
	address string
	target  string
	// open returns the parsers for the two directions of a new connection.
	open func() (fromClient, fromServer parser)
	// watch is called twice for each message: before and after the proxy forwards the message. If it returns true, the
	// proxy closes the connection immediately.
	watch func(moment) (cut bool)
	// serving waits for the connections.
	serving sync.WaitGroup
}

// drainTimeout is how long a proxy waits until the store has executed the last command of a connection.
const drainTimeout = 5 * time.Second

// parser reads the next message and returns it with the description for moment.what.
type parser func(r *bufio.Reader) (message []byte, what string, err error)

// newWire starts a proxy in front of the address target. The proxy runs until the test ends.
func newWire(t *testing.T, target string, open func() (fromClient, fromServer parser), watch func(moment) (cut bool)) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: listener.Addr().String(), target: target, watch: watch, open: open}
	var accepting sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
		w.serving.Wait()
	})
	accepting.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.serving.Go(func() { w.serve(client) })
		}
	})
	return w
}

// serve forwards the messages of one connection until a side closes the connection or watch returns true. It returns
// only after the store has executed all forwarded commands, or after drainTimeout.
func (w *wire) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.target)
	if err != nil {
		return // the client's connection is closed, too
	}
	defer server.Close()
	fromClient, fromServer := w.open()
	var both sync.WaitGroup
	both.Go(func() {
		defer client.Close()
		w.pass(server, client, fromClient, false)
		// Close only this direction. The store executes the commands that it has received, and then closes the other
		// direction.
		_ = server.(*net.TCPConn).CloseWrite() // fails if the store has closed the connection
		_ = server.SetReadDeadline(time.Now().Add(drainTimeout))
	})
	both.Go(func() {
		w.pass(client, server, fromServer, true)
		_ = client.Close()
		_, _ = io.Copy(io.Discard, server) // ends when the store closes the connection
	})
	both.Wait()
}

// pass forwards messages in one direction.
func (w *wire) pass(to io.Writer, from io.Reader, read parser, answer bool) {
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
	u := servertest.ParseURL(t, raw)
	u.Host = w.address
	return u.String()
}

// host returns the host and port of a URL.
func host(t *testing.T, raw string) string {
	t.Helper()
	return servertest.ParseURL(t, raw).Host
}

const opMsg = 2013

// mongoMessages returns parsers for the MongoDB wire protocol. They describe an OP_MSG message with the name and the
// collection of its command.
func mongoMessages() (fromClient, fromServer parser) {
	var mu sync.Mutex
	asked := map[uint32]string{} // the descriptions of the commands, by request ID
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

// command returns the name and the collection of the command in an OP_MSG message, such as "insert fs.files". It
// returns "" for any other message.
func command(message []byte) string {
	const body = 16 + 4 // the lengths of the header and of the flags
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

// The frame types and methods of AMQP 0-9-1 that amqpFrames recognizes.
const (
	frameMethod, frameHeader, frameBody = 1, 2, 3
	basicPublish                        = 60<<16 | 40
	basicAck                            = 60<<16 | 80
)

// amqpFrames returns parsers for AMQP 0-9-1. Each message is a frame. The last frame of an event has the description
// "message".
func amqpFrames() (fromClient, fromServer parser) {
	read := func(greets bool) parser {
		left := map[uint16]uint64{} // the missing body bytes of the current event, by channel
		return func(r *bufio.Reader) ([]byte, string, error) {
			if greets { // the client begins with the protocol header "AMQP" 0 0 9 1
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

// String returns a description of the moment for test logs.
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
