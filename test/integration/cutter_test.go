package integration

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// cutter is a TCP proxy in front of several replicas. Each time the clients have sent a given number of bytes, the
// cutter closes all connections. It forwards later connections to the next replica.
type cutter struct {
	address string
	targets []string

	mu    sync.Mutex
	cuts  []int64 // the values of sent at which the cutter will close the connections
	sent  int64   // the bytes that all clients have sent
	turn  int     // how many times the cutter has closed the connections
	conns map[net.Conn]bool
	taken []int64 // the bytes that the clients sent during each turn
}

// newCutter starts a cutter that runs until the test ends. replicas contains URLs. The cutter closes the connections
// each time the number of bytes from the clients reaches the next value of cuts.
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

// counts returns how many times the cutter has closed the connections, the bytes that the clients sent during each
// turn, and the sum of these bytes.
func (c *cutter) counts() (turn int, taken []int64, sent int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turn, slices.Clone(c.taken), c.sent
}

// serve forwards one connection.
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
		_, _ = io.Copy(counted{server, c}, client) // ends when a side or the cutter closes a connection
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

// closeAll closes all connections. The caller must hold c.mu.
func (c *cutter) closeAll() {
	for conn := range c.conns {
		_ = conn.Close()
	}
}

// counted is a connection to a replica that counts the written bytes in c.
type counted struct {
	net.Conn
	c *cutter
}

// Write forwards b, and then closes all connections if the number of bytes has reached the next value of cuts.
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
