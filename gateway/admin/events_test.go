package admin

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// fakeFeeds takes hints of s3://lake, from a superuser or with the token.
type fakeFeeds struct {
	hints   []core.Hint
	confirm string
}

const eventsToken = "a-token-of-the-mount"

func (f *fakeFeeds) MayTell(ctx context.Context, token string) error {
	if token == "sealed-away" {
		return errs.New("test", "", errs.Unavailable, "whose token it is cannot be known")
	}
	if token != eventsToken && !core.PrincipalOf(ctx).Super {
		return errs.New("test", "", errs.Permission, "the token is wrong")
	}
	return nil
}

func (f *fakeFeeds) Told(_ context.Context, _ string, hints []core.Hint) (t core.Told, err error) {
	f.hints = append(f.hints, hints...)
	for _, h := range hints {
		if h.Store == "s3://lake" {
			t.Taken++
		} else {
			t.Unknown = append(t.Unknown, h.Store)
		}
	}
	return t, nil
}

func (f *fakeFeeds) Subscribed(_ context.Context, _, confirm string) error {
	f.confirm = confirm
	return nil
}

func (f *fakeFeeds) Feeds(context.Context) ([]core.FeedInfo, error) {
	root, _ := core.ParsePath("/")
	return []core.FeedInfo{{Path: root, Kind: "webhook", State: "live", Live: true, Events: 7}}, nil
}

// Every form is one that a service is documented to send, or that a server sends.
const (
	awsBody = `{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","eventTime":"2026-01-02T03:04:05.000Z","eventName":"ObjectCreated:Put",
		"s3":{"s3SchemaVersion":"1.0","bucket":{"name":"lake","arn":"arn:aws:s3:::lake"},"object":{"key":"a+dir/x%3Dy","size":1,"eTag":"e","versionId":"v","sequencer":"0A"}}},
		{"eventName":"ObjectRemoved:DeleteMarkerCreated","s3":{"bucket":{"name":"lake"},"object":{"key":"b"}}},
		{"eventName":"s3:ObjectAccessed:Head","s3":{"bucket":{"name":"lake"},"object":{"key":"c"}}}]}`
	bridgeBody = `{"version":"0","detail-type":"Object Deleted","source":"aws.s3","time":"2026-01-02T03:04:05Z",
		"detail":{"bucket":{"name":"lake"},"object":{"key":"a+b"},"reason":"DeleteObject"}}`
	snsBody   = `{"Type":"Notification","TopicArn":"arn","Message":"{\"Records\":[{\"eventName\":\"ObjectCreated:Copy\",\"s3\":{\"bucket\":{\"name\":\"lake\"},\"object\":{\"key\":\"k\"}}}]}"}`
	minioBody = `{"EventName":"s3:ObjectCreated:Put","Key":"lake/d/k","Records":null}`
	askBody   = `{"Type":"SubscriptionConfirmation","Token":"t","SubscribeURL":"https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"}`
)

func TestParseEvents(t *testing.T) {
	type want struct {
		keys    string
		ignored int
		confirm bool
		bad     bool
	}
	for name, k := range map[string]struct {
		body string
		want want
	}{
		"S3":             {awsBody, want{keys: "+s3://lake a dir/x=y,+s3://lake a+dir/x%3Dy,-s3://lake b", ignored: 1}},
		"EventBridge":    {bridgeBody, want{keys: "-s3://lake a+b"}},
		"SNS":            {snsBody, want{keys: "+s3://lake k"}},
		"MinIO":          {minioBody, want{keys: "+s3://lake d/k"}},
		"a test":         {`{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"lake"}`, want{ignored: 1}},
		"SNS asks":       {askBody, want{ignored: 1, confirm: true}},
		"SNS in SNS":     {`{"Type":"Notification","Message":"{\"Type\":\"Notification\",\"Message\":\"{}\"}"}`, want{bad: true}},
		"another asks":   {strings.ReplaceAll(askBody, "sns.eu", "evil.sns.eu"), want{bad: true}},
		"none":           {`{}`, want{bad: true}},
		"no JSON":        {`secret=1`, want{bad: true}},
		"an array":       {`[]`, want{bad: true}},
		"without bucket": {`{"Records":[{"eventName":"ObjectCreated:Put","s3":{"object":{"key":"k"}}}]}`, want{ignored: 1}},
	} {
		n, err := parseEvents([]byte(k.body))
		var keys []string
		for _, h := range n.hints {
			sign := "+"
			if h.Removed {
				sign = "-"
			}
			keys = append(keys, sign+h.Store+" "+h.Key)
		}
		got := want{strings.Join(keys, ","), n.ignored, n.confirm != "", err != nil}
		if k.want.bad {
			got = want{bad: err != nil && errs.KindOf(err) == errs.Invalid && !strings.Contains(err.Error(), "secret")}
		}
		if diff := cmp.Diff(k.want, got, cmp.AllowUnexported(want{})); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	if n, _ := parseEvents([]byte(awsBody)); n.hints[0].At.Unix() != 1767323045 {
		t.Errorf("the event is of %v", n.hints[0].At)
	}
	for _, size := range []string{"1", `"1"`, "null", "{}"} { // what is not told as it should be is not told
		n, err := parseEvents([]byte(strings.Replace(awsBody, `"size":1`, `"size":`+size, 1)))
		if err != nil || (n.hints[0].ETag == "e" && n.hints[0].Size == 1) != (size == "1") {
			t.Errorf("size %s: %+v, %v", size, n.hints, err)
		}
	}
}

func FuzzParseEvents(f *testing.F) {
	for _, s := range []string{awsBody, bridgeBody, snsBody, minioBody, askBody, `{"Key":"a","EventName":"s3:ObjectCreated:x"}`, `{"Records":[{}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseEvents(b)
		if err != nil && (len(n.hints) > 0 || errs.KindOf(err) != errs.Invalid) {
			t.Errorf("%v, with %v", err, n.hints)
		}
		for _, h := range n.hints {
			if h.Key == "" || !strings.HasPrefix(h.Store, "s3://") || h.Store == "s3://" {
				t.Errorf("a hint of nothing: %+v", h)
			}
		}
		if n.confirm != "" && !ofSNS(n.confirm) {
			t.Errorf("an address to confirm at: %q", n.confirm)
		}
	})
}

// endless is a body.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func TestTellS3(t *testing.T) {
	e := start(t)
	feeds := &fakeFeeds{}
	e.api.o.Feeds = feeds
	nobody := func(r *http.Request) { r.Header.Del("Authorization"); r.Header.Set("Content-Type", "text/plain") }
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	key := func(r *http.Request) { nobody(r); r.Header.Set("X-Events-Token", eventsToken) }
	e.want(200, `"taken":3`, "POST", "/api/v1/events/s3", awsBody)
	e.want(200, `"ignored":1`, "POST", "/api/v1/events/s3", awsBody, bearer(eventsToken))
	e.want(200, `"taken":1`, "POST", "/api/v1/events/s3?token="+eventsToken, snsBody, nobody)
	e.want(200, `"taken":1`, "POST", "/api/v1/events/s3", minioBody, key)
	e.want(401, "the token is wrong", "POST", "/api/v1/events/s3", awsBody, bearer("wrong"))
	e.want(401, "HTTP Basic", "POST", "/api/v1/events/s3", awsBody, nobody)
	e.want(503, "cannot be known", "POST", "/api/v1/events/s3", awsBody, bearer("sealed-away"))
	e.want(404, "s3://other", "POST", "/api/v1/events/s3", strings.ReplaceAll(snsBody, "lake", "other"))
	e.want(400, "no event notification", "POST", "/api/v1/events/s3", `{"a":1}`)
	e.want(413, "", "POST", "/api/v1/events/s3", `{"Records":["`+strings.Repeat("x", 1<<20)+`"]}`, bearer(eventsToken))
	e.want(200, `"ignored":1`, "POST", "/api/v1/events/s3", askBody, bearer(eventsToken))
	long := httptest.NewRequestWithContext(t.Context(), "POST", "/api/v1/events/s3", io.LimitReader(endless{}, 64<<20)) // which tells no length
	bearer("wrong")(long)
	w := httptest.NewRecorder()
	if e.api.ServeHTTP(w, long); w.Code != 413 {
		t.Errorf("a body without an end: %d %s", w.Code, w.Body)
	}
	if !strings.HasPrefix(feeds.confirm, "https://sns.") {
		t.Errorf("to be confirmed at %q", feeds.confirm)
	}
	e.want(200, `"events":7`, "GET", "/api/v1/mounts", "")
	for _, other := range []string{"/api/v1/mounts?token=" + eventsToken, "/api/v1/jobs"} { // it is for nothing else
		e.want(401, "", "GET", other, "", key)
	}
	if log := e.log.String(); strings.Contains(log, eventsToken) {
		t.Errorf("the token is in the log:\n%s", log)
	}

	// A process that does not lead hands the token on with the events, and nothing that it did not check itself.
	leader := New(Options{Feeds: feeds, Version: "test"})
	s := New(Options{Forward: &handedOn{to: leader.Trusted()}, Authenticator: users{}, Mounts: &fakeMounts{}, Version: "test"})
	for token, want := range map[string]int{eventsToken: 200, "wrong": 401} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/api/v1/events/s3?token="+token, strings.NewReader(snsBody))
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != want {
			t.Errorf("handed on with %q: %d %s, want %d", token, w.Code, w.Body, want)
		}
	}
}
