package ufs

import (
	"encoding/json"
	"fmt"
	"strings"
)

// packed is an Attr as a store keeps it that has one text for what it has no fields for. The names are short, for such a text is.
type packed struct {
	Headers   map[string]string `json:"h,omitempty"`
	User      map[string]string `json:"u,omitempty"`
	ETag      string            `json:"e,omitempty"`
	Checksums string            `json:"c,omitempty"`
	Origin    string            `json:"o,omitempty"`
	Mode      uint32            `json:"m,omitempty"`
	Owner     string            `json:"w,omitempty"`
	Group     string            `json:"g,omitempty"`
}

// PackAttr returns a, without Marker, as printable ASCII, "" if it is empty: for a store that has no fields of its own for it.
func PackAttr(a Attr) string {
	b, _ := json.Marshal(packed{a.Headers, a.User, a.ETag, a.Checksums, a.Origin, a.Mode, a.Owner, a.Group}) // has no failure
	if string(b) == "{}" {
		return ""
	}
	var s strings.Builder
	for _, r := range string(b) {
		switch {
		case r < 0x7f:
			s.WriteRune(r) // JSON has escaped what lies below the space
		case r <= 0xffff:
			fmt.Fprintf(&s, `\u%04x`, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&s, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return s.String()
}

// UnpackAttr is the reverse of PackAttr. What PackAttr has not made is nothing, for anybody may write it.
func UnpackAttr(text string) Attr {
	var p packed
	if text == "" || json.Unmarshal([]byte(text), &p) != nil {
		return Attr{}
	}
	return Attr{
		Headers: p.Headers, User: p.User, ETag: p.ETag, Checksums: p.Checksums, Origin: p.Origin, Mode: p.Mode & 0o1777, Owner: p.Owner, Group: p.Group,
	}
}
