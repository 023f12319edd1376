package memufs

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag is an MD5
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// writer collects the bytes of one file.
type writer struct {
	s     *Store
	ctx   context.Context // of Create: when it ends, so does the write
	name  string
	size  int64 // expected number of bytes in buf, or -1
	o     ufs.CreateOptions
	buf   []byte
	ended bool
}

// Create implements ufs.Store.
func (s *Store) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	const op = "memufs.Create"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if err := s.checkKind(op, name); err != nil {
		return nil, err
	}
	return &writer{s: s, ctx: ctx, name: name, size: size, o: o}, nil
}

// Append implements ufs.Appender.
func (s *Store) Append(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Writer, error) {
	const op = "memufs.Append"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if !s.feat.Append {
		return nil, errs.New(op, name, errs.Unsupported, "a flat store does not append")
	}
	n, err := s.get(op, name, version)
	if err != nil {
		return nil, err
	}
	o := ufs.CreateOptions{Attr: attr, IfVersion: n.version}
	return &writer{s: s, ctx: ctx, name: name, size: -1, o: o, buf: bytes.Clone(n.data)}, nil
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.usable("memufs.Write", w.ctx); err != nil {
		return 0, err
	}
	w.buf = append(w.buf, p...)
	return len(p), nil
}

func (w *writer) Token() string { return "" }

func (w *writer) SetAttr(a ufs.Attr) error {
	w.o.Attr = clone(a)
	return nil
}

func (w *writer) Commit(ctx context.Context) (ufs.Info, error) {
	const op = "memufs.Commit"
	err := w.usable(op, ctx)
	w.ended = true
	if err != nil {
		return ufs.Info{}, err
	}
	if w.size >= 0 && w.size != int64(len(w.buf)) {
		return ufs.Info{}, errs.New(op, w.name, errs.Invalid,
			fmt.Sprintf("%d bytes were announced, %d written", w.size, len(w.buf)))
	}
	if err := ufs.Guard(ctx); err != nil {
		return ufs.Info{}, err
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if err := w.s.checkCond(op, w.name, w.o); err != nil {
		return ufs.Info{}, err
	}
	if err := w.s.makeParents(op, w.name); err != nil {
		return ufs.Info{}, err
	}
	return w.s.info(w.name, w.s.put(w.name, w.buf, w.o.Attr, "")), nil
}

func (w *writer) Abort() error {
	w.ended, w.buf = true, nil
	return nil
}

func (w *writer) usable(op string, ctx context.Context) error {
	return ufs.Usable(op, w.name, w.ended, w.ctx, ctx, nil)
}

// checkCond judges the conditions of o. mu must be held.
func (s *Store) checkCond(op, name string, o ufs.CreateOptions) error {
	n, ok := s.nodes.Get(name)
	switch {
	case o.IfNew && ok:
		return errs.E(op, name, errs.Exist, nil)
	case o.IfVersion != "" && !ok:
		return errs.New(op, name, errs.Precondition, "the file is gone")
	case o.IfVersion != "" && n.version != o.IfVersion:
		return errs.New(op, name, errs.Precondition, "the version is "+n.version+", not "+o.IfVersion)
	}
	return nil
}

// upload is a multipart upload in progress.
type upload struct {
	name  string
	attr  ufs.Attr
	begun time.Time
	parts map[int][]byte
}

// Begin implements ufs.Composer.
func (s *Store) Begin(ctx context.Context, name string, attr ufs.Attr) (string, error) {
	const op = "memufs.Begin"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	if !s.feat.Compose {
		return "", errs.New(op, name, errs.Unsupported, "a store with directories has no multipart uploads")
	}
	s.changes++
	id := "upload-" + strconv.FormatUint(s.changes, 10)
	s.uploads[id] = &upload{name: name, attr: clone(attr), begun: time.Now(), parts: map[int][]byte{}}
	return id, nil
}

// PutPart implements ufs.Composer.
func (s *Store) PutPart(
	ctx context.Context, name, id string, number int, size int64, r io.Reader,
) (etag string, err error) {
	const op = "memufs.PutPart"
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return "", errs.E(op, name, errs.Invalid, err)
	}
	return s.putPart(ctx, op, name, id, number, data)
}

// CopyPart implements ufs.Composer.
func (s *Store) CopyPart(
	ctx context.Context, name, id string, number int, from, version string, off, n int64,
) (etag string, err error) {
	const op = "memufs.CopyPart"
	r, err := s.Open(ctx, from, off, n, version)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	return s.putPart(ctx, op, name, id, number, data)
}

func (s *Store) putPart(ctx context.Context, op, name, id string, number int, data []byte) (string, error) {
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	u, err := s.upload(op, name, id)
	if err != nil {
		return "", err
	}
	u.parts[number] = data
	return etagOf(data), nil
}

// Complete implements ufs.Composer.
func (s *Store) Complete(
	ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions,
) (ufs.Info, error) {
	const op = "memufs.Complete"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return ufs.Info{}, err
	}
	defer s.mu.Unlock()
	u, err := s.upload(op, name, id)
	if err != nil {
		return ufs.Info{}, err
	}
	if err := s.checkCond(op, name, o); err != nil {
		return ufs.Info{}, err
	}
	var data, sums []byte
	for _, p := range parts {
		b, ok := u.parts[p.Number]
		if !ok || etagOf(b) != p.ETag {
			return ufs.Info{}, errs.New(op, name, errs.Invalid, fmt.Sprintf("part %d is missing or differs", p.Number))
		}
		sum := md5.Sum(b) //nolint:gosec // S3's ETag is an MD5
		data, sums = append(data, b...), append(sums, sum[:]...)
	}
	if err := s.makeParents(op, name); err != nil {
		return ufs.Info{}, err
	}
	delete(s.uploads, id)
	return s.info(name, s.put(name, data, u.attr, fmt.Sprintf("%s-%d", etagOf(sums), len(parts)))), nil
}

// Cancel implements ufs.Composer.
func (s *Store) Cancel(ctx context.Context, name, id string) error {
	if err := s.begin(ctx, "memufs.Cancel", name, ufs.CheckFile); err != nil {
		return err
	}
	defer s.mu.Unlock()
	delete(s.uploads, id)
	return nil
}

// Lost implements ufs.Composer.
func (s *Store) Lost(ctx context.Context, name string, from, to time.Time) (ids []string, err error) {
	if err := s.begin(ctx, "memufs.Lost", name, ufs.CheckFile); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	for id, u := range s.uploads {
		if u.name == name && len(u.parts) == 0 && !u.begun.Before(from) && !u.begun.After(to) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// upload returns the upload id. mu must be held.
func (s *Store) upload(op, name, id string) (*upload, error) {
	u, ok := s.uploads[id]
	if !ok || u.name != name {
		return nil, errs.New(op, name, errs.NotExist, "there is no such upload of this name")
	}
	return u, nil
}

func etagOf(b []byte) string {
	sum := md5.Sum(b) //nolint:gosec // S3's ETag is an MD5
	return hex.EncodeToString(sum[:])
}
