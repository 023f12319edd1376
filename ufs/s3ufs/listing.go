package s3ufs

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithytime "github.com/aws/smithy-go/time"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sluicefs/sluice/ufs"
)

// readListing has a ListObjectsV2 read plain answers here: the SDK takes eleven milliseconds of processor time for a thousand keys,
// which is more than all else of a listing. Of the output it fills in what List uses. Every answer that is not of the plain form, or
// says anything but 200, is left to the SDK.
func readListing(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		const id = "OperationDeserializer"
		sdk, ok := stack.Deserialize.Get(id)
		if !ok {
			return nil
		}
		_, err := stack.Deserialize.Swap(id, &listingReader{sdk})
		return err
	})
}

// maxListing is up to how many bytes an answer is read at once: a thousand keys of 1 KiB, each byte escaped, are less. maxRoom is up to
// how many are kept for the next.
const (
	maxListing = 16 << 20
	maxRoom    = 1 << 20
)

// listings are what answers are read into. Nothing of them is kept.
var listings = sync.Pool{New: func() any { return new(bytes.Buffer) }}

type listingReader struct {
	sdk middleware.DeserializeMiddleware
}

func (*listingReader) ID() string { return "OperationDeserializer" }

func (l *listingReader) HandleDeserialize(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (
	middleware.DeserializeOutput, middleware.Metadata, error,
) {
	out, md, err := next.HandleDeserialize(ctx, in)
	resp, ok := out.RawResponse.(*smithyhttp.Response)
	if err == nil && ok && resp.StatusCode == http.StatusOK {
		body := resp.Body
		room := listings.Get().(*bytes.Buffer)
		_, rerr := room.ReadFrom(io.LimitReader(body, maxListing))
		b := room.Bytes()
		if rerr == nil && len(b) < maxListing { // all of it is here
			defer ufs.Turn(ctx)()
			if out.Result, ok = parseListing(b); ok {
				if room.Reset(); len(b) <= maxRoom {
					listings.Put(room)
				}
				return out, md, nil
			}
			out.Result = nil
		}
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(b), &again{body, rerr}), body}
	}
	return l.sdk.HandleDeserialize(ctx, in, hasAnswered{out, md, err})
}

// again is the rest of a body of which some was read, up to the error.
type again struct {
	body io.Reader
	err  error
}

func (a *again) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	return a.body.Read(p)
}

// hasAnswered is a handler that has been called.
type hasAnswered struct {
	out middleware.DeserializeOutput
	md  middleware.Metadata
	err error
}

func (a hasAnswered) HandleDeserialize(context.Context, middleware.DeserializeInput) (middleware.DeserializeOutput, middleware.Metadata, error) {
	return a.out, a.md, a.err
}

// parseListing reads an answer of ListObjectsV2 in the form in which all known services write it: elements without attributes but
// for the first, no comments and sections, of the entities only those that have a name. It reports false for all others, and for
// what is no whole document.
func parseListing(b []byte) (*s3.ListObjectsV2Output, bool) {
	if bytes.Contains(b, []byte("<!")) || strange(b) {
		return nil, false
	}
	x := &xmlText{rest: string(b)}
	x.space()
	if strings.HasPrefix(x.rest, "<?xml ") {
		if _, after, ok := strings.Cut(x.rest, "?>"); ok {
			x.rest = after
		}
	}
	x.space()
	const root = "ListBucketResult"
	start, after, ok := strings.Cut(x.rest, ">")
	if attrs, is := strings.CutPrefix(start, "<"+root); !ok || !is || attrs != "" && attrs[0] != ' ' || strings.HasSuffix(attrs, "/") || strings.Contains(attrs, "<") {
		return nil, false
	}
	x.rest = after
	out := &s3.ListObjectsV2Output{}
	if n := strings.Count(x.rest, "<Contents>"); n > 0 {
		out.Contents = make([]types.Object, 0, n)
	}
	objects := make([]object, cap(out.Contents))
	for {
		name, more := x.open(root)
		if !more {
			break
		}
		switch name {
		case "Contents":
			n := len(out.Contents) // no more than were counted
			out.Contents = append(out.Contents, types.Object{})
			x.object(&out.Contents[n], &objects[n])
		case "CommonPrefixes":
			p := types.CommonPrefix{}
			for inner, more := x.open(name); more; inner, more = x.open(name) {
				if inner == "Prefix" {
					p.Prefix = x.text(inner)
				} else {
					x.skip(inner, "Prefix")
				}
			}
			out.CommonPrefixes = append(out.CommonPrefixes, p)
		case "IsTruncated":
			v, err := strconv.ParseBool(aws.ToString(x.text(name)))
			out.IsTruncated, x.bad = &v, x.bad || err != nil
		case "KeyCount":
			v, err := strconv.ParseInt(aws.ToString(x.text(name)), 10, 32)
			out.KeyCount, x.bad = aws.Int32(int32(v)), x.bad || err != nil
		case "NextContinuationToken":
			out.NextContinuationToken = x.text(name)
		case "EncodingType":
			out.EncodingType = types.EncodingType(aws.ToString(x.text(name)))
		default:
			x.skip(name, "Contents", "CommonPrefixes", "IsTruncated", "KeyCount", "NextContinuationToken", "EncodingType")
		}
	}
	x.space()
	return out, !x.bad && x.rest == ""
}

// strange reports whether b has what may be no character of a document, or become another one.
func strange(b []byte) bool {
	ascii := true
	for _, c := range b {
		if c < ' ' && c != '\t' && c != '\n' {
			return true
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return !ascii && (!utf8.Valid(b) || bytes.ContainsFunc(b, func(r rune) bool { return r == 0xfffe || r == 0xffff }))
}

// xmlText is a document that is being read. Once it is bad it holds no more elements.
type xmlText struct {
	rest string
	bad  bool
}

func (x *xmlText) space() {
	i := 0
	for i < len(x.rest) && (x.rest[i] == ' ' || x.rest[i] == '\t' || x.rest[i] == '\n') {
		i++
	}
	x.rest = x.rest[i:]
}

// cutEnd cuts the end of the element of the name, of which "</" is read, off rest.
func cutEnd(rest, name string) (string, bool) {
	if len(rest) <= len(name) || rest[:len(name)] != name || rest[len(name)] != '>' {
		return rest, false
	}
	return rest[len(name)+1:], true
}

func (x *xmlText) fail() { x.bad, x.rest = true, "" }

// open returns the name of the next element within the one called in, or false after that one's end.
func (x *xmlText) open(in string) (name string, ok bool) {
	x.space()
	if rest, ends := strings.CutPrefix(x.rest, "</"); ends {
		if rest, ok = cutEnd(rest, in); !ok {
			x.fail()
			return "", false
		}
		x.rest = rest
		return "", false
	}
	if !strings.HasPrefix(x.rest, "<") {
		x.fail()
		return "", false
	}
	end := 1
	for end < len(x.rest) && (x.rest[end]|0x20 >= 'a' && x.rest[end]|0x20 <= 'z' || x.rest[end] >= '0' && x.rest[end] <= '9') {
		end++
	}
	if end == 1 || x.rest[1] <= '9' || end == len(x.rest) || x.rest[end] != '>' {
		x.fail()
		return "", false
	}
	name, x.rest = x.rest[1:end], x.rest[end+1:]
	return name, true
}

// text returns the text of the open element of the name, which has no other in it; nil if it is bad.
func (x *xmlText) text(name string) *string {
	text, ok := x.value(name)
	if !ok {
		return nil
	}
	return &text
}

// value is text for who has a place for it.
func (x *xmlText) value(name string) (text string, ok bool) {
	end := strings.IndexByte(x.rest, '<')
	if end < 0 || end+1 == len(x.rest) || x.rest[end+1] != '/' {
		x.fail()
		return "", false
	}
	rest, ends := cutEnd(x.rest[end+2:], name)
	text, ok = fromXML(x.rest[:end])
	if !ends || !ok {
		x.fail()
		return "", false
	}
	x.rest = rest
	return text, true
}

// entities are those that have a name, and what they stand for.
var entities = [...]struct {
	name string
	is   byte
}{{"&quot;", '"'}, {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&apos;", '\''}}

// fromXML returns what the text stands for, and false if it has an entity without a name, or what no text may have.
func fromXML(text string) (string, bool) {
	if strings.Contains(text, "]]>") {
		return "", false
	}
	at := strings.IndexByte(text, '&')
	if at < 0 {
		return text, true
	}
	var array [128]byte
	b := array[:0]
next:
	for ; at >= 0; at = strings.IndexByte(text, '&') {
		b = append(b, text[:at]...)
		text = text[at:]
		for i := range entities {
			if rest, ok := strings.CutPrefix(text, entities[i].name); ok {
				b, text = append(b, entities[i].is), rest
				continue next
			}
		}
		return "", false
	}
	return string(append(b, text...)), true
}

// skip passes over the open element of the name, which must be none of known in another case.
func (x *xmlText) skip(name string, known ...string) {
	for _, k := range known {
		if strings.EqualFold(name, k) {
			x.fail()
			return
		}
	}
	for depth := []string{name}; len(depth) > 0 && !x.bad; {
		if at := strings.IndexByte(x.rest, '<'); at > 0 {
			if _, ok := fromXML(x.rest[:at]); !ok {
				x.fail()
				return
			}
			x.rest = x.rest[at:]
		}
		if inner, more := x.open(depth[len(depth)-1]); more {
			depth = append(depth, inner)
		} else {
			depth = depth[:len(depth)-1]
		}
	}
}

// object is what types.Object points to of one: those of a page are together.
type object struct {
	key, etag string
	size      int64
	at        time.Time
}

// object reads what is in an element Contents into o, and what that points to into in.
func (x *xmlText) object(o *types.Object, in *object) {
	for name, more := x.open("Contents"); more; name, more = x.open("Contents") {
		switch name {
		case "Key":
			in.key, _ = x.value(name)
			o.Key = &in.key
		case "ETag":
			in.etag, _ = x.value(name)
			o.ETag = &in.etag
		case "Size":
			text, _ := x.value(name)
			n, err := strconv.ParseInt(text, 10, 64)
			in.size, x.bad = n, x.bad || err != nil
			o.Size = &in.size
		case "LastModified":
			text, _ := x.value(name)
			at, err := parseTime(text)
			in.at, x.bad = at, x.bad || err != nil
			o.LastModified = &in.at
		default:
			x.skip(name, "Key", "ETag", "Size", "LastModified")
		}
	}
}

// parseTime is ParseDateTime of the SDK, which tries forms one after the other, with the usual one first.
func parseTime(text string) (time.Time, error) {
	if strings.HasSuffix(text, "Z") {
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			return at, nil
		}
	}
	return smithytime.ParseDateTime(text)
}
