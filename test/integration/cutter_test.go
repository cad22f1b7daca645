package integration

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// cutter is a proxy in front of replicas that cuts off whoever sends, after certain numbers of bytes, and then leads on to
// the next replica.
type cutter struct {
	address string
	targets []string

	mu    sync.Mutex
	cuts  []int64 // numbers of bytes, of all connections together, that are still to come
	sent  int64
	turn  int
	conns map[net.Conn]bool
	taken []int64 // bytes by turn
}

// newCutter starts a cutter that lasts until the test's end; replicas are URLs.
func newCutter(t *testing.T, replicas []string, cuts ...int64) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{address: listener.Addr().String(), cuts: cuts, conns: map[net.Conn]bool{}, taken: make([]int64, len(cuts)+1)}
	for _, replica := range replicas {
		c.targets = append(c.targets, host(t, replica))
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		c.mu.Lock()
		c.closeAll()
		c.mu.Unlock()
		all.Wait()
	})
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { c.serve(client) })
		}
	})
	return c
}

// counts returns how many times it has cut off, and how many bytes were sent in each turn and in all.
func (c *cutter) counts() (turn int, taken []int64, sent int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turn, slices.Clone(c.taken), c.sent
}

// serve passes one connection on.
func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	c.mu.Lock()
	target := c.targets[c.turn%len(c.targets)]
	c.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	c.mu.Lock()
	c.conns[client], c.conns[server] = true, true
	c.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(counted{server, c}, client) // until either hangs up or is cut off
		_ = server.Close()
	})
	both.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	both.Wait()
	c.mu.Lock()
	delete(c.conns, client)
	delete(c.conns, server)
	c.mu.Unlock()
}

// closeAll cuts all connections.
func (c *cutter) closeAll() {
	for conn := range c.conns {
		_ = conn.Close()
	}
}

// counted is the way to a server, of which the cutter counts the bytes.
type counted struct {
	net.Conn
	c *cutter
}

// Write passes b on, or cuts all off.
func (w counted) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += int64(n)
	c.taken[c.turn] += int64(n)
	if len(c.cuts) > 0 && c.sent >= c.cuts[0] {
		c.cuts = c.cuts[1:]
		c.turn++
		c.closeAll()
	}
	return n, err
}
