package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// content returns the bytes of an object, the same for the same name.
func content(name string, size int64) []byte {
	b := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(b) // never fails
	return b
}

// fill gives the server the objects that rows need, and reads all of them back: they must be the same bytes, and are then
// in the cache, the server's or the kernel's.
func (s *server) fill(ctx context.Context, what need) error {
	if s.name == durable {
		return nil
	}
	if s.s3 {
		if err := s.fillS3(ctx, what); err != nil {
			return err
		}
	} else if err := s.fillFiles(what); err != nil {
		return err
	}
	for _, o := range sizes {
		if what&o.need == 0 {
			continue
		}
		err := parallel(ctx, 4, o.count, s.addr, func(c *conn, i int) error {
			key := o.prefix + strconv.Itoa(i)
			get := call{method: "GET", path: "/bench/" + key, length: -1}
			r, err := c.do(false, get.wire(s.addr, time.Now()))
			if err == nil && (r.status != 200 || !bytes.Equal(r.body, content(key, o.bytes))) {
				err = fmt.Errorf("%s: status %d, and not the bytes that were put", key, r.status)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if s.s3 && what&needList != 0 {
		return s.checkLists()
	}
	return nil
}

func (s *server) fillFiles(what need) error {
	for _, o := range sizes {
		if what&o.need == 0 {
			continue
		}
		dir := filepath.Join(s.dir, "bench", o.prefix)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for i := range o.count {
			name := filepath.Join(dir, strconv.Itoa(i))
			if _, err := os.Stat(name); err == nil { // servers share their files
				continue
			}
			if err := os.WriteFile(name, content(o.prefix+strconv.Itoa(i), o.bytes), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *server) fillS3(ctx context.Context, what need) error {
	c, err := dial(s.addr)
	if err != nil {
		return err
	}
	defer c.close()
	for _, bucket := range []string{"bench", "list", "put"} {
		make := call{method: "PUT", path: "/" + bucket, length: 0}
		if r, err := c.do(false, make.wire(s.addr, time.Now())); err != nil || r.status != 200 {
			return fmt.Errorf("create bucket %s: %d %w\n%s", bucket, r.status, err, r.body)
		}
	}
	for _, o := range sizes {
		if what&o.need == 0 {
			continue
		}
		if err := s.putAll(ctx, "/bench/", o.count, o.bytes, func(i int) string { return o.prefix + strconv.Itoa(i) }); err != nil {
			return err
		}
	}
	if what&needList == 0 {
		return nil
	}
	return s.putAll(ctx, "/list/", listKeys, 128, listKey)
}

func (s *server) putAll(ctx context.Context, bucket string, count int, size int64, key func(int) string) error {
	return parallel(ctx, 16, count, s.addr, func(c *conn, i int) error {
		put := call{method: "PUT", path: bucket + key(i), length: size}
		r, err := c.do(false, put.wire(s.addr, time.Now()), content(key(i), size))
		if err == nil && r.status != 200 {
			err = fmt.Errorf("put %s: status %d\n%s", key(i), r.status, r.body)
		}
		return err
	})
}

// checkLists checks that every page has its thousand keys.
func (s *server) checkLists() error {
	c, err := dial(s.addr)
	if err != nil {
		return err
	}
	defer c.close()
	l := lists(s, 1, 0)[0]
	for i := range listKeys / listPage {
		r, err := c.do(false, l.request(i)...)
		if err != nil {
			return err
		}
		first, last := "<Key>"+listKey(i*listPage)+"<", "<Key>"+listKey((i+1)*listPage-1)+"<"
		if n := bytes.Count(r.body, []byte("<Key>")); n != listPage || !bytes.Contains(r.body, []byte(first)) || !bytes.Contains(r.body, []byte(last)) {
			return fmt.Errorf("page %d of the listing: status %d, %d keys", i, r.status, n)
		}
	}
	return nil
}

// parallel calls do for 0 to count-1 on some connections.
func parallel(ctx context.Context, conns, count int, addr string, do func(c *conn, i int) error) error {
	var wg sync.WaitGroup
	problems := make([]error, conns)
	for k := range conns {
		wg.Go(func() {
			c, err := dial(addr)
			if err != nil {
				problems[k] = err
				return
			}
			defer c.close()
			for i := k; i < count && ctx.Err() == nil; i += conns {
				if err := do(c, i); err != nil {
					problems[k] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(problems, ctx.Err())...)
}
