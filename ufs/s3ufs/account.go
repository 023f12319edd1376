package s3ufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// allBuckets stands for a bucket in the URI of an Account.
const allBuckets = "*"

// Account is a ufs.Store of all buckets of an account: "bucket/key" is the object key of that bucket, and "bucket/" is there as if
// it were a marker object, whether the bucket is empty or not. What lies in a bucket is a Store's, with all that is said of one;
// this only finds the bucket, and the region that it is in. All Stores have one pool of connections, and know of the service what
// one of them has found out.
//
// Which buckets there are is what ListBuckets says. Nothing lies beside them: a file right at the root is errs.Invalid where
// it is to be made. A bucket is made by Mkdir and removed by Remove, and by nothing else, so that a slip in a name makes none.
type Account struct {
	*Store      // for the account's own requests; of a Store's methods only those below are an Account's
	manage bool // buckets may be made and removed

	buckets struct {
		sync.Mutex
		at     time.Time // of the listing that they are from
		all    map[string]*bucket
		asking bool                 // find asks for a listing
		failed time.Time            // when find asked last and was not told
		acted  map[string]time.Time // when this process made or removed one of the name
	}
}

// bucket is a bucket of an account.
type bucket struct {
	name   string
	made   time.Time
	region string // "" if it is not known
	mu     sync.Mutex
	store  *Store // nil until it is first used
}

// OpenAccount returns the store of all buckets of the account that o has the keys of. With manage, buckets can be made and removed
// through it. Errors: errs.Invalid.
func OpenAccount(o Options, manage bool) (*Account, error) {
	const op = "s3ufs.OpenAccount"
	if o.Bucket != "" || o.Prefix != "" {
		return nil, errs.New(op, o.Bucket, errs.Invalid, "an account's buckets are mounted whole, or one of them by its name")
	}
	if o.Anonymous {
		return nil, errs.New(op, "", errs.Invalid, "an account is known by its keys; anonymous=true goes with the name of a bucket")
	}
	if err := check(o); err != nil {
		return nil, errs.E(op, "", errs.Invalid, err)
	}
	a := &Account{Store: newStore(o), manage: manage}
	a.root = "s3:" + service(o.Endpoint) + "/"
	a.buckets.acted = map[string]time.Time{}
	return a, nil
}

// Features implements ufs.Store.
func (a *Account) Features() ufs.Features {
	f := a.Store.Features()
	f.Buckets, f.Mark = true, false
	return f
}

// split returns the bucket of a name and what the name is in there. root says that it names no bucket: "", or a file beside them.
func split(name string) (bucket, rest string, root bool) {
	bucket, rest, ok := strings.Cut(name, "/")
	return bucket, rest, !ok
}

// beside is the error of what would be a file at the root.
func beside(op, name string) error {
	return errs.New(op, name, errs.Invalid, "at the root of an account there are buckets and nothing else; name one of them, or make one with mkdir")
}

// in finds the Store of name and what name is there. Errors: errs.NotExist if name is beside the buckets, or there is no such bucket.
func (a *Account) in(ctx context.Context, op, name string) (s *Store, b *bucket, rest string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, "", err
	}
	if err := ufs.CheckName(a.Features(), op, name); err != nil {
		return nil, nil, "", err
	}
	bucket, rest, root := split(name)
	if root {
		return nil, nil, "", errs.New(op, name, errs.NotExist, "it is the name of no bucket")
	}
	if b, err = a.find(ctx, op, bucket, rest == ""); err != nil {
		return nil, nil, "", err
	}
	s, err = a.open(ctx, op, b)
	return s, b, rest, err
}

// gone turns the failure of a request to a bucket that is not there any more into one of the kind: to its Store that is an outage.
func gone(op, name string, kind errs.Kind, err error) error {
	if _, ok := errors.AsType[*noBucketError](err); ok {
		return errs.New(op, name, kind, "its bucket has been removed")
	}
	return err
}

// to is in for what is to be made. Errors: errs.Invalid if that cannot be.
func (a *Account) to(ctx context.Context, op, name string) (*Store, string, error) {
	s, _, rest, err := a.in(ctx, op, name)
	if !errors.Is(err, errs.NotExist) {
		return s, rest, err
	}
	bucket, _, root := split(name)
	if root {
		return nil, "", beside(op, name)
	}
	return nil, "", errs.New(op, name, errs.Invalid, fmt.Sprintf("the account has no bucket %q; make it first, with mkdir", bucket))
}

const (
	bucketsAge = 10 * time.Second // how long what is in a bucket is looked for there without a look whether that is still there
	ownWord    = time.Minute      // how long after a bucket was made or removed here a listing that differs is doubted
	bucketPage = 1000
)

// find returns the bucket of the name, as it is known or, with now, after a look. Errors: errs.NotExist.
func (a *Account) find(ctx context.Context, op, name string, now bool) (*bucket, error) {
	a.buckets.Lock()
	b := a.buckets.all[name]
	at := a.o.now()
	known := !now && b != nil && (a.buckets.asking || at.Sub(a.buckets.at) < bucketsAge || at.Sub(a.buckets.failed) < bucketsAge)
	if !known {
		a.buckets.asking = true // who comes meanwhile and names a bucket that was there need not ask too
	}
	a.buckets.Unlock()
	if known {
		return b, nil
	}
	all, err := a.ask(ctx, op)
	a.buckets.Lock()
	a.buckets.asking = false
	if err != nil && ctx.Err() == nil {
		a.buckets.failed = at
	}
	a.buckets.Unlock()
	switch {
	case err != nil && b != nil && ctx.Err() == nil: // what is not told of all need not keep anybody from one
		return b, a.unlisted(ctx, op, b, now, err)
	case err != nil:
		return nil, err
	}
	if b = all[name]; b == nil {
		return nil, errs.New(op, name, errs.NotExist, fmt.Sprintf("the account has no bucket %q", name))
	}
	return b, nil
}

// unlisted returns nil if a bucket that was known may still be used, though the buckets cannot be listed for what why says: with look,
// if the bucket itself says that it is there.
func (a *Account) unlisted(ctx context.Context, op string, b *bucket, look bool, why error) error {
	if !look {
		return nil
	}
	_, err := a.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
	if regionIn(err) != "" {
		return nil
	}
	switch err = fail(ctx, op, b.name, err); {
	case err == nil, errors.Is(err, errs.Permission):
		return nil
	case errors.Is(err, errs.NotExist):
		return errs.New(op, b.name, errs.NotExist, fmt.Sprintf("the account has no bucket %q", b.name))
	}
	return why
}

// ask asks which buckets there are.
func (a *Account) ask(ctx context.Context, op string) (map[string]*bucket, error) {
	now := a.o.now()
	found := map[string]*bucket{}
	in := &s3.ListBucketsInput{MaxBuckets: aws.Int32(bucketPage)}
	for {
		out, err := a.client.ListBuckets(ctx, in)
		if err != nil {
			return nil, fail(ctx, op, "", err)
		}
		for _, x := range out.Buckets {
			b := &bucket{name: aws.ToString(x.Name), made: aws.ToTime(x.CreationDate), region: aws.ToString(x.BucketRegion)}
			if b.name != "" && !strings.Contains(b.name, "/") && !ufs.Staged(b.name) {
				found[b.name] = b
			}
		}
		token := aws.ToString(out.ContinuationToken)
		if token == "" {
			break
		}
		if token == aws.ToString(in.ContinuationToken) {
			return nil, errs.New(op, "", errs.Unavailable, "the listing of buckets does not advance")
		}
		in.ContinuationToken = &token
	}
	return a.take(ctx, op, now, found)
}

// take makes found, of a listing that was asked for at the time, what is known. A service may list what it has just removed, and leave out
// what is there: it is asked about such a bucket by itself, and one that was known goes only if it says that there is none. With a bucket
// goes whose it is and who may enter.
func (a *Account) take(ctx context.Context, op string, at time.Time, found map[string]*bucket) (map[string]*bucket, error) {
	a.buckets.Lock()
	var doubted []string
	for name, acted := range a.buckets.acted {
		switch {
		case at.Sub(acted) > ownWord:
			delete(a.buckets.acted, name)
		case (found[name] != nil) != (a.buckets.all[name] != nil):
			doubted = append(doubted, name)
		}
	}
	known := a.buckets.all
	for name := range known {
		if found[name] == nil && !slices.Contains(doubted, name) {
			doubted = append(doubted, name)
		}
	}
	a.buckets.Unlock()
	for _, name := range doubted {
		_, err := a.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
		elsewhere := regionIn(err) != ""
		switch err = fail(ctx, op, name, err); {
		case errors.Is(err, errs.NotExist):
			delete(found, name)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case found[name] == nil && known[name] != nil:
			found[name] = known[name]
		case err != nil && !elsewhere && !errors.Is(err, errs.Permission):
			return nil, err
		}
	}
	a.buckets.Lock()
	defer a.buckets.Unlock()
	if at.Before(a.buckets.at) {
		return a.buckets.all, nil // a later listing was faster
	}
	for name, b := range found {
		if was := a.buckets.all[name]; was != nil && was.made.Equal(b.made) {
			found[name] = was // with its Store
		}
	}
	for name, acted := range a.buckets.acted {
		if b := a.buckets.all[name]; acted.After(at) && b != nil {
			found[name] = b
		} else if acted.After(at) {
			delete(found, name)
		}
	}
	a.buckets.at, a.buckets.all = at, found
	return found, nil
}

// acted notes that the bucket of a name was made or, with nil, removed.
func (a *Account) acted(name string, b *bucket) {
	a.buckets.Lock()
	defer a.buckets.Unlock()
	all := map[string]*bucket{}
	maps.Copy(all, a.buckets.all)
	if all[name] = b; b == nil {
		delete(all, name)
	}
	a.buckets.all, a.buckets.acted[name] = all, a.o.now()
}

// open returns the bucket's Store.
func (a *Account) open(ctx context.Context, op string, b *bucket) (*Store, error) {
	b.mu.Lock()
	s := b.store
	b.mu.Unlock()
	if s != nil {
		return s, nil
	}
	o := a.o
	o.Bucket, o.traits = b.name, a.traits
	if service(o.Endpoint) == "aws" { // elsewhere regions are not places
		region, err := a.regionOf(ctx, op, b)
		if err != nil {
			return nil, err
		}
		o.Endpoint, o.Region = endpointIn(o.Endpoint, o.Region, region), region
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.store == nil {
		b.store = newStore(o)
	}
	return b.store, nil
}

// regionOf finds out where a bucket is. HeadBucket says so even where it refuses.
func (a *Account) regionOf(ctx context.Context, op string, b *bucket) (string, error) {
	if b.region != "" {
		return b.region, nil
	}
	out, err := a.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
	if err == nil && aws.ToString(out.BucketRegion) != "" {
		return *out.BucketRegion, nil
	}
	if region := regionIn(err); region != "" {
		return region, nil
	}
	at, err := a.client.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: &b.name})
	if err != nil {
		return "", fmt.Errorf("find the region of bucket %q: %w", b.name, fail(ctx, op, b.name, err))
	}
	switch at.LocationConstraint {
	case "":
		return "us-east-1", nil
	case "EU":
		return "eu-west-1", nil
	}
	return string(at.LocationConstraint), nil
}

// regionIn returns the region that a refusal names, "" if it names none.
func regionIn(err error) string {
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && r.Response != nil {
		return r.Response.Header.Get("X-Amz-Bucket-Region")
	}
	return ""
}

// endpointIn returns AWS's endpoint of another region than was. "" is for the SDK to find.
func endpointIn(endpoint, was, region string) string {
	u, err := url.Parse(endpoint)
	if endpoint == "" || err != nil || region == was {
		return endpoint
	}
	if host := strings.Replace(u.Host, "."+was+".", "."+region+".", 1); host != u.Host {
		u.Host = host
		return u.String()
	}
	return ""
}

// marker describes the bucket as the directory it is.
func (b *bucket) marker() ufs.Info {
	return ufs.Info{Name: b.name + "/", Dir: true, Marker: true, ModTime: b.made, Full: true, Attr: ufs.Attr{Marker: true}}
}

// within gives what a bucket's Store said of a name the name it has here.
func (b *bucket) within(in ufs.Info) ufs.Info {
	in.Name = b.name + "/" + in.Name
	return in
}

// stored is within for the answer to a change.
func (b *bucket) stored(op string, in ufs.Info, err error) (ufs.Info, error) {
	if err != nil {
		return ufs.Info{}, gone(op, b.name, errs.Invalid, err)
	}
	return b.within(in), nil
}

// Stat implements ufs.Store.
func (a *Account) Stat(ctx context.Context, name string) (ufs.Info, error) {
	if name == "" {
		return ufs.Info{Dir: true}, ctx.Err()
	}
	const op = "s3ufs.Stat"
	s, b, rest, err := a.in(ctx, op, name)
	switch {
	case err != nil:
		return ufs.Info{}, err
	case rest == "":
		return b.marker(), nil
	}
	in, err := s.Stat(ctx, rest)
	if err != nil {
		return in, gone(op, name, errs.NotExist, err)
	}
	return b.within(in), nil
}

// List implements ufs.Store. A flat listing of the root fails where one bucket cannot be listed: what is left out of a listing is taken for
// removed.
func (a *Account) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "s3ufs.List"
	return func(yield func(ufs.Info, error) bool) {
		if dir != "" {
			if err := ufs.CheckDir(a.Features(), op, dir); err != nil {
				yield(ufs.Info{}, err)
				return
			}
			name, rest, _ := split(dir)
			var s *Store
			b, err := a.find(ctx, op, name, false)
			if err == nil {
				s, err = a.open(ctx, op, b)
			}
			switch {
			case errors.Is(err, errs.NotExist):
			case err != nil:
				yield(ufs.Info{}, err)
			default:
				b.list(ctx, s, rest, after, flat, yield)
			}
			return
		}
		all, err := a.ask(ctx, op)
		if err != nil {
			yield(ufs.Info{}, err)
			return
		}
		for _, b := range inOrder(all) {
			if own := b.name + "/"; after > own && !strings.HasPrefix(after, own) {
				continue
			}
			if !flat {
				if b.name+"/" > after && !yield(b.marker(), nil) {
					return
				}
				continue
			}
			s, err := a.open(ctx, op, b)
			if err != nil {
				yield(ufs.Info{}, err)
				return
			}
			if !b.list(ctx, s, "", after, true, yield) {
				return
			}
		}
	}
}

// inOrder returns the buckets in the order of their names as directories.
func inOrder(all map[string]*bucket) []*bucket {
	return slices.SortedFunc(maps.Values(all), func(x, y *bucket) int { return strings.Compare(x.name+"/", y.name+"/") })
}

// list yields what is in the bucket's directory dir, and before that the bucket itself if dir is its root. It returns false if
// there is to be no more.
func (b *bucket) list(ctx context.Context, s *Store, dir, after string, flat bool, yield func(ufs.Info, error) bool) bool {
	own := b.name + "/"
	rest, inside := strings.CutPrefix(after, own)
	if !inside && after > own {
		return true
	}
	marker := dir == "" && after < own // it comes with the first answer, which says that the bucket is there
	if !inside {
		rest = ""
	}
	for in, err := range s.List(ctx, dir, rest, flat) {
		if _, none := errors.AsType[*noBucketError](err); none {
			return true
		}
		if err != nil {
			yield(ufs.Info{}, fmt.Errorf("bucket %q: %w", b.name, err))
			return false
		}
		if marker && !yield(b.marker(), nil) || !yield(b.within(in), nil) {
			return false
		}
		marker = false
	}
	return !marker || yield(b.marker(), nil)
}

// Open implements ufs.Store.
func (a *Account) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "s3ufs.Open"
	s, _, rest, err := a.in(ctx, op, name)
	if err != nil {
		return nil, err
	}
	r, err := s.Open(ctx, rest, off, n, version)
	return r, gone(op, name, errs.NotExist, err)
}

// Create implements ufs.Store.
func (a *Account) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	const op = "s3ufs.Create"
	s, rest, err := a.to(ctx, op, name)
	if err != nil {
		return nil, err
	}
	w, err := s.Create(ctx, rest, size, o)
	if err != nil {
		return nil, gone(op, name, errs.Invalid, err)
	}
	return &bucketWriter{w.(*writer), s.o.Bucket}, nil
}

// bucketWriter is a writer to a bucket of an account.
type bucketWriter struct {
	*writer
	bucket string
}

func (w *bucketWriter) Commit(ctx context.Context) (ufs.Info, error) {
	in, err := w.writer.Commit(ctx)
	return (&bucket{name: w.bucket}).stored("s3ufs.Commit", in, err)
}

// Remove implements ufs.Store. A bucket is removed if it is empty.
func (a *Account) Remove(ctx context.Context, name, version string) error {
	const op = "s3ufs.Remove"
	if name == "" {
		return errs.New(op, name, errs.Invalid, "the root of a store cannot be removed")
	}
	s, b, rest, err := a.in(ctx, op, name)
	switch {
	case errors.Is(err, errs.Unavailable):
		return &unsentError{err}
	case err != nil:
		return err
	case rest == "":
		return a.removeBucket(ctx, op, s, b)
	}
	return gone(op, name, errs.NotExist, s.Remove(ctx, rest, version))
}

func (a *Account) removeBucket(ctx context.Context, op string, s *Store, b *bucket) error {
	if !a.manage {
		return a.unmanaged(op, b.name)
	}
	_, err := s.client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &b.name}, s.ifRefused)
	switch err = fail(ctx, op, b.name, err); {
	case errors.Is(err, errs.Unavailable) && errors.Is(s.headBucket(ctx), errs.NotExist):
	case errors.Is(err, errs.NotEmpty):
		return errs.New(op, b.name+"/", errs.NotEmpty, "the bucket is not empty; versions of objects and unfinished uploads, which no listing shows, keep it too")
	case err != nil:
		return err
	}
	a.acted(b.name, nil)
	return nil
}

func (a *Account) unmanaged(op, name string) error {
	return errs.New(op, name, errs.Permission, "the mount's option manage_buckets=false forbids to make and remove buckets")
}

// RemoveFiles implements ufs.FileRemover.
func (a *Account) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	const op = "s3ufs.RemoveFiles"
	var buckets []string
	by := map[*Store][]ufs.Versioned{}
	for _, f := range files {
		s, b, rest, err := a.in(ctx, op, f.Name)
		switch {
		case errors.Is(err, errs.NotExist):
		case err != nil:
			return err
		case rest == "":
			buckets = append(buckets, b.name+"/")
		default:
			by[s] = append(by[s], ufs.Versioned{Name: rest, Version: f.Version})
		}
	}
	for s, in := range by {
		if err := gone(op, in[0].Name, errs.NotExist, s.RemoveFiles(ctx, in)); err != nil && !errors.Is(err, errs.NotExist) {
			return err
		}
	}
	for _, b := range buckets { // when what is in them has gone
		if err := a.Remove(ctx, b, ""); err != nil && !errors.Is(err, errs.NotExist) {
			return err
		}
	}
	return nil
}

// Mkdir implements ufs.Mkdirer: right below the root it makes a bucket, in the account's region. What is below a bucket that is not
// there is made with it.
func (a *Account) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	const op = "s3ufs.Mkdir"
	if err := ufs.CheckDir(a.Features(), op, name); err != nil || name == "" {
		return ufs.Info{Dir: true}, err
	}
	s, b, rest, err := a.in(ctx, op, name)
	if errors.Is(err, errs.NotExist) {
		bucket, _, _ := split(name)
		if err := a.makeBucket(ctx, op, bucket); err != nil {
			return ufs.Info{}, err
		}
		s, b, rest, err = a.in(ctx, op, name)
	}
	switch {
	case err != nil:
		return ufs.Info{}, err
	case rest == "":
		return b.marker(), nil
	}
	in, err := s.Mkdir(ctx, rest, attr)
	return b.stored(op, in, err)
}

func (a *Account) makeBucket(ctx context.Context, op, name string) error {
	if !a.manage {
		return a.unmanaged(op, name)
	}
	if why := bucketFault(name); why != "" {
		return errs.New(op, name+"/", errs.Invalid, "a directory right below the root of an account is a bucket, and "+why)
	}
	in := &s3.CreateBucketInput{Bucket: &name}
	if service(a.o.Endpoint) == "aws" && a.o.Region != "us-east-1" {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(a.o.Region)}
	}
	_, err := a.client.CreateBucket(ctx, in)
	if err != nil {
		// It may have been made by a request before this one, or by somebody else, and be ours.
		if all, aerr := a.ask(ctx, op); aerr != nil || all[name] == nil {
			return fail(ctx, op, name, err)
		}
		return nil
	}
	a.acted(name, &bucket{name: name, made: a.o.now().Truncate(time.Second), region: a.o.Region})
	return nil
}

// bucketFault says why name cannot be a bucket's, "" if it can.
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
func bucketFault(name string) string {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	switch _, err := netip.ParseAddr(name); {
	case len(name) < 3 || len(name) > 63:
		return fmt.Sprintf("a bucket's name has 3 to 63 characters, not the %d of %.80q", len(name), name)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" || strings.ContainsFunc(name, func(r rune) bool {
		return r > 0x7f || !alnum(byte(r)) && r != '.' && r != '-'
	}):
		return fmt.Sprintf("a bucket's name has lower-case letters, digits, dots and hyphens only, unlike %.80q", name)
	case !alnum(name[0]) || !alnum(name[len(name)-1]) || strings.Contains(name, ".."):
		return fmt.Sprintf("a bucket's name begins and ends with a letter or digit and has no two dots in a row, unlike %q", name)
	case err == nil:
		return fmt.Sprintf("a bucket's name is not an address, as %q is", name)
	}
	for _, p := range []string{"xn--", "sthree-", "amzn-s3-demo-"} {
		if strings.HasPrefix(name, p) {
			return fmt.Sprintf("names that begin with %q are reserved", p)
		}
	}
	for _, p := range []string{"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"} {
		if strings.HasSuffix(name, p) {
			return fmt.Sprintf("names that end in %q are reserved", p)
		}
	}
	return ""
}

// Copy implements ufs.Copier, within a bucket and from one to another.
func (a *Account) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	const op = "s3ufs.Copy"
	if err := errors.Join(ufs.CheckFile(a.Features(), op, from), ufs.CheckFile(a.Features(), op, to)); err != nil {
		return ufs.Info{}, err
	}
	src, _, name, err := a.in(ctx, op, from)
	if err != nil {
		return ufs.Info{}, err
	}
	dst, rest, err := a.to(ctx, op, to)
	if err != nil {
		return ufs.Info{}, err
	}
	if err := errors.Join(src.begin(ctx, op, name, ufs.CheckFile), dst.begin(ctx, op, rest, ufs.CheckFile)); err != nil {
		return ufs.Info{}, err
	}
	in, err := dst.copy(ctx, op, src, name, version, rest, attr)
	return (&bucket{name: dst.o.Bucket}).stored(op, in, err)
}

// SetAttr implements ufs.AttrSetter.
func (a *Account) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	const op = "s3ufs.SetAttr"
	s, b, rest, err := a.in(ctx, op, name)
	switch {
	case err != nil:
		return ufs.Info{}, err
	case rest == "":
		return ufs.Info{}, errs.New(op, name, errs.Unsupported, "a bucket keeps no attributes")
	}
	in, err := s.SetAttr(ctx, rest, version, attr)
	return b.stored(op, in, err)
}

// Begin implements ufs.Composer.
func (a *Account) Begin(ctx context.Context, name string, attr ufs.Attr) (string, error) {
	const op = "s3ufs.Begin"
	s, rest, err := a.to(ctx, op, name)
	if err != nil {
		return "", err
	}
	id, err := s.Begin(ctx, rest, attr)
	return id, gone(op, name, errs.Invalid, err)
}

// PutPart implements ufs.Composer.
func (a *Account) PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (string, error) {
	s, _, rest, err := a.in(ctx, "s3ufs.PutPart", name)
	if err != nil {
		return "", err
	}
	return s.PutPart(ctx, rest, id, number, size, r)
}

// CopyPart implements ufs.Composer.
func (a *Account) CopyPart(ctx context.Context, name, id string, number int, from, version string, off, n int64) (string, error) {
	const op = "s3ufs.CopyPart"
	src, _, source, err := a.in(ctx, op, from)
	if err != nil {
		return "", err
	}
	s, _, rest, err := a.in(ctx, op, name)
	if err != nil {
		return "", err
	}
	if err := errors.Join(src.begin(ctx, op, source, ufs.CheckFile), s.begin(ctx, op, rest, ufs.CheckFile)); err != nil {
		return "", err
	}
	return s.copyPart(ctx, op, rest, id, number, src.source(source), version, off, n)
}

// Complete implements ufs.Composer.
func (a *Account) Complete(ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions) (ufs.Info, error) {
	const op = "s3ufs.Complete"
	s, b, rest, err := a.in(ctx, op, name)
	if err != nil {
		return ufs.Info{}, err
	}
	in, err := s.Complete(ctx, rest, id, parts, o)
	return b.stored(op, in, err)
}

// Cancel implements ufs.Composer. Uploads go with their bucket.
func (a *Account) Cancel(ctx context.Context, name, id string) error {
	s, _, rest, err := a.in(ctx, "s3ufs.Cancel", name)
	if errors.Is(err, errs.NotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Cancel(ctx, rest, id)
}

// Lost implements ufs.Composer.
func (a *Account) Lost(ctx context.Context, name string, from, to time.Time) ([]string, error) {
	s, _, rest, err := a.in(ctx, "s3ufs.Lost", name)
	if errors.Is(err, errs.NotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.Lost(ctx, rest, from, to)
}

// CleanStaging implements ufs.Store, in every bucket that may be looked into: in the others nothing was staged by these keys.
func (a *Account) CleanStaging(ctx context.Context, live func(token string) bool) error {
	const op = "s3ufs.CleanStaging"
	all, err := a.ask(ctx, op)
	if err != nil {
		return err
	}
	var failed []error
	for _, b := range inOrder(all) {
		s, err := a.open(ctx, op, b)
		if err == nil {
			err = s.CleanStaging(ctx, live)
		}
		if err != nil && !errors.Is(err, errs.Permission) {
			failed = append(failed, fmt.Errorf("bucket %q: %w", b.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// Probe implements ufs.Prober. Which buckets can be read and written is for each of them to say when it is used. A service that is not
// AWS's own is asked whether it honours conditions in the first bucket that takes an object, if there is one
// among the first few: it writes one below .sluice/ and deletes it.
func (a *Account) Probe(ctx context.Context, write bool) error {
	const op = "s3ufs.Probe"
	all, err := a.ask(ctx, op)
	if err != nil {
		where := a.o.Endpoint
		if where == "" {
			where = "AWS"
		}
		return fmt.Errorf("list the buckets of the account at %s, which takes the permission s3:ListAllMyBuckets: %w", where, err)
	}
	if !write || a.learned.Load() {
		return nil
	}
	const most = 8
	tried := 0
	for _, b := range inOrder(all) {
		s, err := a.open(ctx, op, b)
		if err == nil {
			if err = s.probeWrite(ctx, op); err == nil {
				return nil
			}
		}
		if !errors.Is(err, errs.Permission) {
			return err
		}
		if tried++; tried == most || ctx.Err() != nil {
			break
		}
	}
	return ctx.Err() // buckets that may not be written say nothing of the others
}
