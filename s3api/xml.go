package s3api

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const xmlNamespace = "http://s3.amazonaws.com/doc/2006-03-01/"

// timeFormat is S3's ISO 8601.
const timeFormat = "2006-01-02T15:04:05.000Z"

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// xmlProlog starts every document.
const xmlProlog = xml.Header

// xmlWriter appends a document to b. It is written for listings of a thousand keys, where reflection would cost more
// than the namespace does.
type xmlWriter struct{ b []byte }

// newXML returns a writer that has written the prolog; size is the expected number of bytes.
func newXML(size int) *xmlWriter {
	x := &xmlWriter{make([]byte, 0, size+64)}
	x.b = append(x.b, xmlProlog...)
	return x
}

// root opens the document's element in S3's namespace.
func (x *xmlWriter) root(name string) {
	x.b = append(x.b, '<')
	x.b = append(x.b, name...)
	x.b = append(x.b, ` xmlns="`+xmlNamespace+`">`...)
}

func (x *xmlWriter) open(name string) {
	x.b = append(x.b, '<')
	x.b = append(x.b, name...)
	x.b = append(x.b, '>')
}

func (x *xmlWriter) close(name string) {
	x.b = append(x.b, '<', '/')
	x.b = append(x.b, name...)
	x.b = append(x.b, '>')
}

func (x *xmlWriter) text(name, value string) {
	x.open(name)
	x.b = appendEscaped(x.b, value)
	x.close(name)
}

// optional writes an element unless its value is empty.
func (x *xmlWriter) optional(name, value string) {
	if value != "" {
		x.text(name, value)
	}
}

func (x *xmlWriter) int(name string, n int64) {
	x.open(name)
	x.b = strconv.AppendInt(x.b, n, 10)
	x.close(name)
}

func (x *xmlWriter) bool(name string, v bool) {
	x.open(name)
	x.b = strconv.AppendBool(x.b, v)
	x.close(name)
}

func (x *xmlWriter) time(name string, t time.Time) {
	x.open(name)
	x.b = appendTime(x.b, t)
	x.close(name)
}

// appendTime appends t in timeFormat. A layout that is read anew for each key is a tenth of a listing.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, timeFormat)
	}
	hour, minute, second := t.Clock()
	b = append(appendTwo(appendTwo(b, year/100), year%100), '-')
	b = append(appendTwo(b, int(month)), '-')
	b = append(appendTwo(b, day), 'T')
	b = append(appendTwo(b, hour), ':')
	b = append(appendTwo(b, minute), ':')
	b = append(appendTwo(b, second), '.')
	ms := t.Nanosecond() / int(time.Millisecond)
	return append(appendTwo(append(b, byte('0'+ms/100)), ms%100), 'Z')
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

// etag writes an ETag element with its quotes.
func (x *xmlWriter) etag(tag string) {
	x.b = append(x.b, "<ETag>&quot;"...)
	x.b = appendEscaped(x.b, tag)
	x.b = append(x.b, "&quot;</ETag>"...)
}

func (x *xmlWriter) owner(element, user string) {
	x.open(element)
	x.text("ID", user)
	x.text("DisplayName", user)
	x.close(element)
}

// plain holds the bytes that stand for themselves in character data, whatever is beside them.
var plain = func() (t [256]bool) {
	for c := byte(0x20); c < 0x7f; c++ {
		t[c] = c != '&' && c != '<' && c != '>' && c != '"'
	}
	return t
}()

// appendEscaped appends s as character data. Control characters, which XML 1.0 cannot hold, become numeric references, as
// S3 writes them; a client that must have them exactly asks for encoding-type=url.
func appendEscaped(b []byte, s string) []byte {
	last, i := 0, 0
	for i < len(s) && plain[s[i]] {
		i++
	}
	for i < len(s) {
		c := s[i]
		size := 1
		var ref string
		switch {
		case c == '&':
			ref = "&amp;"
		case c == '<':
			ref = "&lt;"
		case c == '>':
			ref = "&gt;"
		case c == '"':
			ref = "&quot;"
		case c < 0x20 || c == 0x7f:
			ref = "&#x" + strconv.FormatUint(uint64(c), 16) + ";"
		case c >= utf8.RuneSelf:
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				ref = "\uFFFD"
			case r == 0xFFFE || r == 0xFFFF:
				ref = "&#x" + strconv.FormatUint(uint64(r), 16) + ";"
			}
		}
		if ref != "" {
			b = append(b, s[last:i]...)
			b = append(b, ref...)
			last = i + size
		}
		i += size
	}
	return append(b, s[last:]...)
}

// urlEncode encodes a key for encoding-type=url: everything but unreserved bytes and the slash.
func urlEncode(s string) string {
	plain := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~/*", c) >= 0
	}
	i := 0
	for i < len(s) && plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	const hex = "0123456789ABCDEF"
	b := append(make([]byte, 0, len(s)+16), s[:i]...)
	for ; i < len(s); i++ {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// element is one element of a request document: either text or children.
type element struct {
	name     string
	value    string
	children []*element
}

// maxDepth is deeper than any document of S3's that is understood here.
const maxDepth = 8

// maxText is longer than any value: a key of 1,024 bytes.
const maxText = 8 << 10

// maxToken bounds one tag with its attributes, or one run of text with its escapes, in bytes.
const maxToken = 4 * maxText

// parseXML reads a request document whose root is one of roots and that has no more than most elements: what is not read
// costs nothing. It accepts no document type, no processing instruction after the prolog, no foreign namespace and
// nothing behind the root. Errors: MalformedXML.
func parseXML(doc []byte, most int, roots ...string) (*element, error) {
	src := &tokenReader{Reader: bytes.NewReader(doc)}
	d := xml.NewDecoder(src)
	t := tree{most: most}
	for {
		src.left = maxToken
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || !t.add(tok) {
			return nil, errMalformedXML
		}
	}
	if t.root == nil || !slices.Contains(roots, t.root.name) {
		return nil, errMalformedXML
	}
	return t.root, nil
}

// tokenReader fails a token that is too long. The decoder reads it byte by byte.
type tokenReader struct {
	*bytes.Reader
	left int
}

// ReadByte implements io.ByteReader.
func (r *tokenReader) ReadByte() (byte, error) {
	if r.left--; r.left < 0 {
		return 0, errMalformedXML
	}
	return r.Reader.ReadByte()
}

// tree is a document as far as it has been read.
type tree struct {
	root  *element
	stack []*element
	text  []byte // of the innermost element
	most  int    // elements still allowed
}

// add takes the next token. It reports whether the document is one that is understood so far.
func (t *tree) add(tok xml.Token) bool {
	switch tok := tok.(type) {
	case xml.StartElement:
		return t.start(tok.Name)
	case xml.EndElement:
		top := t.stack[len(t.stack)-1]
		if len(top.children) == 0 {
			top.value = string(t.text)
		}
		t.stack, t.text = t.stack[:len(t.stack)-1], t.text[:0]
	case xml.CharData:
		// Between elements only white space may stand.
		if len(t.stack) == 0 || len(t.stack[len(t.stack)-1].children) > 0 {
			return len(bytes.TrimSpace(tok)) == 0
		}
		t.text = append(t.text, tok...)
		return len(t.text) <= maxText
	case xml.Directive:
		return false
	case xml.ProcInst:
		return tok.Target == "xml" && t.root == nil
	}
	return true
}

func (t *tree) start(name xml.Name) bool {
	if t.most--; t.most < 0 || len(t.stack) == maxDepth || len(t.stack) == 0 && t.root != nil ||
		name.Space != "" && name.Space != xmlNamespace || len(bytes.TrimSpace(t.text)) > 0 {
		return false
	}
	e := &element{name: name.Local}
	if len(t.stack) == 0 {
		t.root = e
	} else {
		top := t.stack[len(t.stack)-1]
		top.children = append(top.children, e)
	}
	t.stack, t.text = append(t.stack, e), t.text[:0]
	return true
}

// leaves returns the texts of e's children by name. Every child must be named in known, occur once and be a leaf.
// Errors: MalformedXML.
func (e *element) leaves(known ...string) (map[string]string, error) {
	out := make(map[string]string, len(e.children))
	if len(e.children) == 0 && strings.TrimSpace(e.value) != "" {
		return nil, errMalformedXML
	}
	for _, c := range e.children {
		if _, twice := out[c.name]; twice || len(c.children) > 0 || !slices.Contains(known, c.name) {
			return nil, errMalformedXML
		}
		out[c.name] = c.value
	}
	return out, nil
}
