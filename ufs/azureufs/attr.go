package azureufs

import (
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"

	"github.com/sluicefs/sluice/ufs"
)

// Attr travels as the service keeps it: content headers in their fields, and user metadata as such where a name and a value
// are what the service takes for them. All else is one text of this name, which is never shown in Attr.User.
const metaAttr = "sluice"

// fields are attributes as a request carries them. The headers are never nil: what they leave out the service clears.
type fields struct {
	headers *blob.HTTPHeaders
	meta    map[string]*string
}

func encode(a ufs.Attr) fields {
	f := fields{headers: &blob.HTTPHeaders{}, meta: map[string]*string{}}
	rest := a
	rest.Headers, rest.User = map[string]string{}, map[string]string{}
	for k, v := range a.Headers {
		if field := headerOf(f.headers, k); field != nil && printable(v) {
			*field = &v
		} else {
			rest.Headers[k] = v
		}
	}
	for k, v := range a.User {
		if identifier(k) && printable(v) {
			f.meta[k] = &v
		} else {
			rest.User[k] = v
		}
	}
	if text := ufs.PackAttr(rest); text != "" {
		f.meta[metaAttr] = &text
	}
	return f
}

// headerOf returns the field of a content header, nil if it has none.
func headerOf(h *blob.HTTPHeaders, name string) **string {
	switch name {
	case "Content-Type":
		return &h.BlobContentType
	case "Cache-Control":
		return &h.BlobCacheControl
	case "Content-Disposition":
		return &h.BlobContentDisposition
	case "Content-Encoding":
		return &h.BlobContentEncoding
	case "Content-Language":
		return &h.BlobContentLanguage
	}
	return nil
}

// identifier reports whether k can be the name of metadata, and comes back as it is: the service takes identifiers of C#, and
// HTTP does not tell upper case from lower.
func identifier(k string) bool {
	for i, c := range []byte(k) {
		if c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return k != "" && k != metaAttr
}

func printable(v string) bool {
	return v != "" && v == strings.TrimSpace(v) && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' })
}

// decode is the reverse of encode.
func decode(headers map[string]*string, meta map[string]*string) ufs.Attr {
	var a ufs.Attr
	for k, v := range meta {
		if strings.EqualFold(k, metaAttr) && v != nil {
			a = ufs.UnpackAttr(*v)
		}
	}
	if a.Headers == nil {
		a.Headers = map[string]string{}
	}
	if a.User == nil {
		a.User = map[string]string{}
	}
	for k, v := range headers {
		if v != nil && *v != "" {
			a.Headers[k] = *v
		}
	}
	for k, v := range meta {
		if k = strings.ToLower(k); k != metaAttr && v != nil {
			a.User[k] = *v
		}
	}
	return a
}

// folder reports whether the metadata is that of a directory which Hadoop or a hierarchical namespace keeps as a blob.
func folder(meta map[string]*string) bool {
	for k, v := range meta {
		if strings.EqualFold(k, "hdi_isfolder") && v != nil && strings.EqualFold(*v, "true") {
			return true
		}
	}
	return false
}
