package gcsufs

import (
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/ufs"
)

// resource is an object as the API describes it. As the body of a request it has what is set.
type resource struct {
	Name           string            `json:"name,omitempty"`
	Size           string            `json:"size,omitempty"`
	Generation     string            `json:"generation,omitempty"`
	Metageneration string            `json:"metageneration,omitempty"`
	Updated        time.Time         `json:"updated,omitzero"`
	MD5            string            `json:"md5Hash,omitempty"` // base64
	Type           string            `json:"contentType,omitempty"`
	Encoding       string            `json:"contentEncoding,omitempty"`
	Disposition    string            `json:"contentDisposition,omitempty"`
	Language       string            `json:"contentLanguage,omitempty"`
	Cache          string            `json:"cacheControl,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
}

// metaAttr is the metadata that holds, as one text, what of an Attr the service has no field for. It is never shown in
// Attr.User.
const metaAttr = "sluice"

// field returns the field of a content header, nil if it has none.
func (r *resource) field(header string) *string {
	switch header {
	case "Content-Type":
		return &r.Type
	case "Content-Encoding":
		return &r.Encoding
	case "Content-Disposition":
		return &r.Disposition
	case "Content-Language":
		return &r.Language
	case "Cache-Control":
		return &r.Cache
	}
	return nil
}

// encode returns an object with the attributes a.
func encode(a ufs.Attr) *resource {
	r := &resource{Metadata: map[string]string{}}
	rest := a
	rest.Headers, rest.User = map[string]string{}, map[string]string{}
	for k, v := range a.Headers {
		if f := r.field(k); f != nil && v != "" {
			*f = v
		} else {
			rest.Headers[k] = v
		}
	}
	for k, v := range a.User {
		if k == metaAttr || k == "" {
			rest.User[k] = v
		} else {
			r.Metadata[k] = v
		}
	}
	if text := ufs.PackAttr(rest); text != "" {
		r.Metadata[metaAttr] = text
	}
	return r
}

// attr is the reverse of encode.
func (r *resource) attr() ufs.Attr {
	a := ufs.UnpackAttr(r.Metadata[metaAttr])
	if a.Headers == nil {
		a.Headers = map[string]string{}
	}
	if a.User == nil {
		a.User = map[string]string{}
	}
	for _, k := range []string{"Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control"} {
		if v := *r.field(k); v != "" {
			a.Headers[k] = v
		}
	}
	for k, v := range r.Metadata {
		if k != metaAttr {
			a.User[strings.ToLower(k)] = v
		}
	}
	return a
}

// info describes the object under a name of the store. ok is false if it says too little of it.
func (r *resource) info(name string) (in ufs.Info, ok bool) {
	size, err := strconv.ParseInt(r.Size, 10, 64)
	a := r.attr()
	in = ufs.Info{
		Name: name, Dir: ufs.IsDir(name), Size: size, ModTime: r.Updated, Version: r.Generation + "|" + r.Metageneration,
		ETag: a.ETag, Owner: a.Owner, Group: a.Group, Mode: a.Mode, Full: true, Attr: a,
	}
	if in.ETag == "" {
		if sum, err := base64.StdEncoding.DecodeString(r.MD5); err == nil {
			in.ETag = hex.EncodeToString(sum)
		}
	}
	in.Marker, in.Attr.Marker = in.Dir, in.Dir
	return in, err == nil && size >= 0 && r.Generation != ""
}
