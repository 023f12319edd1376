package hdfsufs

import (
	"net"
	"reflect"
	"sync"
	"testing"

	"github.com/colinmarc/hdfs/v2"
)

// TestLeave closes what the library has forgotten to close.
func TestLeave(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it ends with the test
	c := &conn{ctx: t.Context(), open: map[net.Conn]bool{}}
	var conns [2]net.Conn
	for i, namenode := range []bool{true, false} {
		if conns[i], err = c.dial(namenode)(t.Context(), "tcp", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close() //nolint:errcheck // one is closed already
	}
	c.leave()
	if _, err := conns[0].Write([]byte("x")); err != nil || !c.usable() {
		t.Errorf("the name node's: %v", err)
	}
	if _, err := conns[1].Write([]byte("x")); err == nil || len(c.open) != 1 {
		t.Errorf("a datanode's is open still; %d are known", len(c.open))
	}
}

// TestClientNames connects many clients at once: HDFS tells the writers of a file apart by the names that they draw.
func TestClientNames(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it ends with the test
	var wg sync.WaitGroup
	var names sync.Map
	for range 32 {
		wg.Go(func() {
			k, err := connect(t.Context(), hdfs.ClientOptions{Addresses: []string{l.Addr().String()}, User: "u"})
			if err != nil {
				t.Error(err)
				return
			}
			defer k.close()
			name := reflect.ValueOf(k.lib).Elem().FieldByName("namenode").Elem().FieldByName("ClientName").String()
			if _, again := names.LoadOrStore(name, true); again || name == "" {
				t.Errorf("two clients are called %q", name)
			}
		})
	}
	wg.Wait()
}
