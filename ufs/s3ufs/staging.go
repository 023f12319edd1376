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

// A multipart upload of a writer, or of a long copy, has a note: an object below .sluice/uploads/ that holds the key and, once
// the service has given one, the upload's id. It is written before the upload is begun, so that after a crash the upload can
// be found, and proved Sluice's own, whenever that crash came. Uploads without a note are never touched; those that callers
// begin (Begin) are theirs to cancel, or to find (Lost).
const notes = ufs.Staging + "uploads/"

// note is the text of a note. Keys are any bytes.
type note struct {
	Key []byte `json:"key"`
	ID  string `json:"id,omitempty"`
}

// uploads are what this process itself has in progress below one root, which is never taken for left behind.
type uploads struct {
	umu       sync.Mutex
	open      map[string]bool // tokens of noted uploads
	begun     map[string]bool // ids of all uploads
	beginning map[string]int  // how many uploads to a name are being begun
}

func newUploads() *uploads {
	return &uploads{open: map[string]bool{}, begun: map[string]bool{}, beginning: map[string]int{}}
}

// ofRoot holds the uploads of each root: a mount whose options change gets another Store, and both may be busy.
var ofRoot sync.Map

func uploadsOf(root string) *uploads {
	u, _ := ofRoot.LoadOrStore(root, newUploads())
	return u.(*uploads)
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

// noted is a multipart upload that has a note.
type noted struct {
	s     *Store
	name  string
	token string // names the note
	id    string // "" until the service has given one
}

// beginNoted begins a multipart upload with a note. After an error what may be there is left to CleanStaging.
func (s *Store) beginNoted(ctx context.Context, name string, attr ufs.Attr) (*noted, error) {
	u := &noted{s: s, name: name, token: rand.Text()}
	s.setOpen(u.token, true)
	err := u.put(ctx)
	if err == nil {
		if u.id, err = s.Begin(ctx, name, attr); err == nil {
			err = u.put(ctx)
		}
	}
	if err != nil {
		return nil, errors.Join(err, u.cancel(ctx, err))
	}
	return u, nil
}

func (u *noted) put(ctx context.Context) error {
	b, err := json.Marshal(note{[]byte(u.name), u.id})
	if err != nil {
		return err
	}
	return u.s.putStaged(ctx, "s3ufs.Create", notes+u.token, string(b))
}

// end forgets the upload, which is completed. A note that stays is removed by CleanStaging.
func (u *noted) end(ctx context.Context) {
	ctx, cancel := ufs.Detached(ctx)
	defer cancel()
	defer u.s.setOpen(u.token, false)
	_ = u.s.deleteStaged(ctx, notes+u.token)
}

// cancel cancels the upload, because of why. What fails is left to CleanStaging, and reported.
func (u *noted) cancel(ctx context.Context, why error) error {
	ctx, cancel := ufs.Detached(ctx)
	defer cancel()
	defer u.s.setOpen(u.token, false)
	if u.id == "" && errors.Is(why, errs.Unavailable) && !errors.Is(why, ufs.ErrUnsent) {
		return nil // there may be an upload, or not
	}
	if u.id != "" {
		if err := u.s.Cancel(ctx, u.name, u.id); err != nil {
			return err
		}
	}
	return u.s.deleteStaged(ctx, notes+u.token)
}

// CleanStaging implements ufs.Store: it cancels the noted uploads that nobody names and that this process has not open. One
// without an id is looked for (Lost) when it can no longer turn up. One cluster only may write below a prefix.
func (s *Store) CleanStaging(ctx context.Context, live func(token string) bool) error {
	const op = "s3ufs.CleanStaging"
	var all []error
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.o.Bucket, Prefix: s.key(notes)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return errors.Join(append(all, fail(ctx, op, "", err))...)
		}
		for _, o := range page.Contents {
			name := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
			if token := strings.TrimPrefix(name, notes); live(token) || s.isOpen(token) {
				continue
			}
			if err := s.cleanUpload(ctx, op, name, aws.ToTime(o.LastModified), live); err != nil {
				all = append(all, err)
			}
			if ctx.Err() != nil {
				return errors.Join(all...)
			}
		}
	}
	return errors.Join(all...)
}

// cleanUpload removes the note, last written at that time, and its upload.
func (s *Store) cleanUpload(ctx context.Context, op, name string, at time.Time, live func(token string) bool) error {
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
	key, ids := string(n.Key), []string{n.ID}
	if n.ID == "" {
		window := 2 * s.o.settle
		if s.o.now().Sub(at) < window+s.o.settle {
			return nil
		}
		if ids, err = s.Lost(ctx, key, at, at.Add(window)); err != nil {
			return err
		}
		ids = slices.DeleteFunc(ids, live)
	}
	for _, id := range ids {
		if err := ufs.Guard(ctx); err != nil {
			return err
		}
		if err := s.Cancel(ctx, key, id); err != nil {
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
	dctx, cancel := ufs.Detached(ctx)
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

// The three below are the only ones that touch objects of the staging area, the mark among them.

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
	b, err := io.ReadAll(io.LimitReader(out.Body, 16<<10))
	return string(b), fail(ctx, op, name, err)
}

func (s *Store) deleteStaged(ctx context.Context, name string) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.o.Bucket, Key: s.key(name)})
	return fail(ctx, "s3ufs.deleteStaged", name, err)
}
