package hdfsufs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/colinmarc/hdfs/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sluicefs/sluice/core/errs"
)

const (
	dialTime = 5 * time.Second
	// idleTime is how long a peer may be silent while it is waited for. Source: dfs.client.socket-timeout's default.
	idleTime = 60 * time.Second
)

// conn is one client of the library: a connection to the name node, and those to datanodes that its open file has. It is
// used by one goroutine at a time. The library knows no contexts; what waits is ended by closing its connections.
type conn struct {
	lib  *hdfs.Client
	exec func(method string, req, resp proto.Message) error

	mu     sync.Mutex
	ctx    context.Context // of the call that is being made: dialling ends with it
	open   map[net.Conn]bool
	met    bool // a name node has taken a connection, and it did not fail
	broken bool // a connection failed, or was given up: the library would wait before it connects again
	closed bool
}

// connect returns a connection to one of the name nodes.
func connect(ctx context.Context, o hdfs.ClientOptions) (*conn, error) {
	c := &conn{ctx: ctx, open: map[net.Conn]bool{}}
	o.NamenodeDialFunc, o.DatanodeDialFunc = c.dial(true), c.dial(false)
	defer c.during(ctx)()
	var err error
	c.lib, err = hdfs.NewClient(o) // not under a lock: it waits for the name node; see TestClientNames
	if err != nil {
		c.mu.Lock()
		refused := c.met && !c.broken
		c.mu.Unlock()
		c.abort()
		if refused { // a name node listens, and what is between us is not the network
			return nil, errs.E("hdfsufs.Connect", "", errs.Permission, unsent(err))
		}
		return nil, err
	}
	if c.exec, err = executor(c.lib); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// executor returns the library's call of the name node. It is not exported, and what is renames over what is there, lists a
// directory from its beginning only and sets times to the second: HDFS itself can do more.
func executor(lib *hdfs.Client) (func(method string, req, resp proto.Message) error, error) {
	f := reflect.ValueOf(lib).Elem().FieldByName("namenode")
	if f.IsValid() && f.Kind() == reflect.Pointer {
		f = reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem() //nolint:gosec // the field of this version; see TestExecutor
		if e, ok := f.Interface().(interface {
			Execute(method string, req, resp proto.Message) error
		}); ok {
			return e.Execute, nil
		}
	}
	return nil, errors.New("the HDFS library is not the one that this driver was made for")
}

// dial returns a dialling function for the library. namenode says for whom.
func (c *conn) dial(namenode bool) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, network, addr string) (net.Conn, error) {
		c.mu.Lock()
		ctx, broken := c.ctx, c.broken
		c.mu.Unlock()
		if broken {
			return nil, net.ErrClosed
		}
		d := net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}
		n, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		b := &bounded{Conn: n, c: c, namenode: namenode}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.broken {
			_ = n.Close()
			return nil, net.ErrClosed
		}
		c.open[b] = true
		c.met = c.met || namenode
		return b, nil
	}
}

// bounded is a connection whose peer may not be silent for longer than idleTime.
type bounded struct {
	net.Conn
	c        *conn
	namenode bool
}

func (b *bounded) Read(p []byte) (int, error) {
	_ = b.Conn.SetReadDeadline(time.Now().Add(idleTime))
	n, err := b.Conn.Read(p)
	return n, b.judge(err)
}

func (b *bounded) Write(p []byte) (int, error) {
	_ = b.Conn.SetWriteDeadline(time.Now().Add(idleTime))
	n, err := b.Conn.Write(p)
	return n, b.judge(err)
}

// judge notes that a connection to the name node is of no more use.
func (b *bounded) judge(err error) error {
	if err != nil && b.namenode {
		b.c.mu.Lock()
		b.c.broken = true
		b.c.mu.Unlock()
	}
	return err
}

// SetDeadline leaves the deadlines as they are: the library knows none, and sets that.
func (b *bounded) SetDeadline(time.Time) error { return nil }

func (b *bounded) Close() error {
	b.c.mu.Lock()
	delete(b.c.open, b)
	b.c.mu.Unlock()
	return b.Conn.Close()
}

// during makes ctx the one that ends what c does until done is called.
func (c *conn) during(ctx context.Context) (done func()) {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, c.abort)
	return func() { stop() }
}

// abort ends what c is doing. It is of no more use.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	for n := range c.open {
		_ = n.(*bounded).Conn.Close()
	}
}

// leave closes the connections to datanodes, of which the library forgets those that fail in the middle of a handshake. No file
// is open.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.open {
		if b := n.(*bounded); !b.namenode {
			delete(c.open, n)
			_ = b.Conn.Close()
		}
	}
}

func (c *conn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.broken
}

// close ends c. The library stops renewing leases.
func (c *conn) close() {
	c.abort()
	if !c.closed && c.lib != nil {
		c.closed = true
		_ = c.lib.Close() // it was cut already
	}
}

// call makes a call of the name node, with the fields of its request, and returns its answer. Messages are those that the
// library has registered, by their names in ClientNamenodeProtocol.proto.
func (c *conn) call(method string, fields map[string]any) (protoreflect.Message, error) {
	const prefix = "hadoop.hdfs."
	name := strings.ToUpper(method[:1]) + method[1:]
	req, err := newMessage(prefix + name + "RequestProto")
	if err != nil {
		return nil, err
	}
	resp, err := newMessage(prefix + name + "ResponseProto")
	if err != nil {
		return nil, err
	}
	if err := fill(req, fields); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return resp, c.exec(method, req.Interface(), resp.Interface())
}

func newMessage(name string) (protoreflect.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return nil, err
	}
	return t.New(), nil
}

// fill sets fields of m by their names. A map is a message, a slice of maps or strings a repeated field.
func fill(m protoreflect.Message, fields map[string]any) error {
	for name, v := range fields {
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if fd == nil {
			return fmt.Errorf("%s has no field %s", m.Descriptor().FullName(), name)
		}
		switch v := v.(type) {
		case map[string]any:
			if err := fill(m.Mutable(fd).Message(), v); err != nil {
				return err
			}
		case []string:
			l := m.Mutable(fd).List()
			for _, e := range v {
				l.Append(protoreflect.ValueOfString(e))
			}
		case protoreflect.EnumNumber:
			m.Set(fd, protoreflect.ValueOfEnum(v))
		default:
			m.Set(fd, protoreflect.ValueOf(v))
		}
	}
	return nil
}

// field returns a field of an answer by its name; its default if the name node is older than it.
func field(m protoreflect.Message, name string) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

// has reports whether an answer has an optional field.
func has(m protoreflect.Message, name string) bool {
	return m.Has(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}
