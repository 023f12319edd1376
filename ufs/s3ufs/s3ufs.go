// Package s3ufs is the driver for S3 and what speaks it. A file of the store is an object of the same key below the
// mount's prefix and the same bytes; what Sluice keeps beside the bytes is in content headers and user metadata (attr.go).
// It passes ufs/ufstest.
//
// A file of known length up to 5 GiB is one PutObject, so that its ETag is S3's MD5; its last bytes are held back until
// Commit. What is longer, or of unknown length and beyond 8 MiB, is a multipart upload completed at Commit. Nothing that
// S3 would do a second time with another outcome is retried: an unclear answer to a conditional write, a Complete or a
// streamed body is errs.Unavailable.
package s3ufs

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Options name a bucket and how to reach it.
type Options struct {
	Bucket       string
	Prefix       string // of every key: "" or a name; a "/" at the end is added
	Endpoint     string // URL of the service; "": AWS
	Region       string // "": us-east-1
	AccessKey    string
	SecretKey    string
	SessionToken string // of temporary credentials
	Anonymous    bool   // requests are not signed
	PathStyle    bool   // http://host/bucket/key, for services without a domain name per bucket
	// Client sends the requests; nil makes one with an own pool of connections. It must not follow redirects: a signed
	// request belongs to the host it was signed for.
	Client *http.Client

	backoff time.Duration // longest pause before a retry; 0: 200 ms
	settle  time.Duration // 0: ufs.Settle
	now     func() time.Time
	uploads *uploads // nil: those of this process; else the Store acts as another process does
	traits  *traits  // nil: none are known
}

// traits are what has been found out about a service, whichever of its buckets it was learned from.
type traits struct {
	// Whether conditions on PutObject, and on DeleteObject, are honoured. Probe finds out, or the first write that has one;
	// until then only AWS itself is trusted to.
	condPut, condDelete, learned atomic.Bool
	// Whether the service takes an odd name for another, and whether that is known: see names.go.
	folds, named atomic.Bool
}

// Limits of the protocol.
// Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const (
	maxKey    = 1024 // bytes
	maxPut    = 5 << 30
	maxObject = 5 << 40
	maxParts  = 10_000
	maxDelete = 1000 // keys of one DeleteObjects
)

// maxTries is how often a request is sent that may be sent again.
const maxTries = 3

// Store is a ufs.Store in a bucket. It is flat, copies on its own side, composes, and makes marker objects.
type Store struct {
	o      Options
	client *s3.Client
	short  short
	prefix string // "" or ending in "/"
	root   string // identity of the store's root, for Features
	*uploads
	*traits

	mu     sync.Mutex
	bucket time.Time // when the bucket was last known to exist
}

// Open returns the store in the bucket o.Bucket. It does not talk to it: see Probe. Errors: errs.Invalid.
func Open(o Options) (*Store, error) {
	const op = "s3ufs.Open"
	if o.Bucket == "" {
		return nil, errs.New(op, "", errs.Invalid, "a bucket is needed; write s3://bucket, s3://bucket/prefix or, for all of the account, s3://*")
	}
	if err := check(o); err != nil {
		return nil, errs.E(op, o.Bucket, errs.Invalid, err)
	}
	return newStore(o), nil
}

func newStore(o Options) *Store {
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.Client == nil {
		o.Client = web.NewClient()
	}
	if o.backoff == 0 {
		// Callers retry too: of a service that is down they must hear before their own clients give up.
		o.backoff = 200 * time.Millisecond
	}
	if o.settle == 0 {
		o.settle = ufs.Settle
	}
	if o.now == nil {
		o.now = time.Now
	}
	s := &Store{o: o, prefix: o.Prefix, traits: o.traits}
	if s.traits == nil {
		s.traits = &traits{}
	}
	if s.prefix != "" && !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	s.root = "s3:" + service(o.Endpoint) + "/" + o.Bucket + "/" + s.prefix
	if s.uploads = o.uploads; s.uploads == nil {
		s.uploads = uploadsOf(s.root)
	}
	so := s3.Options{
		Region: o.Region, UsePathStyle: o.PathStyle, HTTPClient: o.Client,
		// The older services do not know the checksums that the SDK adds by default.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		Retryer:                    retry.NewStandard(func(r *retry.StandardOptions) { r.MaxAttempts, r.MaxBackoff = maxTries, o.backoff }),
	}
	so.APIOptions = append(so.APIOptions, s.noteUnsent)
	if !o.Anonymous {
		so.APIOptions = append(so.APIOptions, hashed)
	}
	if o.Endpoint != "" {
		so.BaseEndpoint = &o.Endpoint
	} else {
		s.condPut.Store(true)
		s.condDelete.Store(true)
		s.learned.Store(true)
		s.named.Store(true)
	}
	so.Credentials = aws.AnonymousCredentials{}
	if !o.Anonymous {
		so.Credentials = credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	s.client, s.short.o = s3.New(so), o
	return s
}

func check(o Options) error {
	switch {
	case len(o.Prefix) >= maxKey/2:
		return fmt.Errorf("the prefix has %d bytes, which leaves too few of a key's %d", len(o.Prefix), maxKey)
	case !o.Anonymous && (o.AccessKey == "" || o.SecretKey == ""):
		return fmt.Errorf("credentials are needed: the options access_key and secret_key, " +
			"the environment's AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the option anonymous=true")
	}
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
			return fmt.Errorf("the endpoint must be a URL like https://host:port, without user, query and fragment")
		}
	}
	return nil
}

// OpenURI is the ufs.Opener of the scheme "s3": s3://bucket/prefix with the options endpoint, region, access_key,
// secret_key, session_token, path_style and anonymous, or s3://* for all buckets of the account, with manage_buckets besides.
// Without keys those of the environment are used. The options events (webhook) and events_token are for who mounts it.
func OpenURI(_ context.Context, uri *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "s3ufs.Open"
	err := ufs.CheckOptions(op, options,
		"endpoint", "region", "access_key", "secret_key", "session_token", "path_style", "anonymous", "manage_buckets", ufs.EventsOption, ufs.EventsTokenOption)
	if err == nil {
		err = ufs.CheckEvents(op, options, "webhook")
	}
	if err != nil {
		return nil, err
	}
	o := Options{
		Bucket: uri.Host, Prefix: strings.TrimPrefix(uri.Path, "/"), Endpoint: options["endpoint"],
		Region: options["region"], AccessKey: options["access_key"], SecretKey: options["secret_key"],
		SessionToken: options["session_token"],
	}
	account, manage := uri.Host == allBuckets, true
	for key, flag := range map[string]*bool{"path_style": &o.PathStyle, "anonymous": &o.Anonymous, "manage_buckets": &manage} {
		if v, ok := options[key]; ok {
			if *flag, err = strconv.ParseBool(v); err != nil {
				return nil, errs.New(op, "", errs.Invalid, "the option "+key+" must be true or false")
			}
		}
	}
	if o.AccessKey == "" && o.SecretKey == "" && !o.Anonymous {
		o.AccessKey, o.SecretKey = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
		o.SessionToken = os.Getenv("AWS_SESSION_TOKEN")
	}
	if _, set := options["manage_buckets"]; set && !account {
		return nil, errs.New(op, o.Bucket, errs.Invalid, "the option manage_buckets is for all buckets of an account, s3://*")
	}
	if account {
		if o.Prefix != "" {
			return nil, errs.New(op, "", errs.Invalid, "s3://* is all buckets of the account, and has no path")
		}
		o.Bucket = ""
		return OpenAccount(o, manage)
	}
	return Open(o)
}

// Features implements ufs.Store. Conditional may become true in Probe, or with the first conditional write; OddNames
// false in Probe, or with the first odd name.
func (s *Store) Features() ufs.Features {
	return ufs.Features{
		Kind: "s3", Root: s.root, Remote: true, Flat: true, Conditional: s.condPut.Load(), OddNames: !s.folds.Load(), MD5ETag: true, Attrs: true,
		MaxKey: maxKey - len(s.prefix), Mkdir: true, Copy: true, SetAttr: true, Compose: true, RemoveFiles: true, Probe: true, Mark: true,
	}
}

// Close implements ufs.Store.
func (s *Store) Close() error {
	s.o.Client.CloseIdleConnections()
	return nil
}

// key returns the object key of name.
func (s *Store) key(name string) *string { return aws.String(s.prefix + name) }

// begin judges what every method is given.
func (s *Store) begin(
	ctx context.Context, op, name string, check func(f ufs.Features, op, name string) error,
) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.named.Load() && odd(name) {
		if err := s.learnNames(ctx, op); err != nil {
			return err
		}
	}
	return check(s.Features(), op, name)
}

// once turns off the retries of a request that must not be sent twice, or cannot be.
func once(o *s3.Options) { o.Retryer = aws.NopRetryer{} }
