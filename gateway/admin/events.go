package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Feed says how a mount's store tells of changes.
type Feed struct {
	Kind    string     `json:"kind" enum:"inotify,hdfs,webhook"`
	State   string     `json:"state" doc:"live; waiting for a first event; starting; or why not all is told."`
	Live    bool       `json:"live" doc:"All changes are told, as far as the feed itself can know."`
	Events  int64      `json:"events" doc:"That concerned names of the mount, since this leader began."`
	Own     int64      `json:"own" doc:"Those among them that told of a write through Sluice, for which the store was not asked."`
	Gaps    int64      `json:"gaps" doc:"Times that events may have been lost."`
	Rescans int64      `json:"rescans" doc:"Comparisons of the mount, or of a directory of it, because of that."`
	Pending int64      `json:"pending" doc:"Names that are to be compared."`
	Last    *time.Time `json:"last,omitempty" doc:"When the last event came."`
	Lag     float64    `json:"lag" doc:"Seconds from the last event, by the store's clock where it tells the time, until its name was compared."`
	Confirm string     `json:"confirm,omitempty" doc:"Address at which the subscription that sends events waits to be confirmed."`
}

// Taken says what became of the events of a request.
type Taken struct {
	Taken   int      `json:"taken" doc:"Of names in mounts: compared with the store, or to be with the next access."`
	Outside int      `json:"outside" doc:"Of a mount's bucket, but not below the mount's prefix."`
	Ignored int      `json:"ignored" doc:"That say of no object that it was written or removed."`
	Unknown []string `json:"unknown" nullable:"false" doc:"Stores that no mount has with whose events it can be told."`
}

const (
	eventsPath  = base + "/events/s3"
	tokenHeader = "X-Events-Token" //nolint:gosec // its name
	maxEvents   = 1 << 20          // bytes of a request; SNS, EventBridge and SQS end at 256 KiB
)

func (s *Server) registerEvents() {
	o := clusterOperation("TellS3", http.MethodPost, eventsPath, "Tell of changes in a bucket: an event notification of S3, EventBridge, SNS or MinIO")
	o.MaxBodyBytes = maxEvents
	o.Description = "For a superuser, or who knows the events_token of the mount: as `Authorization: Bearer`, `" + tokenHeader + "` or the query `token`."
	huma.Register(s.api, o, s.tellS3)
}

// withToken takes the token of a request that tells of changes to where it is passed on. It is no proof of who calls; false says
// that there is none.
func withToken(r *http.Request) (*http.Request, bool) {
	if r.URL.Path != eventsPath {
		return r, false
	}
	query := r.URL.Query()
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case bearer:
	case r.Header.Get(tokenHeader) != "":
		token = r.Header.Get(tokenHeader)
	default:
		token = query.Get("token")
	}
	r = r.Clone(r.Context())
	query.Del("token")
	r.URL.RawQuery = query.Encode()
	r.Header.Del(tokenHeader)
	if token == "" {
		return r, false
	}
	r.Header.Set(tokenHeader, token)
	return r, true
}

func (s *Server) tellS3(ctx context.Context, in *struct {
	Token   string `header:"X-Events-Token" doc:"The events_token of the mount; see the other ways above."`
	RawBody []byte
}) (*body[Taken], error) {
	if s.o.Feeds == nil {
		return nil, failed(ctx, absent("TellS3"))
	}
	denied := func(err error) error {
		if errs.KindOf(err) == errs.Permission {
			return failedAs(ctx, err, func(err error) huma.StatusError { return huma.Error401Unauthorized(err.Error()) })
		}
		return failed(ctx, err)
	}
	if err := s.o.Feeds.MayTell(ctx, in.Token); err != nil {
		return nil, denied(err)
	}
	n, err := parseEvents(in.RawBody)
	if err != nil {
		return nil, failed(ctx, err)
	}
	if n.confirm != "" {
		if err := s.o.Feeds.Subscribed(ctx, in.Token, n.confirm); err != nil {
			return nil, denied(err)
		}
	}
	out := &body[Taken]{Taken{Ignored: n.ignored, Unknown: []string{}}}
	if len(n.hints) == 0 {
		return out, nil
	}
	t, err := s.o.Feeds.Told(ctx, in.Token, n.hints)
	if err != nil {
		return nil, denied(err)
	}
	if t.Taken+t.Outside == 0 {
		return nil, failed(ctx, errs.New("admin.TellS3", strings.Join(t.Unknown, ", "), errs.NotExist,
			"no mount of such a bucket has events=webhook and this token; see `sluice mount ls`"))
	}
	out.Body.Taken, out.Body.Outside, out.Body.Unknown = t.Taken, t.Outside, append(out.Body.Unknown, t.Unknown...)
	return out, nil
}

// notification is what a request tells.
type notification struct {
	hints   []core.Hint
	ignored int
	confirm string
}

// eventBody is all that is read of the known forms; their fields do not clash.
type eventBody struct {
	// S3 and MinIO. Source: docs.aws.amazon.com/AmazonS3, "Event message structure".
	Records []struct {
		EventName, EventTime string
		S3                   struct {
			Bucket struct{ Name string }
			Object eventObject
		}
	}
	EventName, Key string // MinIO, beside its Records: bucket/key
	Event          string // s3:TestEvent

	// EventBridge. Source: the same, "EventBridge event message structure".
	DetailType string `json:"detail-type"`
	Time       string
	Detail     struct {
		Bucket struct{ Name string }
		Object eventObject
	}

	// SNS. Source: docs.aws.amazon.com/sns, "Parsing Amazon SNS message formats".
	Type, Message, SubscribeURL string
}

// eventObject is what is told of an object. Of what is more than a hint nothing is demanded.
type eventObject struct {
	Key  string
	ETag any // a string
	Size any // a number of bytes
}

// parseEvents reads an event notification. Errors: errs.Invalid.
func parseEvents(b []byte) (n notification, err error) {
	return parseEnvelope(b, true)
}

func parseEnvelope(b []byte, envelope bool) (n notification, err error) {
	var in eventBody
	if json.Unmarshal(b, &in) != nil { // its error repeats what may be a secret
		return n, errNoEvents
	}
	switch {
	case len(in.Records) > 0:
		for _, r := range in.Records {
			n.add(r.EventName, r.S3.Bucket.Name, r.S3.Object, true, r.EventTime)
		}
	case in.Detail.Bucket.Name != "":
		n.add(in.DetailType, in.Detail.Bucket.Name, in.Detail.Object, false, in.Time)
	case in.EventName != "" && in.Key != "":
		bucket, key, _ := strings.Cut(in.Key, "/")
		n.add(in.EventName, bucket, eventObject{Key: key}, true, "")
	case in.Event == "s3:TestEvent":
		n.ignored++
	case envelope && in.Type == "Notification":
		return parseEnvelope([]byte(in.Message), false)
	case envelope && in.Type == "SubscriptionConfirmation":
		if !ofSNS(in.SubscribeURL) {
			return n, errs.New("admin.TellS3", "", errs.Invalid, "the address that is to confirm the subscription is not one of SNS")
		}
		n.ignored, n.confirm = 1, in.SubscribeURL
	case envelope && in.Type == "UnsubscribeConfirmation":
		n.ignored++
	default:
		return n, errNoEvents
	}
	return n, nil
}

var errNoEvents = errs.New("admin.TellS3", "", errs.Invalid,
	"the body is no event notification: the JSON of S3, EventBridge, SNS or MinIO is")

// add takes one event. escaped says that the key is written as in a query; as not all servers do that, a key for which it makes
// a difference is taken both ways: a hint too many costs a question.
func (n *notification) add(name, bucket string, o eventObject, escaped bool, at string) {
	key := o.Key
	name = strings.TrimPrefix(name, "s3:")
	removed := strings.HasPrefix(name, "ObjectRemoved:") || strings.HasPrefix(name, "LifecycleExpiration:") || name == "Object Deleted"
	if !removed && !strings.HasPrefix(name, "ObjectCreated:") && name != "Object Created" || bucket == "" || key == "" {
		n.ignored++ // among them those of reads, of which Sluice's own questions make some
		return
	}
	h := core.Hint{Store: "s3://" + bucket, Key: key, Removed: removed}
	h.At, _ = time.Parse(time.RFC3339, at)
	etag, tagged := o.ETag.(string)
	if size, ok := o.Size.(float64); ok && tagged && !removed {
		h.ETag, h.Size = strings.Trim(etag, `"`), int64(size)
	}
	if plain, err := url.QueryUnescape(key); escaped && err == nil && plain != key {
		other := h
		other.Key = plain
		n.hints = append(n.hints, other)
	}
	n.hints = append(n.hints, h)
}

var snsHost = regexp.MustCompile(`^sns\.[a-z0-9-]+\.amazonaws\.com(\.cn)?$`)

// ofSNS reports whether the address is one at which SNS lets a subscription be confirmed.
func ofSNS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && len(address) <= 2048 && u.Scheme == "https" && u.User == nil && snsHost.MatchString(u.Host)
}

// feeds returns how the feeds of mounts are, by the mount's path.
func (s *Server) feeds(ctx context.Context) (map[string]*Feed, error) {
	if s.o.Feeds == nil {
		return nil, nil
	}
	all, err := s.o.Feeds.Feeds(ctx)
	if err != nil {
		return nil, err
	}
	by := map[string]*Feed{}
	for _, f := range all {
		by[f.Path.File().String()] = &Feed{Kind: f.Kind, State: f.State, Live: f.Live, Events: f.Events, Own: f.Own, Gaps: f.Gaps, Rescans: f.Rescans,
			Pending: f.Pending, Last: known(f.Last), Lag: f.Lag.Seconds(), Confirm: f.Confirm}
	}
	return by, nil
}

// String says how a feed is, for people.
func (f *Feed) String() string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf("%s %s", f.Kind, f.State)
}
