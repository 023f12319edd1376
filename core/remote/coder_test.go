package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// value is one type of the protocol: how it is coded, and values of it.
type value struct {
	name string
	code func(c *coder, v any)
	make func() any // a pointer to a zero value
}

func valueOf[T any](name string, code func(*coder, *T)) value {
	return value{name, func(c *coder, v any) { code(c, v.(*T)) }, func() any { return new(T) }}
}

var values = []value{
	valueOf("Info", (*coder).info), valueOf("CreateOptions", (*coder).createOptions), valueOf("CommitOptions", (*coder).commitOptions),
	valueOf("CopyOptions", (*coder).copyOptions), valueOf("CompleteOptions", (*coder).completeOptions),
	valueOf("MkdirOptions", (*coder).mkdirOptions), valueOf("RemoveOptions", (*coder).removeOptions),
	valueOf("AttrChange", (*coder).attrChange), valueOf("ListOptions", (*coder).listOptions), valueOf("Part", (*coder).part),
	valueOf("Upload", (*coder).upload), valueOf("Block", (*coder).block), valueOf("FileChecksum", (*coder).fileChecksum),
	valueOf("Summary", (*coder).summary), valueOf("Principal", (*coder).principal), valueOf("MountSpec", (*coder).mountSpec),
	valueOf("MountChange", (*coder).mountChange), valueOf("MountInfo", (*coder).mountInfo), valueOf("Range", (*coder).byteRange),
	valueOf("PartError", (*coder).partError),
	valueOf("HTTP request", func(c *coder, v *struct {
		Here        bool
		Method, URI string
		Name, Value string
		Length      int64
	}) {
		r := httpRequest{v.Here, v.Method, v.URI, []field{{v.Name, v.Value}}, v.Length}
		c.httpRequest(&r)
		if len(r.fields) == 1 {
			v.Name, v.Value = r.fields[0].name, r.fields[0].value
		}
		v.Here, v.Method, v.URI, v.Length = r.here, r.method, r.uri, r.length
	}),
	valueOf("HTTP response", func(c *coder, v *struct{ Status int }) {
		r := httpResponse{status: v.Status}
		c.httpResponse(&r)
		v.Status = r.status
	}),
	valueOf("list", func(c *coder, v *struct {
		Dir core.Path
		O   core.ListOptions
	}) {
		c.listArgs(&v.Dir, &v.O)
	}),
	valueOf("compose", func(c *coder, v *struct {
		Dst   core.Path
		Parts []core.Path
	}) {
		c.composeArgs(&v.Dst, &v.Parts)
	}),
	valueOf("copy", func(c *coder, v *struct {
		Src, Dst core.Path
		O        core.CopyOptions
	}) {
		c.copyArgs(&v.Src, &v.Dst, &v.O)
	}),
	valueOf("rename", func(c *coder, v *struct {
		Src, Dst core.Path
		O        core.RenameOptions
	}) {
		c.renameArgs(&v.Src, &v.Dst, &v.O)
	}),
	valueOf("copy part", func(c *coder, v *struct {
		P, Src core.Path
		ID     string
		Number int
		R      core.Range
	}) {
		c.copyPartArgs(&v.P, &v.ID, &v.Number, &v.Src, &v.R)
	}),
	valueOf("complete", func(c *coder, v *struct {
		P     core.Path
		ID    string
		Parts []core.Part
		O     core.CompleteOptions
	}) {
		c.completeArgs(&v.P, &v.ID, &v.Parts, &v.O)
	}),
	valueOf("list uploads", func(c *coder, v *struct {
		Dir             core.Path
		Prefix, Key, ID string
	}) {
		c.listUploadsArgs(&v.Dir, &v.Prefix, &v.Key, &v.ID)
	}),
	valueOf("put", func(c *coder, v *struct {
		Path   core.Path
		O      core.CreateOptions
		Commit core.CommitOptions
		Data   string
	}) {
		t := target{path: v.Path, file: v.O}
		c.putArgs(&t, &v.Commit, &v.Data)
		v.Path, v.O = t.path, t.file
	}),
	valueOf("put part", func(c *coder, v *struct {
		Path   core.Path
		ID     string
		Number int
		Size   int64
	}) {
		t := target{path: v.Path, part: true, id: v.ID, number: v.Number, size: v.Size}
		c.target(&t)
		v.Path, v.ID, v.Number, v.Size = t.path, t.id, t.number, t.size
	}),
}

// fill sets every field of v to something that is not zero and differs from its neighbours.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case core.Path:
		p, err := core.ParsePath(fmt.Sprint("/dir/", *n))
		if *n%2 == 0 {
			p, err = core.ParseEither(p.String())
		}
		if err != nil {
			panic(err)
		}
		v.Set(reflect.ValueOf(p))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(int64(*n)-50, int64(*n))))
		return
	case core.CreateMode:
		v.Set(reflect.ValueOf(core.Append))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n) * -1_000_000_007)
	case reflect.Uint32, reflect.Uint64, reflect.Uint8:
		v.SetUint(uint64(*n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range 3 {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 3 {
			key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(val, n)
			v.SetMapIndex(key, val)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic(v.Type().String())
	}
}

var same = cmp.Comparer(func(a, b core.Path) bool { return a == b })

// TestValues fills every field, so that a field that is added to a type and forgotten here fails.
func TestValues(t *testing.T) {
	for _, v := range values {
		full, zero := v.make(), v.make()
		n := 0
		fill(reflect.ValueOf(full).Elem(), &n)
		for _, want := range []any{full, zero} {
			var out coder
			v.code(&out, want)
			for _, own := range []bool{false, true} {
				got := v.make()
				in := reader(string(out.b), own)
				v.code(&in, got)
				if err := in.finish(); err != nil {
					t.Errorf("%s: %v", v.name, err)
				}
				if diff := cmp.Diff(want, got, same); diff != "" {
					t.Errorf("%s (-want +got):\n%s", v.name, diff)
				}
			}
			for cut := range out.b {
				if i, ok := want.(*core.MountInfo); ok && slices.Contains(before(i), cut) {
					continue // a stored answer may end there
				}
				in := reader(string(out.b[:cut]), false)
				v.code(&in, v.make())
				if err := in.finish(); !errors.Is(err, errs.Invalid) {
					t.Errorf("%s cut to %d of %d bytes: got %v, want errs.Invalid", v.name, cut, len(out.b), err)
				}
			}
			in := reader(string(out.b)+"x", false)
			v.code(&in, v.make())
			if err := in.finish(); !errors.Is(err, errs.Invalid) {
				t.Errorf("%s with a byte too many: got %v", v.name, err)
			}
		}
	}
}

// before returns how long a MountInfo was before it said how many workers keep a copy, and before it had a load type.
func before(i *core.MountInfo) []int {
	var whole, copies, load coder
	whole.mountInfo(i)
	copies.mountCopies(&i.MountSpec)
	text(&load, &i.LoadType)
	end := len(whole.b) - len(load.b)
	return []int{end - len(copies.b), end}
}

// TestStoredAnswers reads the answer of a mount as it was stored before it said how many workers keep a copy.
func TestStoredAnswers(t *testing.T) {
	delay := time.Second
	mnt, err := core.ParsePath("/mnt")
	if err != nil {
		t.Fatal(err)
	}
	want := core.MountInfo{State: "mounted", MountSpec: core.MountSpec{ReadOnly: true, Path: mnt, URI: "file:/x", Owner: "o", Group: "g",
		Mode: 0o750, WriteType: core.AsyncThrough, Replicas: 2, PersistDelay: &delay}}
	former := "\x00\x01\x01\x04/mnt\x07file:/x\x00\x00\x01o\x01g\xe8\x03\x0dASYNC_THROUGH\x00\x00\x04\x01\x80\xa8\xd6\xb9\x07\x07mounted"
	for _, stored := range []string{former, former + "\x00\x00", string(EncodeAnswer(want))} {
		var got core.MountInfo
		in := reader(stored[1:], true)
		in.mountInfo(&got)
		if err := in.finish(); err != nil || !cmp.Equal(got, want, same) || stored[0] != outcomeValues {
			t.Errorf("%q is %+v, %v", stored, got, err)
		}
	}
}

// faultyPage is a page of this process's cache that its disk cannot read, so that write(2) fails.
type faultyPage struct{}

func (faultyPage) Close() error   { return nil }
func (faultyPage) Resident() bool { return true }
func (faultyPage) WriteTo(w io.Writer) (int64, error) {
	if _, err := w.Write([]byte("page")); !errors.Is(err, syscall.EFAULT) {
		return 0, err
	}
	return 0, errs.New("page.Read", "", errs.NotExist, "the page was dropped")
}

type writeError struct{ err error }

func (w writeError) Write([]byte) (int, error) { return 0, w.err }

// TestLocalFault has a page of this process's cache fail while it is sent: the rest is to be had elsewhere. A writer that fails ends it.
func TestLocalFault(t *testing.T) {
	for err, want := range map[error]bool{&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EFAULT)}: true, io.ErrClosedPipe: false} {
		l := &localReader{PageReader: faultyPage{}, left: 4}
		if n, lost, _ := l.send(writeError{err}); n != 0 || lost != want {
			t.Errorf("%v: %d bytes were sent, lost is %v, want %v", err, n, lost, want)
		}
	}
}

func TestEmptyDigestIsNotNone(t *testing.T) {
	var out coder
	out.commitOptions(&core.CommitOptions{MD5: []byte{}})
	var got core.CommitOptions
	in := reader(string(out.b), false)
	in.commitOptions(&got)
	if err := in.finish(); err != nil || got.MD5 == nil {
		t.Errorf("got %v, %v; an MD5 that cannot match has become none", got.MD5, err)
	}
}

func TestNumbers(t *testing.T) {
	for _, want := range []int64{0, 1, -1, 63, 64, -64, -65, 1 << 40, math.MaxInt64, math.MinInt64} {
		var out coder
		v := want
		out.varint(&v)
		if v != want {
			t.Errorf("writing changed %d to %d", want, v)
		}
		in := reader(string(out.b), false)
		var got int64
		if in.varint(&got); in.finish() != nil || got != want {
			t.Errorf("got %d, %v; want %d", got, in.err, want)
		}
	}
	for _, bad := range []string{"", "\x80", strings.Repeat("\xff", 10), strings.Repeat("\x80", 10) + "\x01"} {
		in := reader(bad, false)
		var v uint64
		if in.uvarint(&v); in.err == nil {
			t.Errorf("%q is the number %d", bad, v)
		}
	}
}

func TestPathsAreChecked(t *testing.T) {
	for _, bad := range []string{"\x01\x01a", "\x01\x03/\x00a", "\x01\x02/\xff", "\x03\x01/", "\x01\x00"} {
		in := reader(bad, false)
		var p core.Path
		in.path(&p)
		if err := in.finish(); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q is the path %q, %v", bad, p, err)
		}
	}
}

func TestEveryKindTravels(t *testing.T) {
	for _, k := range errs.Kinds() {
		if !slices.Contains(wireKinds[:], k) {
			t.Errorf("%q has no number on the wire", k)
		}
		err := carry(t, &errs.Error{Op: "op", Name: "name", Kind: k, Err: errs.New("inner", "other", errs.NotExist, "why")})
		if errs.KindOf(err) != k {
			t.Errorf("%q arrived as %q", k, errs.KindOf(err))
		}
		if k != errs.NotExist && errors.Is(err, errs.NotExist) {
			t.Errorf("%q no longer hides its cause", k)
		}
	}
}

// carry returns err as it arrives.
func carry(t *testing.T, err error) error {
	t.Helper()
	var out coder
	out.fault(&err)
	in := reader(string(out.b), true)
	var got error
	in.fault(&got)
	if bad := in.finish(); bad != nil {
		t.Fatal(bad)
	}
	return got
}

func TestErrors(t *testing.T) {
	part := &core.PartError{Number: 7, TooSmall: true, Size: 12, ETag: "abc"}
	sys := &fs.PathError{Op: "open", Path: "/secret", Err: fs.ErrPermission}
	for _, want := range []error{
		errs.New("op", "name", errs.Busy, "a sentence"), errs.E("op", "", errs.Exist, nil), errs.NotDir, part,
		fmt.Errorf("wrapped: %w", errs.New("op", "name", errs.Conflict, "why")), errors.Join(errs.New("a", "b", errs.NoSpace, "c"), io.ErrUnexpectedEOF),
		errs.E("op", "name", errs.Invalid, part), errs.E("op", "name", errs.Permission, sys), sys, errors.New("nothing known"),
		context.Canceled, context.DeadlineExceeded, fmt.Errorf("%w", context.DeadlineExceeded), io.ErrUnexpectedEOF,
		errs.E("op", "name", errs.Unavailable, context.Canceled), fs.ErrNotExist, &NotLeaderError{"a:1"},
	} {
		got := carry(t, want)
		if got.Error() != want.Error() {
			t.Errorf("text: got %q, want %q", got, want)
		}
		if errs.KindOf(got) != errs.KindOf(want) {
			t.Errorf("%v: got kind %q, want %q", want, errs.KindOf(got), errs.KindOf(want))
		}
		for _, is := range []error{context.Canceled, context.DeadlineExceeded, io.ErrUnexpectedEOF, fs.ErrNotExist, fs.ErrPermission, errs.Conflict, errs.NoSpace, errs.Busy} {
			if errors.Is(got, is) != errors.Is(want, is) {
				t.Errorf("%v is %v: got %v", want, is, errors.Is(got, is))
			}
		}
		p, ok := errors.AsType[*core.PartError](got)
		if wp, wok := errors.AsType[*core.PartError](want); ok != wok || ok && *p != *wp {
			t.Errorf("%v: got part error %+v, want %+v", want, p, wp)
		}
		e, ok := errors.AsType[*errs.Error](got)
		if we, wok := errors.AsType[*errs.Error](want); ok != wok || ok && (e.Op != we.Op || e.Name != we.Name) {
			t.Errorf("%v: got %+v, want %+v", want, e, we)
		}
		_, ok = errors.AsType[*fs.PathError](got)
		if _, wok := errors.AsType[*fs.PathError](want); ok != wok {
			t.Errorf("%v: a PathError arrived: %v, want %v", want, ok, wok)
		}
	}
}

func TestErrorsThatAreDeepOrLong(t *testing.T) {
	var deep error = errs.E("op", "name", errs.Busy, nil)
	for range 100 {
		deep = fmt.Errorf("in: %w", deep)
	}
	got := carry(t, errs.E("op", "", errs.Busy, deep))
	if !errors.Is(got, errs.Busy) {
		t.Errorf("got %v", got)
	}
	long := carry(t, errors.New(strings.Repeat("x", 1<<20)))
	if n := len(long.Error()); n != maxText {
		t.Errorf("got %d bytes of text", n)
	}
}

func TestHeader(t *testing.T) {
	for _, want := range []header{
		{principal: "p"},
		{left: 12, age: core.MaxAge{Set: true, Seconds: -1, OnlyIfCached: true}, request: "r", principal: "p", sequence: 9, below: 3},
		{principal: "p", reads: core.NoCache},
	} {
		var out coder
		h := want
		out.header(&h)
		in := reader(string(out.b), false)
		var got header
		in.header(&got)
		if err := in.finish(); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

// FuzzFrame feeds frames to the decoders of both sides. Whatever the bytes are, reading ends, and what is read is written
// and read back as the same.
func FuzzFrame(f *testing.F) {
	for i, v := range values {
		full := v.make()
		n := 0
		fill(reflect.ValueOf(full).Elem(), &n)
		out := coder{b: []byte{byte(i)}}
		v.code(&out, full)
		f.Add(framed(out.b))
	}
	call := coder{b: []byte{kindCall, 1, byte(methodRename)}}
	call.header(&header{principal: encodePrincipal(core.Anonymous), sequence: 4, below: 2, left: 9})
	call.renameArgs(&core.Root, &core.Root, &core.RenameOptions{})
	f.Add(framed(call.b))
	fault := coder{b: []byte{200}}
	err := errors.Join(errs.E("op", "name", errs.Busy, io.ErrUnexpectedEOF), &core.PartError{Number: 1}, context.Canceled)
	fault.fault(&err)
	f.Add(append(framed(fault.b), framed(call.b)...))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		err := messages(string(frame), true, func(kind byte, c coder) error {
			v := value{"fault", func(c *coder, v any) { c.fault(v.(*error)) }, func() any { return new(error) }}
			if int(kind) < len(values) {
				v = values[kind]
			}
			if kind == kindCall {
				v = value{"header", func(c *coder, v any) { c.header(v.(*header)) }, func() any { return new(header) }}
			}
			got := v.make()
			if v.code(&c, got); c.finish() != nil {
				return nil
			}
			var out coder
			v.code(&out, got)
			again := reader(string(out.b), false)
			back := v.make()
			v.code(&again, back)
			var twice coder
			v.code(&twice, back)
			if err := again.finish(); err != nil || !bytes.Equal(out.b, twice.b) {
				t.Errorf("%s: %x is read back as %x, %v", v.name, out.b, twice.b, err)
			}
			return nil
		})
		if err != nil && errs.KindOf(err) != errs.Invalid {
			t.Errorf("got %v", err)
		}
	})
}
