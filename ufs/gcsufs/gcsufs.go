// Package gcsufs is the driver for Google Cloud Storage, by its JSON API. A file of the store is an object of the same name
// below the mount's prefix and the same bytes; what Sluice keeps beside the bytes is in the object's fields and metadata
// (attr.go). It passes ufs/ufstest.
//
// A version is `generation|metageneration`: the first stands for the bytes and is what changes are conditional on, the second
// is moved by a change of the attributes alone. What is longer than 8 MiB is a resumable upload, which is visible when it ends;
// a multipart upload is objects that are composed at its end. Nothing is tried twice.
package gcsufs

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Options name a bucket and how to reach it.
type Options struct {
	Bucket      string
	Prefix      string // of every name: "" or a name; a "/" at the end is added
	Endpoint    string // URL of the service; "": https://storage.googleapis.com
	Credentials string // the JSON of a service account's key
	Anonymous   bool   // requests carry no token
	// Client sends the requests; nil makes one with an own pool of connections. It must not follow redirects.
	Client *http.Client
}

const google = "https://storage.googleapis.com"

// Limits of the service.
// Source: https://cloud.google.com/storage/quotas
const (
	maxKey    = 1024
	maxObject = 5 << 40
	maxSource = 32 // objects of one composition
	pageSize  = 1000
)

// Store is a ufs.Store in a bucket. It is flat, copies on its own side, composes, and makes marker objects.
type Store struct {
	o      Options
	at     *url.URL // of the service, without a "/" at the end
	prefix string   // "" or ending in "/"
	root   string   // identity of the store's root, for Features
	token  *token   // nil: requests carry none

	mu    sync.Mutex
	there time.Time // when the bucket was last known to exist
}

// Open returns the store in the bucket o.Bucket. It does not talk to it: see Probe. Errors: errs.Invalid.
func Open(o Options) (*Store, error) {
	const op = "gcsufs.Open"
	switch {
	case o.Bucket == "":
		return nil, errs.New(op, "", errs.Invalid, "a bucket is needed; write gs://bucket or gs://bucket/prefix")
	case len(o.Prefix) >= maxKey/2:
		return nil, errs.New(op, "", errs.Invalid, fmt.Sprintf("the prefix has %d bytes, which leaves too few of a name's %d", len(o.Prefix), maxKey))
	case (o.Credentials == "") != o.Anonymous:
		return nil, errs.New(op, "", errs.Invalid, "either the option credentials, with the JSON of a service account's key, or anonymous=true is needed")
	}
	if o.Endpoint == "" {
		o.Endpoint = google
	}
	at, err := web.Endpoint(op, o.Endpoint)
	if err != nil {
		return nil, err
	}
	at.Path, at.RawPath = strings.TrimRight(at.Path, "/"), ""
	s := &Store{o: o, at: at, prefix: o.Prefix}
	if o.Credentials != "" {
		if ip := net.ParseIP(at.Hostname()); at.Scheme != "https" && at.Hostname() != "localhost" && !ip.IsLoopback() {
			return nil, errs.New(op, "", errs.Invalid, "the endpoint must be https: the token that goes along could be read by others")
		}
		if s.token, err = newToken(op, o.Credentials); err != nil {
			return nil, err
		}
	}
	if s.o.Client == nil {
		s.o.Client = web.NewClient()
	}
	if s.prefix != "" && !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	s.root = "gs:" + web.Service(at) + at.Path + "/" + o.Bucket + "/" + s.prefix
	return s, nil
}

// OpenURI is the ufs.Opener of the scheme "gs": gs://bucket/prefix with the options endpoint, credentials and anonymous.
func OpenURI(_ context.Context, uri *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "gcsufs.Open"
	if err := ufs.CheckOptions(op, options, "endpoint", "credentials", "anonymous"); err != nil {
		return nil, err
	}
	o := Options{Bucket: uri.Host, Prefix: strings.TrimPrefix(uri.Path, "/"), Endpoint: options["endpoint"], Credentials: options["credentials"]}
	if v, ok := options["anonymous"]; ok {
		var err error
		if o.Anonymous, err = strconv.ParseBool(v); err != nil {
			return nil, errs.New(op, "", errs.Invalid, "the option anonymous must be true or false")
		}
	}
	return Open(o)
}

// Features implements ufs.Store.
func (s *Store) Features() ufs.Features {
	return ufs.Features{
		Kind: "gcs", Root: s.root, Remote: true, Flat: true, Conditional: true, OddNames: true, Attrs: true, MaxKey: maxKey - len(s.prefix),
		Mkdir: true, Copy: true, SetAttr: true, Compose: true, RemoveFiles: true, Probe: true, Mark: true,
	}
}

// Close implements ufs.Store.
func (s *Store) Close() error {
	s.o.Client.CloseIdleConnections()
	return nil
}

// begin judges what every method is given.
func (s *Store) begin(ctx context.Context, op, name string, check func(f ufs.Features, op, name string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(s.Features(), op, name); err != nil {
		return err
	}
	switch {
	case strings.ContainsAny(name, "\r\n"):
		return errs.New(op, name, errs.Invalid, "Cloud Storage holds no name with a line end")
	case s.prefix == "" && (name == "." || name == ".."):
		return errs.New(op, name, errs.Invalid, `Cloud Storage holds no object named "." or ".."`)
	case strings.HasPrefix(s.prefix+name, ".well-known/acme-challenge/"):
		return errs.New(op, name, errs.Invalid, "Cloud Storage holds no name below .well-known/acme-challenge/")
	}
	return nil
}

// token signs the requests of a service account: each carries a token that the account's own key has signed, so that nobody
// else need be asked for one.
// Source: https://developers.google.com/identity/protocols/oauth2/service-account#jwt-auth
type token struct {
	email, id string
	key       *rsa.PrivateKey

	mu    sync.Mutex
	text  string
	until time.Time // when another is made
}

func newToken(op, credentials string) (*token, error) {
	var c struct {
		Type       string `json:"type"`
		Email      string `json:"client_email"`
		KeyID      string `json:"private_key_id"`
		PrivateKey string `json:"private_key"`
	}
	// What is wrong is not repeated: it may be the key.
	if json.Unmarshal([]byte(credentials), &c) != nil || c.Type != "service_account" || c.Email == "" {
		return nil, errs.New(op, "", errs.Invalid, "the option credentials is not the JSON of a service account's key")
	}
	bad := errs.New(op, "", errs.Invalid, "the private_key in the option credentials is no RSA key in PEM")
	block, _ := pem.Decode([]byte(c.PrivateKey))
	if block == nil {
		return nil, bad
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if key, ok := key.(*rsa.PrivateKey); ok {
			return &token{email: c.Email, id: c.KeyID, key: key}, nil
		}
	} else if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return &token{email: c.Email, id: c.KeyID, key: key}, nil
	}
	return nil, bad
}

// bearer returns a token that is valid for some minutes at least.
func (t *token) bearer(now time.Time) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.until) {
		return t.text, nil
	}
	const life = time.Hour
	encode := func(v any) string {
		b, _ := json.Marshal(v) // maps of strings and numbers have no failure
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := encode(map[string]string{"alg": "RS256", "typ": "JWT", "kid": t.id}) + "." + encode(map[string]any{
		"iss": t.email, "sub": t.email, "aud": google + "/", "iat": now.Unix(), "exp": now.Add(life).Unix(),
	})
	sum := sha256.Sum256([]byte(text))
	signed, err := rsa.SignPKCS1v15(rand.Reader, t.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", err
	}
	t.text, t.until = text+"."+base64.RawURLEncoding.EncodeToString(signed), now.Add(life-10*time.Minute)
	return t.text, nil
}
