package azureufs

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the service's checksum is an MD5
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

const (
	// firstBlock is the size of a block, and how much of a file is collected before it is staged as blocks. What is shorter
	// is one Put Blob.
	firstBlock = 8 << 20
	maxBlock   = 64 << 20 // a block is held in memory while it is sent
)

// blockSize returns the size of the block after n blocks: constant if size is known; else doubled every 5000 blocks, so that
// the 50,000 of a blob hold 2 TiB while a short stream needs little memory.
func blockSize(n int, size int64) int64 {
	if size >= 0 {
		return max(firstBlock, (size+maxBlocks-1)/maxBlocks)
	}
	return firstBlock << min(n/5000, 3)
}

// writer collects one file, and stages blocks of what is too long for that.
type writer struct {
	s      *Store
	ctx    context.Context // of Create: when it ends, so does the write
	name   string
	size   int64 // bytes announced, or -1
	o      ufs.CreateOptions
	n      int64        // bytes written
	buf    bytes.Buffer // what is not staged
	sum    hash.Hash    // MD5 of what was written
	id     string       // tells this writer's blocks from another's
	blocks []string
	failed error // why staging failed
	ended  bool
}

// Create implements ufs.Store.
func (s *Store) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	const op = "azureufs.Create"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	if most := int64(maxBlocks * maxBlock); size > most {
		return nil, errs.New(op, name, errs.TooLarge, fmt.Sprintf("files of up to %d bytes are written", most))
	}
	return &writer{s: s, ctx: ctx, name: name, size: size, o: o, sum: md5.New(), id: rand.Text()}, nil //nolint:gosec // see above
}

func (w *writer) Write(p []byte) (int, error) {
	const op = "azureufs.Write"
	if err := w.usable(op, w.ctx); err != nil {
		return 0, err
	}
	if w.size >= 0 && w.n+int64(len(p)) > w.size {
		return 0, errs.New(op, w.name, errs.Invalid, fmt.Sprintf("more than the announced %d bytes were written", w.size))
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 1<<20) // so that a large slice is not held twice
		w.buf.Write(rest[:n])
		w.sum.Write(rest[:n])
		w.n += int64(n)
		rest = rest[n:]
		if size := blockSize(len(w.blocks), w.size); int64(w.buf.Len()) > size {
			if w.failed = w.stage(w.ctx, op, w.buf.Next(int(size))); w.failed != nil {
				return len(p) - len(rest), w.failed
			}
		}
	}
	return len(p), nil
}

// stage stages b as the next block.
func (w *writer) stage(ctx context.Context, op string, b []byte) error {
	if len(w.blocks) == maxBlocks {
		return errs.New(op, w.name, errs.TooLarge, fmt.Sprintf("after %d bytes the blob has no blocks left", w.n))
	}
	id := blockID(w.id, 0, len(w.blocks), [16]byte{})
	w.blocks = append(w.blocks, id)
	return w.s.stageBlock(ctx, op, w.name, id, b)
}

// blockID returns a block's name, which the service wants in base64 and of one length for all blocks of a blob.
func blockID(upload string, part, number int, nonce [16]byte) string {
	b := binary.BigEndian.AppendUint32([]byte(upload), uint32(part)) //nolint:gosec // ≤ 10,000
	b = binary.BigEndian.AppendUint32(b, uint32(number))             //nolint:gosec // ≤ 50,000
	return base64.StdEncoding.EncodeToString(append(b, nonce[:]...))
}

// stageBlock stages b, of which the service checks the MD5.
func (s *Store) stageBlock(ctx context.Context, op, name, id string, b []byte) error {
	sum := md5.Sum(b) //nolint:gosec // see above
	_, err := s.blob(name).StageBlock(ctx, id, streaming.NopCloser(bytes.NewReader(b)), &blockblob.StageBlockOptions{
		TransactionalValidation: blob.TransferValidationTypeMD5(sum[:]),
	})
	return damaged(fail(ctx, op, name, err))
}

// damaged names what the service finds wrong with the MD5 of what this process sends: it was damaged on the way.
func damaged(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Kind == errs.BadDigest {
		return errs.E(e.Op, e.Name, errs.Unavailable, e.Err)
	}
	return err
}

// Token implements ufs.Writer: what a crash leaves behind is the service's to drop.
func (w *writer) Token() string { return "" }

// SetAttr implements ufs.Writer.
func (w *writer) SetAttr(a ufs.Attr) error {
	w.o.Attr = a
	return nil
}

func (w *writer) Commit(ctx context.Context) (ufs.Info, error) {
	const op = "azureufs.Commit"
	err := w.usable(op, ctx)
	if err == nil && w.size >= 0 && w.n != w.size {
		err = errs.New(op, w.name, errs.Invalid, fmt.Sprintf("%d bytes were announced, %d written", w.size, w.n))
	}
	sum := w.sum.Sum(nil)
	if err == nil && w.o.MD5 != nil && !bytes.Equal(sum, w.o.MD5) {
		err = errs.New(op, w.name, errs.BadDigest, "the bytes have another MD5 than was announced")
	}
	if err == nil && len(w.blocks) > 0 {
		err = w.stage(ctx, op, w.buf.Bytes())
	}
	var in ufs.Info
	if err == nil {
		in, err = w.commit(ctx, op, sum)
	}
	w.ended = true
	w.buf = bytes.Buffer{}
	return in, err
}

func (w *writer) commit(ctx context.Context, op string, sum []byte) (ufs.Info, error) {
	if len(w.blocks) > 0 {
		in, err := w.s.commitBlocks(ctx, op, w.name, w.blocks, w.n, w.o, sum)
		if errors.Is(err, errs.Invalid) {
			err = errs.E(op, w.name, errs.Conflict, web.Unsent(errors.New("another write of the name was committed meanwhile, which drops what was staged for it; write it again")))
		}
		return in, err
	}
	f := encode(w.o.Attr)
	f.headers.BlobContentMD5 = sum
	var out blockblob.UploadResponse
	err := w.s.change(ctx, op, w.name, func(ctx context.Context) (err error) {
		out, err = w.s.blob(w.name).Upload(ctx, streaming.NopCloser(bytes.NewReader(w.buf.Bytes())), &blockblob.UploadOptions{
			Metadata: f.meta, HTTPHeaders: f.headers, AccessConditions: condition(w.o.IfVersion, w.o.IfNew),
			TransactionalValidation: blob.TransferValidationTypeMD5(sum),
		})
		return err
	})
	if err != nil {
		return ufs.Info{}, judged(damaged(err), w.o)
	}
	return made(op, w.name, w.n, out.LastModified, out.ETag, sum, w.o.Attr)
}

// commitBlocks makes name of staged blocks. sum is the MD5 of all of it, nil if it is not known.
func (s *Store) commitBlocks(
	ctx context.Context, op, name string, blocks []string, size int64, o ufs.CreateOptions, sum []byte,
) (ufs.Info, error) {
	f := encode(o.Attr)
	f.headers.BlobContentMD5 = sum
	var out blockblob.CommitBlockListResponse
	err := s.change(ctx, op, name, func(ctx context.Context) (err error) {
		out, err = s.blob(name).CommitBlockList(ctx, blocks, &blockblob.CommitBlockListOptions{
			Metadata: f.meta, HTTPHeaders: f.headers, AccessConditions: condition(o.IfVersion, o.IfNew),
		})
		return err
	})
	if err != nil {
		return ufs.Info{}, judged(err, o)
	}
	return made(op, name, size, out.LastModified, out.ETag, sum, o.Attr)
}

// made describes what was just made, from the answer.
func made(op, name string, size int64, modified *time.Time, etag *azcore.ETag, sum []byte, a ufs.Attr) (ufs.Info, error) {
	if etag == nil {
		return ufs.Info{}, errs.New(op, name, errs.Unavailable, "the service's answer has no ETag")
	}
	f := encode(a)
	return info(name, &size, modified, etag, sum, decode(map[string]*string{
		"Content-Type": f.headers.BlobContentType, "Cache-Control": f.headers.BlobCacheControl, "Content-Disposition": f.headers.BlobContentDisposition,
		"Content-Encoding": f.headers.BlobContentEncoding, "Content-Language": f.headers.BlobContentLanguage,
	}, f.meta)), nil
}

// Abort drops what is collected. Blocks that are staged are the service's to drop.
func (w *writer) Abort() error {
	w.ended = true
	w.buf = bytes.Buffer{}
	return nil
}

func (w *writer) usable(op string, ctx context.Context) error {
	return ufs.Usable(op, w.name, w.ended, w.ctx, ctx, w.failed)
}

// notes is where the notes of uploads are, each a blob of the name that is the upload's id.
const notes = ufs.Staging + "uploads/"

// newTag returns the ETag of an attempt at a part: what tells it from another, and its size. An empty part has no block that could
// be missing; its tag is of the upload and the number.
func newTag(upload string, number int, size int64) (tag [16]byte) {
	if size == 0 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", upload, number))
		copy(tag[:8], sum[:])
	} else {
		rand.Read(tag[:8])
	}
	binary.BigEndian.PutUint64(tag[8:], uint64(size)) //nolint:gosec // not negative
	return tag
}

// readTag reads the ETag of a part of that size.
func readTag(upload string, p ufs.Part) (tag [16]byte, ok bool) {
	b, err := hex.DecodeString(p.ETag)
	if err != nil || len(b) != len(tag) || p.Size < 0 || binary.BigEndian.Uint64(b[8:]) != uint64(p.Size) { //nolint:gosec // not negative
		return tag, false
	}
	tag = [16]byte(b)
	return tag, p.Size > 0 || tag == newTag(upload, p.Number, 0)
}

// partBlock returns the size of the blocks of a part: at most five, unless they would be too large to hold.
func partBlock(size int64) int64 { return min(max(firstBlock, (size+4)/5), maxBlock) }

// readBlock reads the next n bytes of a part.
func readBlock(op, name string, r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.New(op, name, errs.Invalid, "the part has fewer bytes than were announced")
	}
	return err
}
