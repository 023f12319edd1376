package s3ufs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// A multipart upload of a writer has a note: an object below .sluice/uploads/, named by the writer's token, that holds the
// key and, once the service has given one, the upload's id. It is written before the upload is begun, so that after a crash
// the upload can be found, and proved Sluice's own, whenever that crash came. Uploads without a note are never touched;
// those that callers begin (Begin) are theirs to cancel, or to find (Lost).
const notes = ufs.Staging + "uploads/"

type note struct {
	Key string `json:"key"`
	ID  string `json:"id,omitempty"`
}

// uploads are what this process itself has in progress, which is never taken for left behind.
type uploads struct {
	umu       sync.Mutex
	open      map[string]bool // tokens of writers with a multipart upload
	begun     map[string]bool // ids of uploads, those of writers among them
	beginning map[string]int  // how many uploads to a name are being begun
}

func newUploads() uploads {
	return uploads{open: map[string]bool{}, begun: map[string]bool{}, beginning: map[string]int{}}
}

func (u *uploads) setOpen(token string, open bool) {
	u.umu.Lock()
	defer u.umu.Unlock()
	if u.open[token] = true; !open {
		delete(u.open, token)
	}
}

func (u *uploads) isOpen(token string) bool {
	u.umu.Lock()
	defer u.umu.Unlock()
	return u.open[token]
}

// begins counts an upload to name as being begun until known is called with its id, "" if none was given.
func (u *uploads) begins(name string) (known func(id string)) {
	u.umu.Lock()
	defer u.umu.Unlock()
	u.beginning[name]++
	return func(id string) {
		u.umu.Lock()
		defer u.umu.Unlock()
		if u.beginning[name]--; u.beginning[name] == 0 {
			delete(u.beginning, name)
		}
		if id != "" {
			u.begun[id] = true
		}
	}
}

func (u *uploads) ended(id string) {
	u.umu.Lock()
	defer u.umu.Unlock()
	delete(u.begun, id)
}

// others returns those of the ids that this process has not begun; ok is false if it is about to know one more.
func (u *uploads) others(name string, ids []string) (left []string, ok bool) {
	u.umu.Lock()
	defer u.umu.Unlock()
	left = slices.DeleteFunc(ids, func(id string) bool { return u.begun[id] })
	return left, len(left) == 0 || u.beginning[name] == 0
}

// beginUpload begins the multipart upload of w.
func (s *Store) beginUpload(ctx context.Context, w *writer) (err error) {
	w.token = rand.Text()
	s.setOpen(w.token, true)
	if err := s.putNote(ctx, w); err != nil {
		return err
	}
	if w.id, err = s.Begin(ctx, w.name, w.o.Attr); err != nil {
		return err
	}
	return s.putNote(ctx, w)
}

func (s *Store) putNote(ctx context.Context, w *writer) error {
	b, err := json.Marshal(note{w.name, w.id})
	if err != nil {
		return err
	}
	return s.putStaged(ctx, "s3ufs.Create", notes+w.token, string(b))
}

// endUpload forgets the upload of w, which is completed. A note that stays is removed by CleanStaging.
func (s *Store) endUpload(ctx context.Context, w *writer) {
	if w.token == "" {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	_ = s.deleteStaged(ctx, notes+w.token)
	s.setOpen(w.token, false)
}

// abortUpload cancels the upload of w. What fails is left to CleanStaging, and reported.
func (s *Store) abortUpload(w *writer) error {
	if w.token == "" {
		return nil
	}
	ctx, cancel := detached(w.ctx)
	defer cancel()
	defer s.setOpen(w.token, false)
	if w.id == "" { // an upload may have been begun, or not
		return nil
	}
	if err := s.Cancel(ctx, w.name, w.id); err != nil {
		return err
	}
	return s.deleteStaged(ctx, notes+w.token)
}

// detached returns a ctx for clean-up, which must happen although the caller's has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
}

// CleanStaging implements ufs.Store: it cancels the noted uploads that nobody names and that no writer of this process
// holds open; one without an id is looked for when ufs.Settle has passed. One cluster only may write below a prefix.
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
			if token := strings.TrimPrefix(name, notes); live(token) || s.isOpen(token) {
				continue
			}
			if err := s.cleanUpload(ctx, op, name, aws.ToTime(o.LastModified), live); err != nil {
				return err
			}
		}
	}
	return nil
}

// cleanUpload removes the note, last written at that time, and its upload.
func (s *Store) cleanUpload(ctx context.Context, op, name string, at time.Time, live func(token string) bool) error {
	// beginTime is how long after its note an upload can have been begun.
	const beginTime = time.Minute
	text, err := s.getStaged(ctx, op, name)
	if errors.Is(err, errs.NotExist) {
		return nil // its writer has ended meanwhile
	}
	if err != nil {
		return err
	}
	var n note
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		return errs.E(op, name, errs.Corrupt, err)
	}
	ids := []string{n.ID}
	if n.ID == "" {
		if time.Since(at) < s.o.settle {
			return nil
		}
		if ids, err = s.Lost(ctx, n.Key, at, at.Add(beginTime)); err != nil {
			return err
		}
		ids = slices.DeleteFunc(ids, live)
	}
	for _, id := range ids {
		if err := s.Cancel(ctx, n.Key, id); err != nil {
			return err
		}
	}
	return s.deleteStaged(ctx, name)
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
