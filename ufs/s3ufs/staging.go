package s3ufs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// A multipart upload of a writer is noted in an object below .sluice/uploads/ whose name holds the upload id and whose
// body the key: it proves after a crash that the upload is Sluice's own. Uploads without a note are never touched; those
// that callers begin (Begin) are theirs to cancel.
const notes = ufs.Staging + "uploads/"

// uploads are the multipart uploads of the writers that are open in this process.
type uploads struct {
	umu  sync.Mutex
	open map[string]bool
}

func (u *uploads) note(id string, open bool) {
	u.umu.Lock()
	defer u.umu.Unlock()
	if u.open == nil {
		u.open = map[string]bool{}
	}
	if open {
		u.open[id] = true
	} else {
		delete(u.open, id)
	}
}

func (u *uploads) isOpen(id string) bool {
	u.umu.Lock()
	defer u.umu.Unlock()
	return u.open[id]
}

func noteName(id string) string { return notes + base64.RawURLEncoding.EncodeToString([]byte(id)) }

// beginUpload begins the multipart upload of w.
func (s *Store) beginUpload(ctx context.Context, w *writer) error {
	id, err := s.Begin(ctx, w.name, w.o.Attr)
	if err != nil {
		return err
	}
	w.id = id
	s.note(id, true)
	return s.putStaged(ctx, "s3ufs.Create", noteName(id), w.name)
}

// endUpload forgets the upload of w, which is completed. A note that stays is removed by CleanStaging.
func (s *Store) endUpload(ctx context.Context, w *writer) {
	if w.id == "" {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	s.note(w.id, false)
	_ = s.deleteStaged(ctx, noteName(w.id))
}

// abortUpload cancels the upload of w. What fails is left to CleanStaging, and reported.
func (s *Store) abortUpload(w *writer) error {
	if w.id == "" {
		return nil
	}
	ctx, cancel := detached(w.ctx)
	defer cancel()
	s.note(w.id, false)
	if err := s.Cancel(ctx, w.name, w.id); err != nil {
		return err
	}
	return s.deleteStaged(ctx, noteName(w.id))
}

// detached returns a ctx for clean-up, which must happen although the caller's has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
}

// CleanStaging implements ufs.Store: it cancels the noted uploads that nobody names and that no writer of this process
// holds open. One cluster only may write below a prefix.
func (s *Store) CleanStaging(ctx context.Context, live func(token string) bool) error {
	const op = "s3ufs.CleanStaging"
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.o.Bucket, Prefix: s.key(notes)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fail(ctx, op, "", err)
		}
		for _, o := range page.Contents {
			name := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
			id, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(name, notes))
			if err != nil || live(string(id)) || s.isOpen(string(id)) {
				continue
			}
			if err := s.cleanUpload(ctx, op, name, string(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) cleanUpload(ctx context.Context, op, note, id string) error {
	target, err := s.getStaged(ctx, op, note)
	if errors.Is(err, errs.NotExist) {
		return nil // its writer has ended meanwhile
	}
	if err != nil {
		return err
	}
	if err := s.Cancel(ctx, target, id); err != nil {
		return err
	}
	return s.deleteStaged(ctx, note)
}

// Probe implements ufs.Prober. With write it also finds out whether the service honours conditions.
func (s *Store) Probe(ctx context.Context, write bool) error {
	const op = "s3ufs.Probe"
	out, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: &s.o.Bucket, Prefix: s.key(""), MaxKeys: aws.Int32(1),
	})
	if err != nil {
		return s.explain(ctx, fail(ctx, op, "", err))
	}
	if !write {
		if len(out.Contents) == 0 {
			return nil
		}
		_, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: out.Contents[0].Key})
		if err = fail(ctx, op, "", err); err != nil && !errors.Is(err, errs.NotExist) {
			return fmt.Errorf("read an object of bucket %q: %w", s.o.Bucket, err)
		}
		return nil
	}
	return s.probeWrite(ctx, op)
}

// explain says what is wrong with a bucket that cannot be listed.
func (s *Store) explain(ctx context.Context, err error) error {
	where := s.o.Endpoint
	if where == "" {
		where = "AWS region " + s.o.Region
	}
	// A HEAD cannot say why it is a 404: what the listing said of the keys goes first.
	if !errors.Is(err, errs.Permission) && errors.Is(s.headBucket(ctx), errs.NotExist) {
		return errs.New("s3ufs.Probe", s.o.Bucket, errs.NotExist,
			fmt.Sprintf("there is no such bucket at %s; make it, or check the name and the region", where))
	}
	return fmt.Errorf("list bucket %q at %s: %w", s.o.Bucket, where, err)
}

func (s *Store) probeWrite(ctx context.Context, op string) error {
	name, text := ufs.Staging+"probe-"+rand.Text(), "probe"
	if err := s.putStaged(ctx, op, name, text); err != nil {
		return fmt.Errorf("write to bucket %q: %w", s.o.Bucket, err)
	}
	got, err := s.getStaged(ctx, op, name)
	if err == nil && got != text {
		err = errs.New(op, name, errs.Unavailable, "other bytes came back than were written")
	}
	if err != nil {
		err = fmt.Errorf("read from bucket %q: %w", s.o.Bucket, err)
	} else if err = s.judgeNames(ctx, op, name); err == nil {
		s.probeConditions(ctx, name)
	}
	dctx, cancel := detached(ctx)
	defer cancel()
	if derr := s.deleteStaged(dctx, name); derr != nil {
		err = errors.Join(err, fmt.Errorf("delete from bucket %q: %w", s.o.Bucket, derr))
	}
	return err
}

// probeConditions sends changes of the existing object name whose conditions do not hold: who refuses each of them as
// such honours conditions. An outage in the middle leaves the question open.
func (s *Store) probeConditions(ctx context.Context, name string) {
	clear := true
	refuses := func(err error) bool {
		err = fail(ctx, "s3ufs.Probe", name, err)
		if ctx.Err() != nil || errors.Is(err, errs.Unavailable) {
			clear = false
		}
		return errors.Is(err, errs.Precondition)
	}
	put := func(ifNoneMatch, ifMatch *string) bool {
		_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &s.o.Bucket, Key: s.key(name), Body: strings.NewReader("other"), IfNoneMatch: ifNoneMatch, IfMatch: ifMatch,
		}, once)
		return refuses(err)
	}
	wrong := aws.String(`"00000000000000000000000000000000"`)
	onPut := put(aws.String("*"), nil) && put(nil, wrong)
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.o.Bucket, Key: s.key(name), IfMatch: wrong}, once)
	if onDelete := refuses(err); clear {
		s.condPut.Store(onPut)
		s.condDelete.Store(onDelete)
		s.learned.Store(true)
	}
}

// The three below are the only ones that touch objects of the staging area.

func (s *Store) putStaged(ctx context.Context, op, name, text string) error {
	_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.o.Bucket, Key: s.key(name), Body: bytes.NewReader([]byte(text)), ContentLength: aws.Int64(int64(len(text))),
	})
	return fail(ctx, op, name, err)
}

func (s *Store) getStaged(ctx context.Context, op, name string) (string, error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.o.Bucket, Key: s.key(name)})
	if err != nil {
		return "", fail(ctx, op, name, err)
	}
	defer out.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(out.Body, 4<<10))
	return string(b), fail(ctx, op, name, err)
}

func (s *Store) deleteStaged(ctx context.Context, name string) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.o.Bucket, Key: s.key(name)})
	return fail(ctx, "s3ufs.deleteStaged", name, err)
}
