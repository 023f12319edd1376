// Package azureufs is the driver for Azure Blob Storage. A file of the store is a block blob of the same name below the
// mount's prefix and the same bytes; what Sluice keeps beside the bytes is in the blob's headers and metadata (attr.go). A
// version is the blob's ETag, which changes with its metadata too, and every change is conditional on it in the service
// itself. It passes ufs/ufstest.
//
// What is longer than 8 MiB is staged as blocks of the blob and committed as one list. Blocks that are never committed are
// seen by nobody, and dropped by the service: after a week, or when something else is committed under the name, which fails
// the write that staged them. Nothing is tried twice.
package azureufs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Options name a container and how to reach it.
type Options struct {
	Account   string
	Container string
	Prefix    string // of every name: "" or a name; a "/" at the end is added
	Endpoint  string // URL of the account's blob service; "": https://ACCOUNT.blob.core.windows.net
	Key       string // of the account, in base64
	SAS       string // a shared access signature, in place of the key
	Anonymous bool   // neither, for a public container
	// Client sends the requests; nil makes one with an own pool of connections. It must not follow redirects.
	Client *http.Client
}

// Limits of the service.
// Source: https://learn.microsoft.com/azure/storage/blobs/scalability-targets
const (
	maxKey      = 1024
	maxSegments = 254
	maxBlocks   = 50_000
	maxPutCopy  = 256 << 20 // bytes of a copy that ends with its answer
)

// Store is a ufs.Store in a container. It is flat, copies on its own side, composes, and makes marker blobs.
type Store struct {
	o         Options
	container *container.Client
	prefix    string // "" or ending in "/"
	root      string // identity of the store's root, for Features
}

// Open returns the store in the container. It does not talk to it: see Probe. Errors: errs.Invalid.
func Open(o Options) (*Store, error) {
	const op = "azureufs.Open"
	given := 0
	for _, is := range []bool{o.Key != "", o.SAS != "", o.Anonymous} {
		if is {
			given++
		}
	}
	switch {
	case o.Account == "" || o.Container == "":
		return nil, errs.New(op, "", errs.Invalid, "an account and a container are needed; write azure://container@account/prefix")
	case len(o.Prefix) >= maxKey/2:
		return nil, errs.New(op, "", errs.Invalid, fmt.Sprintf("the prefix has %d bytes, which leaves too few of a name's %d", len(o.Prefix), maxKey))
	case given != 1:
		return nil, errs.New(op, "", errs.Invalid, "exactly one of the options account_key, sas, connection_string and anonymous=true is needed")
	}
	if o.Endpoint == "" {
		o.Endpoint = "https://" + o.Account + ".blob.core.windows.net"
	}
	at, err := web.Endpoint(op, o.Endpoint)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(at.Hostname()); !o.Anonymous && at.Scheme != "https" && at.Hostname() != "localhost" && !ip.IsLoopback() {
		return nil, errs.New(op, "", errs.Invalid, "the endpoint must be https: a signature that goes along could be read and used by others")
	}
	if o.Client == nil {
		o.Client = web.NewClient()
	}
	s := &Store{o: o, prefix: o.Prefix}
	if s.prefix != "" && !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	s.root = "azure:" + web.Service(at) + strings.TrimRight(at.Path, "/") + "/" + o.Container + "/" + s.prefix
	co := &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: o.Client, Retry: policy.RetryOptions{MaxRetries: -1}, Telemetry: policy.TelemetryOptions{Disabled: true},
		PerRetryPolicies: []policy.Policy{inTurn{}},
	}}
	to := strings.TrimRight(at.String(), "/") + "/" + url.PathEscape(o.Container)
	switch {
	case o.Key != "":
		if _, err := base64.StdEncoding.DecodeString(o.Key); err != nil {
			return nil, errs.New(op, "", errs.Invalid, "the option account_key is not in base64")
		}
		cred, cerr := blob.NewSharedKeyCredential(o.Account, o.Key)
		if cerr != nil {
			return nil, errs.New(op, "", errs.Invalid, "the account's key cannot be used")
		}
		s.container, err = container.NewClientWithSharedKeyCredential(to, cred, co)
	case o.SAS != "":
		s.o.SAS = strings.TrimPrefix(o.SAS, "?")
		if q, qerr := url.ParseQuery(s.o.SAS); qerr != nil || q.Get("sig") == "" {
			return nil, errs.New(op, "", errs.Invalid, "the option sas is no shared access signature: it has no sig=")
		}
		s.container, err = container.NewClientWithNoCredential(to+"?"+s.o.SAS, co)
	default:
		s.container, err = container.NewClientWithNoCredential(to, co)
	}
	if err != nil { // it may tell the credential
		return nil, errs.New(op, "", errs.Invalid, "the container's address and credential cannot be used")
	}
	return s, nil
}

// OpenURI is the ufs.Opener of the schemes "azure", "wasb", "wasbs", "abfs" and "abfss": SCHEME://container@account/prefix, where the
// account may be written with its domain, with one of the options account_key, sas, connection_string and anonymous, and
// endpoint. It talks HTTPS by every scheme unless the endpoint says otherwise.
func OpenURI(_ context.Context, uri *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "azureufs.Open"
	if err := ufs.CheckOptions(op, options, "endpoint", "account_key", "sas", "connection_string", "anonymous"); err != nil {
		return nil, err
	}
	if uri.Port() != "" {
		return nil, errs.New(op, "", errs.Invalid, "the URI names an account, not a server; give the option endpoint for another port")
	}
	account, domain, _ := strings.Cut(uri.Hostname(), ".")
	o := Options{
		Account: account, Prefix: strings.TrimPrefix(uri.Path, "/"), Endpoint: options["endpoint"], Key: options["account_key"], SAS: options["sas"],
	}
	if uri.User != nil {
		o.Container = uri.User.Username()
	}
	if rest, ok := strings.CutPrefix(domain, "dfs."); ok {
		domain = "blob." + rest // the other name of the same account
	}
	if v, ok := options["anonymous"]; ok {
		var err error
		if o.Anonymous, err = strconv.ParseBool(v); err != nil {
			return nil, errs.New(op, "", errs.Invalid, "the option anonymous must be true or false")
		}
	}
	if c := options["connection_string"]; c != "" {
		if o.Key != "" || o.SAS != "" {
			return nil, errs.New(op, "", errs.Invalid, "exactly one of the options account_key, sas, connection_string and anonymous=true is needed")
		}
		if err := o.connect(op, c); err != nil {
			return nil, err
		}
	}
	if o.Endpoint == "" && domain != "" {
		o.Endpoint = "https://" + account + "." + domain
	}
	return Open(o)
}

// connect takes over what a connection string says: the account must be that of the URI, an endpoint given goes first.
func (o *Options) connect(op, text string) error {
	parts := map[string]string{}
	for part := range strings.SplitSeq(strings.TrimSpace(text), ";") {
		if part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return errs.New(op, "", errs.Invalid, "the option connection_string is not NAME=VALUE pairs with ; between them")
		}
		parts[strings.ToLower(strings.TrimSpace(name))] = value
	}
	if strings.EqualFold(parts["usedevelopmentstorage"], "true") {
		return errs.New(op, "", errs.Invalid, "the option connection_string names no account; of an emulator give endpoint and account_key")
	}
	if a := parts["accountname"]; a != "" && a != o.Account {
		return errs.New(op, "", errs.Invalid, "the option connection_string is of another account than the URI")
	}
	o.Key, o.SAS = parts["accountkey"], parts["sharedaccesssignature"]
	switch {
	case o.Endpoint != "":
	case parts["blobendpoint"] != "":
		o.Endpoint = parts["blobendpoint"]
	case parts["endpointsuffix"] != "":
		scheme := parts["defaultendpointsprotocol"]
		if scheme == "" {
			scheme = "https"
		}
		o.Endpoint = scheme + "://" + o.Account + ".blob." + parts["endpointsuffix"]
	}
	return nil
}

// Features implements ufs.Store. The service may take "\" for "/", and drop the dot at a segment's end: what is written under one
// name would change the other, so that no such name is used.
func (s *Store) Features() ufs.Features {
	return ufs.Features{
		Kind: "azure", Root: s.root, Remote: true, Flat: true, Conditional: true, Attrs: true, NoChars: `\`, NoDotEnd: true, MaxKey: maxKey - len(s.prefix),
		Mkdir: true, Copy: true, SetAttr: true, Compose: true, RemoveFiles: true, Probe: true, Mark: true,
	}
}

// Close implements ufs.Store.
func (s *Store) Close() error {
	s.o.Client.CloseIdleConnections()
	return nil
}

func (s *Store) blob(name string) *blockblob.Client {
	return s.container.NewBlockBlobClient(s.prefix + name)
}

// begin judges what every method is given.
func (s *Store) begin(ctx context.Context, op, name string, check func(f ufs.Features, op, name string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(s.Features(), op, name); err != nil {
		return err
	}
	if strings.Count(s.prefix+name, "/") >= maxSegments {
		return errs.New(op, name, errs.Invalid, fmt.Sprintf("the name has more than the %d segments that the service takes", maxSegments))
	}
	return nil
}

// change sends a request that others can see the outcome of. An error says if it has not been carried out (ufs.ErrUnsent).
func (s *Store) change(ctx context.Context, op, name string, do func(ctx context.Context) error) error {
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	var sent web.Sent
	err := do(sent.Watch(ctx))
	if err == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	kind, cause := classify(err)
	if !sent.Unclear(statusOf(err)) {
		cause = web.Unsent(cause)
	}
	return errs.E(op, name, kind, cause)
}

// condition returns what makes a request conditional on a version ("": none), or, with absent, on the blob's absence.
func condition(version string, absent bool) *blob.AccessConditions {
	m := &blob.ModifiedAccessConditions{}
	switch {
	case absent:
		any := azcore.ETagAny
		m.IfNoneMatch = &any
	case version != "":
		tag := azcore.ETag(quoted(version))
		m.IfMatch = &tag
	default:
		return nil
	}
	return &blob.AccessConditions{ModifiedAccessConditions: m}
}

// quoted returns a version as the ETag it is. What can be none matches nothing.
func quoted(version string) string {
	if strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		version = "0x0"
	}
	return `"` + version + `"`
}

func tag(e *azcore.ETag) string {
	if e == nil {
		return ""
	}
	return strings.Trim(string(*e), `"`)
}

// judged names the outcome of a condition as the interface does.
func judged(err error, o ufs.CreateOptions) error {
	e, ok := errors.AsType[*errs.Error](err)
	switch {
	case !ok:
	case o.IfNew && (e.Kind == errs.Precondition || e.Kind == errs.Exist):
		return errs.E(e.Op, e.Name, errs.Exist, e.Err)
	case o.IfVersion != "" && (e.Kind == errs.NotExist || e.Kind == errs.Exist):
		return errs.E(e.Op, e.Name, errs.Precondition, e.Err)
	}
	return err
}
