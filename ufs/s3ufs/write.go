package s3ufs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

const (
	// startAt is how many bytes of a file of known length are collected before its PutObject starts. What is shorter is
	// sent whole at Commit, and can be sent again; and its attributes can be set until then.
	startAt = 1 << 20
	// holdBack is how many bytes of a started PutObject wait for Commit: without them the object cannot come to be.
	holdBack = 64 << 10
	// firstPart is the size of a part, and how much of a file of unknown length is collected before it becomes a
	// multipart upload. S3 demands at least 5 MiB.
	firstPart = 8 << 20
)

// partSize returns the size of the part after n parts: constant if size is known; else doubled every 1000 parts up to
// 1 GiB, so that 10,000 parts hold 3 TiB while a short stream needs little memory.
func partSize(n int, size int64) int64 {
	if size >= 0 {
		return max(firstPart, (size+maxParts-1)/maxParts)
	}
	return firstPart << min(n/1000, 7)
}

// writer stages one file: in memory, then in the body of a started PutObject or in parts.
type writer struct {
	s      *Store
	ctx    context.Context // of Create: when it ends, so does the write
	name   string
	size   int64 // bytes announced, or -1
	o      ufs.CreateOptions
	judge  bool         // the service judges o's conditions
	n      int64        // bytes written
	buf    bytes.Buffer // what is not sent
	put    *put         // the started PutObject, nil if there is none
	up     *noted       // the multipart upload, nil if there is none
	parts  []ufs.Part
	failed error // why sending failed
	ended  bool
}

// Create implements ufs.Store.
func (s *Store) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	const op = "s3ufs.Create"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	if size > maxObject {
		return nil, errs.New(op, name, errs.TooLarge, fmt.Sprintf("S3 holds objects of up to %d bytes", int64(maxObject)))
	}
	if _, err := encode(op, name, o.Attr, ""); err != nil {
		return nil, err
	}
	judge, err := s.judges(ctx, o)
	if err != nil {
		return nil, err
	}
	return &writer{s: s, ctx: ctx, name: name, size: size, o: o, judge: judge}, nil
}

func (w *writer) Write(p []byte) (int, error) {
	const op = "s3ufs.Write"
	if err := w.usable(op, w.ctx); err != nil {
		return 0, err
	}
	if w.size >= 0 && w.n+int64(len(p)) > w.size {
		return 0, errs.New(op, w.name, errs.Invalid, fmt.Sprintf("more than the announced %d bytes were written", w.size))
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 1<<20) // so that a large slice is not held twice
		w.buf.Write(rest[:n])
		w.n += int64(n)
		rest = rest[n:]
		if w.failed = w.send(op); w.failed != nil {
			return len(p) - len(rest), w.failed
		}
	}
	return len(p), nil
}

// Token implements ufs.Writer. A started PutObject leaves nothing behind.
func (w *writer) Token() string {
	if w.up == nil {
		return ""
	}
	return w.up.token
}

// SetAttr implements ufs.Writer. S3 takes attributes before the bytes.
func (w *writer) SetAttr(a ufs.Attr) error {
	const op = "s3ufs.SetAttr"
	if w.put != nil || w.up != nil {
		return errs.New(op, w.name, errs.Unsupported, "the attributes have been sent ahead of the bytes")
	}
	if _, err := encode(op, w.name, a, ""); err != nil {
		return err
	}
	w.o.Attr = a
	return nil
}

// multipart reports whether the file is, or will have to be, a multipart upload if it grows.
func (w *writer) multipart() bool { return w.size < 0 || w.size > maxPut }

// send sends what is collected beyond what must be held back.
func (w *writer) send(op string) error {
	if !w.multipart() {
		if w.put == nil && w.size > startAt && w.buf.Len() >= startAt {
			f, err := encode(op, w.name, w.o.Attr, w.ownETag())
			if err != nil {
				return err
			}
			w.put = w.s.start(w.ctx, w.s.putInput(w.name, f, w.o, w.judge), w.size)
		}
		if n := w.buf.Len() - holdBack; w.put != nil && n > 0 {
			return w.put.write(w.ctx, op, w.name, w.buf.Next(n), w.o)
		}
		return nil
	}
	for {
		n := partSize(len(w.parts), w.size)
		if int64(w.buf.Len()) <= n {
			return nil
		}
		if err := w.sendPart(w.ctx, op, n); err != nil {
			return err
		}
	}
}

// sendPart uploads the next n collected bytes as a part.
func (w *writer) sendPart(ctx context.Context, op string, n int64) error {
	if w.up == nil {
		up, err := w.s.beginNoted(ctx, w.name, w.o.Attr)
		if err != nil {
			return err
		}
		w.up = up
	}
	if len(w.parts) == maxParts {
		return errs.New(op, w.name, errs.TooLarge, fmt.Sprintf("after %d bytes the upload has no parts left", w.n))
	}
	p := ufs.Part{Number: len(w.parts) + 1, Size: n}
	etag, err := w.s.PutPart(ctx, w.name, w.up.id, p.Number, n, bytes.NewReader(w.buf.Next(int(n))))
	p.ETag = etag
	w.parts = append(w.parts, p)
	return err
}

// ownETag returns the ETag the object will get if that is known: the MD5 of one PutObject.
func (w *writer) ownETag() string { return hex.EncodeToString(w.o.MD5) }

func (w *writer) Commit(ctx context.Context) (ufs.Info, error) {
	const op = "s3ufs.Commit"
	err := w.usable(op, ctx)
	if err == nil && w.size >= 0 && w.n != w.size {
		err = errs.New(op, w.name, errs.Invalid, fmt.Sprintf("%d bytes were announced, %d written", w.size, w.n))
	}
	var in ufs.Info
	if err == nil {
		in, err = w.commit(ctx, op)
	}
	if err != nil {
		_ = w.Abort() // what it cannot drop is left to CleanStaging
		return ufs.Info{}, err
	}
	w.ended = true
	if w.up != nil {
		w.up.end(ctx)
	}
	return in, nil
}

func (w *writer) commit(ctx context.Context, op string) (ufs.Info, error) {
	if w.up != nil {
		if err := w.sendPart(ctx, op, int64(w.buf.Len())); err != nil {
			return ufs.Info{}, err
		}
		return w.s.Complete(ctx, w.name, w.up.id, w.parts, w.o)
	}
	if err := w.s.precheck(ctx, op, w.name, w.o, w.judge); err != nil {
		return ufs.Info{}, err
	}
	etag, err := w.finish(ctx, op)
	if err != nil {
		return ufs.Info{}, err
	}
	in, err := w.s.facts(ctx, op, w.name, etag, w.n)
	if err == nil && in.Size != w.n {
		err = errs.New(op, w.name, errs.Unavailable, fmt.Sprintf("%d bytes were sent and %d stored", w.n, in.Size))
	}
	return in, err
}

// finish completes the started PutObject, or does it whole.
func (w *writer) finish(ctx context.Context, op string) (etag string, err error) {
	if w.put != nil {
		if err := ufs.Guard(ctx); err != nil {
			return "", err
		}
		if err := w.put.write(ctx, op, w.name, w.buf.Bytes(), w.o); err != nil {
			return "", err
		}
		return w.put.finish(ctx, op, w.name, w.o)
	}
	f, err := encode(op, w.name, w.o.Attr, w.ownETag())
	if err != nil {
		return "", err
	}
	in := w.s.putInput(w.name, f, w.o, w.judge)
	in.Body, in.ContentLength = bytes.NewReader(w.buf.Bytes()), aws.Int64(w.n)
	tries := w.s.ifAnswered
	if w.o.IfNew || w.o.IfVersion != "" {
		tries = once // a second request would fail for the first one's success
	}
	out, err := w.s.client.PutObject(ctx, in, tries)
	if err != nil {
		return "", judged(fail(ctx, op, w.name, err), w.o)
	}
	return tagged(op, w.name, unquote(out.ETag))
}

// Abort drops what is staged. It waits for the request to end.
func (w *writer) Abort() error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.buf = bytes.Buffer{}
	if w.put != nil {
		w.put.abort()
	}
	if w.up != nil {
		return w.up.cancel(w.ctx, nil)
	}
	return nil
}

func (w *writer) usable(op string, ctx context.Context) error {
	return ufs.Usable(op, w.name, w.ended, w.ctx, ctx, w.failed)
}

// putInput returns a PutObject without its body, with o's conditions if the service is to judge them.
func (s *Store) putInput(name string, f fields, o ufs.CreateOptions, judge bool) *s3.PutObjectInput {
	in := &s3.PutObjectInput{
		Bucket: &s.o.Bucket, Key: s.key(name), Metadata: f.meta, ContentType: f.contentType, CacheControl: f.cacheControl,
		ContentDisposition: f.disposition, ContentEncoding: f.encoding, ContentLanguage: f.language, Expires: f.expires,
	}
	if o.MD5 != nil {
		in.ContentMD5 = aws.String(base64.StdEncoding.EncodeToString(o.MD5))
	}
	if judge {
		in.IfNoneMatch, in.IfMatch = conditions(o)
	}
	return in
}

// conditions returns o's conditions as headers.
func conditions(o ufs.CreateOptions) (ifNoneMatch, ifMatch *string) {
	if o.IfNew {
		ifNoneMatch = aws.String("*")
	}
	return ifNoneMatch, condition(o.IfVersion)
}

// judges reports whether the service judges o's conditions itself, which is found out when there first are some.
func (s *Store) judges(ctx context.Context, o ufs.CreateOptions) (bool, error) {
	if (o.IfNew || o.IfVersion != "") && !s.learned.Load() {
		if err := s.probeWrite(ctx, "s3ufs.Create"); err != nil {
			return false, err
		}
	}
	return s.condPut.Load(), nil
}

// precheck judges o's conditions if the service does not: against writers other than Sluice this leaves a gap.
func (s *Store) precheck(ctx context.Context, op, name string, o ufs.CreateOptions, judge bool) error {
	if judge || !o.IfNew && o.IfVersion == "" {
		return nil
	}
	err := s.is(ctx, op, name, o.IfVersion)
	switch {
	case o.IfNew && err == nil:
		return errs.E(op, name, errs.Exist, nil)
	case o.IfNew && errors.Is(err, errs.NotExist):
		return nil
	}
	return judged(err, o)
}

// judged names the outcome of a condition as the interface does.
func judged(err error, o ufs.CreateOptions) error {
	e, ok := errors.AsType[*errs.Error](err)
	switch {
	case !ok:
	case o.IfNew && e.Kind == errs.Precondition:
		return errs.E(e.Op, e.Name, errs.Exist, nil)
	case o.IfVersion != "" && e.Kind == errs.NotExist && !o.IfNew:
		return errs.New(e.Op, e.Name, errs.Precondition, "the object is gone")
	}
	return err
}

// put is a PutObject in flight whose body is written piece by piece.
type put struct {
	cancel context.CancelFunc
	pipe   *io.PipeWriter
	done   chan struct{} // closed when the request has ended
	etag   string        // set before done is closed
	err    error         // set before done is closed
}

var errAborted = errors.New("the write was aborted")

// start starts in with a body of size bytes.
func (s *Store) start(ctx context.Context, in *s3.PutObjectInput, size int64) *put {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	p := &put{cancel: cancel, pipe: w, done: make(chan struct{})}
	var sent func(*s3.Options)
	in.Body, in.ContentLength, sent = s.stream(r, size)
	go func() {
		defer close(p.done)
		out, err := s.client.PutObject(ctx, in, sent)
		if err == nil {
			p.etag = unquote(out.ETag)
		}
		p.err = err
		_ = r.CloseWithError(errAborted) // so that a write does not wait for who no longer reads
	}()
	return p
}

// write hands b to the request. Errors: the request's, if it has ended.
func (p *put) write(ctx context.Context, op, name string, b []byte, o ufs.CreateOptions) error {
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	if _, err := p.pipe.Write(b); err != nil {
		<-p.done
		return p.why(ctx, op, name, o)
	}
	return nil
}

// finish waits for the answer to the whole body.
func (p *put) finish(ctx context.Context, op, name string, o ufs.CreateOptions) (etag string, err error) {
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	_ = p.pipe.Close() // a pipe's Close does not fail
	<-p.done
	p.cancel()
	if p.err != nil {
		return "", p.why(ctx, op, name, o)
	}
	return tagged(op, name, p.etag)
}

// tagged returns the ETag of an answer to a write. An answer without one comes from something else than a service of S3, such as what
// is before it, and says nothing of the object.
func tagged(op, name, etag string) (string, error) {
	if etag == "" {
		return "", errs.New(op, name, errs.Unavailable, "the answer to the write has no ETag; whether it was carried out is not known")
	}
	return etag, nil
}

func (p *put) why(ctx context.Context, op, name string, o ufs.CreateOptions) error {
	if p.err == nil {
		return errs.New(op, name, errs.Unavailable, "the service answered before it had the whole body")
	}
	return judged(fail(ctx, op, name, p.err), o)
}

// abort breaks the request off before its last bytes. A service does not keep an object whose body fell short.
func (p *put) abort() {
	_ = p.pipe.CloseWithError(errAborted)
	p.cancel()
	<-p.done
}
