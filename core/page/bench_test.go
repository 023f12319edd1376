package page_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/core/page"
)

// BenchmarkWarmWriteTo sends warm bytes over loopback TCP to clients that discard them: from the mapping (Reader.WriteTo)
// and, for comparison, by sendfile(2) of a file with the same bytes, on memory and on disk. One operation is one body per
// connection.
func BenchmarkWarmWriteTo(b *testing.B) {
	for _, medium := range []struct {
		name string
		dir  func(testing.TB) string
	}{{"shm", tmpfsDir}, {"disk", func(t testing.TB) string { return t.TempDir() }}} {
		for _, size := range []int{4 << 10, 64 << 10, page.Size, 64 * page.Size} {
			for _, conns := range []int{1, 8} {
				name := fmt.Sprintf("%s/%dKiB/c%d/", medium.name, size>>10, conns)
				b.Run(name+"mapping", func(b *testing.B) { benchMapping(b, medium.dir(b), size, conns) })
				b.Run(name+"sendfile", func(b *testing.B) { benchSendfile(b, medium.dir(b), size, conns) })
			}
		}
	}
}

func benchMapping(b *testing.B, dir string, size, conns int) {
	src := newSource(size)
	c := newCache(b, openSegments(b, dir, 80<<20), page.CacheOptions{})
	warm := c.NewReader(b.Context(), src.content(), 0, int64(size), src)
	if _, err := warm.WriteTo(io.Discard); err != nil {
		b.Fatal(err)
	}
	warm.Close()
	c.Settle()
	overTCP(b, size, conns, func(w *net.TCPConn) error {
		r := c.NewReader(b.Context(), src.content(), 0, int64(size), src)
		defer r.Close()
		_, err := r.WriteTo(w)
		return err
	})
}

func benchSendfile(b *testing.B, dir string, size, conns int) {
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o600); err != nil {
		b.Fatal(err)
	}
	overTCP(b, size, conns, func(w *net.TCPConn) error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = w.ReadFrom(io.LimitReader(f, int64(size)))
		return err
	})
}

// overTCP runs send once per operation on each of some connections.
func overTCP(b *testing.B, size, conns int, send func(*net.TCPConn) error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	var servers, clients []net.Conn
	for range conns {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		server, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer server.Close()
		servers, clients = append(servers, server), append(clients, client)
	}
	b.SetBytes(int64(size) * int64(conns))
	body := func(i int, buf []byte) error {
		var wg sync.WaitGroup
		var sendErr error
		wg.Go(func() { sendErr = send(servers[i].(*net.TCPConn)) })
		for left := size; left > 0; {
			n, err := clients[i].Read(buf[:min(len(buf), left)])
			if err != nil {
				return err
			}
			left -= n
		}
		wg.Wait()
		return sendErr
	}
	buffers := make([][]byte, conns)
	for i := range buffers {
		buffers[i] = make([]byte, 256<<10)
	}
	for b.Loop() {
		var wg sync.WaitGroup
		for i := range conns {
			wg.Go(func() {
				if err := body(i, buffers[i]); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// BenchmarkEvictingPut puts pages into a full directory: each takes the slot of another.
func BenchmarkEvictingPut(b *testing.B) {
	for _, medium := range []struct {
		name string
		dir  func(testing.TB) string
	}{{"shm", tmpfsDir}, {"disk", func(t testing.TB) string { return t.TempDir() }}} {
		for _, size := range []int{4 << 10, page.Size} {
			b.Run(fmt.Sprintf("%s/%dKiB", medium.name, size>>10), func(b *testing.B) {
				s := openSegments(b, medium.dir(b), 64*page.ChunkStride)
				data := bytes.Repeat([]byte{7}, size)
				put := func(i int) {
					if err := s.Put(page.Key{Rev: 1, Index: uint32(i)}, data); err != nil {
						b.Fatal(err)
					}
				}
				for i := range 64 * page.Size / size {
					put(i)
				}
				b.SetBytes(int64(size))
				for i := 1 << 20; b.Loop(); i++ {
					put(i)
				}
			})
		}
	}
}

// BenchmarkGet gets pages of 4 KiB that are here and verified, at random.
func BenchmarkGet(b *testing.B) {
	s := openSegments(b, tmpfsDir(b), 100*page.ChunkStride)
	key := func(i int) page.Key { return page.Key{ID: [16]byte{byte(i), byte(i >> 8)}, Rev: uint64(i)} }
	const pages = 20_000
	data := bytes.Repeat([]byte{7}, 4096)
	for i := range pages {
		if err := s.Put(key(i), data); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; b.Loop(); i++ {
		h, ok := s.Get(key(int(uint32(i) * 2654435761 % pages)))
		if !ok {
			b.Fatal("not here")
		}
		h.Release()
	}
}
