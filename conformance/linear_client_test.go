package conformance

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// linearOpen is how many changes of a history may be without an answer before its clients only read on.
const linearOpen = 6

// linearPatience is how long a client waits for an answer before it gives up.
const linearPatience = 2 * time.Second

// clientHistory is what the clients of one tree did. The tree lies below a directory of its own, beside a file that nobody
// touches, so that the directory is always there.
type clientHistory struct {
	name  string // for people
	base  string // "/bucket/tree"
	began time.Time

	mu       sync.Mutex
	ops      []operation
	values   map[string]value // by ETag, of everything that was ever sent
	contents map[value][]byte
	seen     tree // what was last known of each file, to set conditions by
	pending  int  // changes without an answer
	strange  []error
}

func newHistory(name, base string, began time.Time) *clientHistory {
	return &clientHistory{name: name, base: base, began: began, values: map[string]value{}, contents: map[value][]byte{}}
}

const linearKeep = "keep"

// draw makes a new content.
func (h *clientHistory) draw(rnd *rand.Rand) (value, []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := value(len(h.contents) + 1)
	b := content{h.base, int(v), 1 + int64(len(h.base)) + 20 + rnd.Int64N(6<<10)}.bytes()
	h.contents[v] = b
	h.values[hex.EncodeToString(digestBytes(bytes.NewReader(b)))] = v
	return v, b
}

// byTag returns the value that an ETag names.
func (h *clientHistory) byTag(tag *string) value {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.values[strings.Trim(aws.ToString(tag), `"`)]; v != 0 {
		return v
	}
	return foreign
}

// byBytes returns the value that the bytes are.
func (h *clientHistory) byBytes(b []byte) value {
	v := h.byTag(aws.String(hex.EncodeToString(digestBytes(bytes.NewReader(b)))))
	return v
}

func (h *clientHistory) tag(v value) *string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return aws.String(`"` + hex.EncodeToString(digestBytes(bytes.NewReader(h.contents[v]))) + `"`)
}

func (h *clientHistory) now() int64 { return int64(time.Since(h.began)) }

// add appends an operation, and learns from it what the files may hold.
func (h *clientHistory) add(o operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	if o.Output.Answer == unknown && !o.Input.Do.reads() {
		h.pending++
	}
	at := &h.seen[o.Input.At.Dir][o.Input.At.File]
	switch {
	case o.Output.Answer != done:
	case o.Input.Put != 0:
		*at = o.Input.Put
	case o.Output.Got != 0:
		*at = o.Output.Got
	case o.Input.Do == list:
		h.seen = o.Output.List
	}
}

// linearClient is one client of a history.
type linearClient struct {
	*clientHistory
	id  int
	rnd *rand.Rand
	rig *rig
	no  int // of the endpoint
}

// linearRig is a client's rig: the endpoints of one number. It keeps connections of its own.
func linearRig(c *cluster, no int) *rig {
	return newRig(&Server{S3: c.S3[no%len(c.S3)], WebHDFS: c.WebHDFS[no%len(c.WebHDFS)]})
}

// run does operations until ctx ends; one that has begun by then is carried through.
func (c *linearClient) run(ctx context.Context) {
	defer c.rig.http.CloseIdleConnections()
	for ctx.Err() == nil {
		c.do(context.WithoutCancel(ctx), c.next())
		select {
		case <-time.After(time.Duration(c.rnd.Int64N(int64(12 * time.Millisecond)))):
		case <-ctx.Done():
		}
	}
}

// linearShares is how often each action is drawn.
var linearShares = []struct {
	do    action
	share int
}{
	{put, 12}, {create, 10}, {replace, 10}, {get, 14}, {head, 8}, {remove, 16}, {rename, 14}, {renameDir, 8}, {removeDir, 5}, {list, 10}, {listDir, 4},
}

// next draws what to do.
func (c *linearClient) next() input {
	in := input{Do: c.action(), At: c.spot(), To: c.spot()}
	for c.wary() && !in.Do.reads() {
		in.Do = c.action()
	}
	for in.To.Dir == in.At.Dir && (in.Do == renameDir || in.To.File == in.At.File) {
		in.To = c.spot()
	}
	switch in.Do {
	case rename:
	case renameDir:
		in.At.File, in.To.File = 0, 0
	case removeDir, listDir:
		in.At.File, in.To = 0, spot{}
	case list:
		in.At, in.To = spot{}, spot{}
	default:
		in.To = spot{}
	}
	if in.Do == replace {
		c.mu.Lock()
		in.Expect = c.seen[in.At.Dir][in.At.File]
		c.mu.Unlock()
		if in.Expect <= 0 {
			in.Do, in.Expect = put, 0
		}
	}
	return in
}

// action draws one by the shares.
func (c *linearClient) action() action {
	sum := 0
	for _, a := range linearShares {
		sum += a.share
	}
	n := c.rnd.IntN(sum)
	for _, a := range linearShares {
		if n -= a.share; n < 0 {
			return a.do
		}
	}
	panic("no action drawn")
}

// wary reports whether so many changes have no answer that the clients read only: each may have happened at any time
// since, and what the checker has to try grows with their number's factorial.
func (c *linearClient) wary() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending >= linearOpen
}

func (c *linearClient) spot() spot {
	return spot{c.rnd.IntN(len(linearDirs)), c.rnd.IntN(len(linearFiles))}
}

// do does an operation and records it, unless it never reached the server.
func (c *linearClient) do(ctx context.Context, in input) (output, error) {
	ctx, cancel := context.WithTimeout(ctx, linearPatience)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	var body []byte
	if slices.Contains([]action{put, create, replace}, in.Do) {
		in.Put, body = c.draw(c.rnd)
	}
	way, protocol := c.overS3, "S3"
	if hdfs, s3 := slices.Contains([]action{rename, renameDir, removeDir, listDir}, in.Do), slices.Contains([]action{replace, head, list}, in.Do); hdfs || !s3 && c.rnd.IntN(2) == 0 {
		way, protocol = c.overWebHDFS, "WebHDFS"
	}
	in.By = fmt.Sprintf("%s %d", protocol, c.no)
	o := operation{Client: c.id, Input: in, Call: c.now()}
	out, err := way(ctx, in, body)
	o.Output, o.Return = out, c.now()
	if err != nil {
		o.Output = output{Answer: meaning(in.Do, err), Note: err.Error()}
	}
	switch {
	case o.Output.Answer == "":
		c.mu.Lock()
		c.strange = append(c.strange, fmt.Errorf("%s: an answer that should not be: %w", o, err))
		c.mu.Unlock()
	case sent.Load():
		c.add(o)
	}
	return o.Output, err
}

// meaning says what the model has for an answer that is not success: "" for one that should not be.
func meaning(do action, err error) reply {
	if unanswered(err) {
		return unknown
	}
	if e, ok := errors.AsType[*hdfsError](err); ok {
		switch e.Exception {
		case "FileNotFoundException":
			return missing
		case "FileAlreadyExistsException":
			return exists
		case "AlreadyBeingCreatedException":
			return refused
		case "RetriableException", "IOException":
			return unknown
		}
		return ""
	}
	var http interface{ HTTPStatusCode() int }
	errors.As(err, &http)
	switch status := http.HTTPStatusCode(); {
	case status < 300: // the answer broke off
		return unknown
	case status == 404:
		return missing
	case status == 412 && do == create:
		return exists
	case status == 412 && do == replace:
		return changed
	case status == 409:
		return refused
	case status >= 500:
		return unknown
	}
	return ""
}

func (c *linearClient) overS3(ctx context.Context, in input, body []byte) (output, error) {
	b, k := bucketKey(path.Join(c.base, in.At.String()))
	out := output{Answer: done}
	switch in.Do {
	case put, create, replace:
		q := &s3.PutObjectInput{Bucket: b, Key: k, Body: bytes.NewReader(body)}
		if in.Do == create {
			q.IfNoneMatch = aws.String("*")
		} else if in.Do == replace {
			q.IfMatch = c.tag(in.Expect)
		}
		got, err := c.rig.s3.PutObject(ctx, q)
		if err == nil && c.byTag(got.ETag) != in.Put {
			return out, fmt.Errorf("PUT of %s answered with the ETag %s", aws.ToString(c.tag(in.Put)), aws.ToString(got.ETag))
		}
		return out, err
	case get:
		got, err := c.rig.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: b, Key: k})
		if err != nil {
			return out, err
		}
		defer got.Body.Close()
		read, err := io.ReadAll(got.Body)
		if out.Got = c.byBytes(read); out.Got != c.byTag(got.ETag) {
			out.Got, out.Note = foreign, fmt.Sprintf("%d bytes, %.60q, ETag %s", len(read), read, aws.ToString(got.ETag))
		}
		return out, err
	case head:
		got, err := c.rig.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b, Key: k})
		if err == nil {
			if out.Got = c.byTag(got.ETag); out.Got == foreign {
				out.Note = "ETag " + aws.ToString(got.ETag)
			}
		}
		return out, err
	case remove:
		_, err := c.rig.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b, Key: k})
		return out, err
	case list:
		return c.listS3(ctx)
	}
	panic("not over S3: " + in.Do)
}

// listS3 lists the whole tree, which fits one page.
func (c *linearClient) listS3(ctx context.Context) (output, error) {
	out := output{Answer: done}
	b, prefix := bucketKey(c.base + "/")
	got, err := c.rig.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: b, Prefix: prefix})
	if err != nil {
		return out, err
	}
	kept := false
	for _, o := range got.Contents {
		name := strings.TrimPrefix(*o.Key, *prefix)
		if name == linearKeep {
			kept = true
		} else if d, f, ok := spotOf(name); ok {
			if out.List[d][f] != 0 {
				out.Note += name + " twice "
			}
			if out.List[d][f] = c.byTag(o.ETag); out.List[d][f] == foreign {
				out.Note += name + " with ETag " + aws.ToString(o.ETag) + " "
			}
		} else if !strings.HasSuffix(name, "/") { // an empty directory as a key
			out.Note += "stranger " + name
		}
	}
	if !kept || out.Note != "" || aws.ToBool(got.IsTruncated) {
		out.Note += fmt.Sprintf("%s there: %v, truncated: %v", linearKeep, kept, aws.ToBool(got.IsTruncated))
		out.List[0][0] = foreign
	}
	return out, nil
}

func spotOf(name string) (dir, file int, ok bool) {
	d, f, _ := strings.Cut(name, "/")
	dir, file = slices.Index(linearDirs[:], d), slices.Index(linearFiles[:], f)
	return dir, file, dir >= 0 && file >= 0
}

func (c *linearClient) overWebHDFS(ctx context.Context, in input, body []byte) (output, error) {
	at := path.Join(c.base, in.At.String())
	out := output{Answer: done}
	var err error
	switch in.Do {
	case put, create:
		_, err = c.rig.hdfs(ctx, "PUT", at, "CREATE", fmt.Sprintf("overwrite=%v", in.Do == put), bytes.NewReader(body), int64(len(body)))
	case get:
		return c.open(ctx, at)
	case remove, removeDir:
		if in.Do == removeDir {
			at = path.Dir(at)
		}
		var text []byte
		text, err = c.rig.hdfs(ctx, "DELETE", at, "DELETE", "recursive=true", nil, 0)
		switch {
		case err != nil:
		case strings.Contains(string(text), "true"):
			out.Told = true
		default:
			out.Answer = missing
		}
	case rename:
		_, err = c.rig.hdfs(ctx, "PUT", at, "RENAME", "renameoptions=NONE&destination="+path.Join(c.base, in.To.String()), nil, 0)
	case renameDir:
		_, err = c.rig.hdfs(ctx, "PUT", path.Dir(at), "RENAME", "renameoptions=NONE&destination="+path.Join(c.base, linearDirs[in.To.Dir]), nil, 0)
	case listDir:
		return c.listStatus(ctx, in.At.Dir)
	default:
		panic("not over WebHDFS: " + in.Do)
	}
	return out, err
}

// open reads a file in both steps. The second speaks of the file that the first has found, not of the name: if that file
// has gone, or another has its name, the read says nothing of what there is instead.
func (c *linearClient) open(ctx context.Context, at string) (output, error) {
	resp, err := c.rig.send(ctx, c.rig.webhdfs("GET", at, "OPEN", "noredirect=true", nil))
	if err != nil {
		return output{}, err
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil && resp.StatusCode != http.StatusOK {
		err = remoteException(resp.StatusCode, b)
	}
	if err != nil {
		return output{}, err
	}
	var doc struct{ Location string }
	if err := json.Unmarshal(b, &doc); err != nil {
		return output{}, err
	}
	req, err := http.NewRequestWithContext(ctx, "GET", doc.Location, nil)
	if err != nil {
		return output{}, err
	}
	if resp, err = c.rig.http.Do(req); err != nil {
		return output{}, err
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return output{}, err
	case resp.StatusCode == http.StatusNotFound:
		return output{Answer: refused, Note: "step two: " + remoteException(resp.StatusCode, b).Error()}, nil
	case resp.StatusCode != http.StatusOK:
		return output{}, remoteException(resp.StatusCode, b)
	}
	out := output{Answer: done, Got: c.byBytes(b)}
	if out.Got == foreign {
		out.Note = fmt.Sprintf("%d bytes, %.60q", len(b), b)
	}
	return out, nil
}

func (c *linearClient) listStatus(ctx context.Context, dir int) (output, error) {
	out := output{Answer: done, NamesOnly: true}
	b, err := c.rig.hdfs(ctx, "GET", path.Join(c.base, linearDirs[dir]), "LISTSTATUS", "", nil, 0)
	if err != nil {
		return out, err
	}
	var doc struct {
		FileStatuses struct {
			FileStatus []struct{ PathSuffix string }
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return out, err
	}
	for _, f := range doc.FileStatuses.FileStatus {
		if i := slices.Index(linearFiles[:], f.PathSuffix); i >= 0 && out.List[dir][i] == 0 {
			out.List[dir][i] = 1
		} else {
			out.Note, out.List[dir][0] = out.Note+"stranger or twice: "+f.PathSuffix, foreign
		}
	}
	return out, nil
}
