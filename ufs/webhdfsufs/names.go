package webhdfsufs

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs/hadoopfs"
)

// fileStatus is WebHDFS's FileStatus.
type fileStatus struct {
	PathSuffix       string `json:"pathSuffix"`
	Type             string `json:"type"`
	Length           int64  `json:"length"`
	ModificationTime int64  `json:"modificationTime"`
	FileID           uint64 `json:"fileId"`
	Owner            string `json:"owner"`
	Group            string `json:"group"`
	Permission       string `json:"permission"`
}

func (f *fileStatus) status() hadoopfs.Status {
	mode, err := strconv.ParseUint(f.Permission, 8, 16)
	if err != nil {
		mode = 0 // unknown
	}
	return hadoopfs.Status{
		Name: f.PathSuffix, Dir: f.Type == "DIRECTORY", Other: f.Type != "DIRECTORY" && f.Type != "FILE", Size: f.Length,
		MTime: f.ModificationTime, ID: f.FileID, Owner: f.Owner, Group: f.Group, Mode: uint32(mode) & 0o1777, //nolint:gosec // 16 bits
	}
}

// Status implements hadoopfs.Client.
func (c *Client) Status(ctx context.Context, path string) (hadoopfs.Status, error) {
	var doc struct{ FileStatus *fileStatus }
	q := request{method: http.MethodGet, op: "GETFILESTATUS", path: path}
	if err := c.document(ctx, q, &doc); err != nil {
		return hadoopfs.Status{}, err
	}
	if doc.FileStatus == nil {
		return hadoopfs.Status{}, errs.New("webhdfsufs.GETFILESTATUS", path, errs.Unavailable, "the server's answer has no FileStatus")
	}
	st := doc.FileStatus.status()
	st.Name = ""
	return st, nil
}

// List implements hadoopfs.Client.
func (c *Client) List(ctx context.Context, path, after string) (rows []hadoopfs.Status, more bool, err error) {
	var doc struct {
		DirectoryListing *struct {
			PartialListing struct {
				FileStatuses struct{ FileStatus []fileStatus }
			} `json:"partialListing"`
			RemainingEntries int64 `json:"remainingEntries"`
		}
	}
	q := request{method: http.MethodGet, op: "LISTSTATUS_BATCH", path: path, params: url.Values{"startafter": {after}}}
	if err := c.document(ctx, q, &doc); err != nil {
		return nil, false, err
	}
	if doc.DirectoryListing == nil {
		return nil, false, errs.New("webhdfsufs.LISTSTATUS_BATCH", path, errs.Unavailable, "the server's answer has no DirectoryListing")
	}
	for _, f := range doc.DirectoryListing.PartialListing.FileStatuses.FileStatus {
		rows = append(rows, f.status())
	}
	return rows, doc.DirectoryListing.RemainingEntries > 0, nil
}

// change sends an operation that others see and whose answer says nothing.
func (c *Client) change(ctx context.Context, method, op, path string, params url.Values) error {
	_, err := c.call(ctx, request{method: method, op: op, path: path, params: params, change: true})
	return err
}

// boolean sends an operation that is answered with {"boolean": true}.
func (c *Client) boolean(ctx context.Context, q request) (bool, error) {
	var doc struct{ Boolean *bool }
	if err := c.document(ctx, q, &doc); err != nil {
		return false, err
	}
	if doc.Boolean == nil {
		return false, errs.New("webhdfsufs."+q.op, q.path, errs.Unavailable, "the server's answer has no boolean")
	}
	return *doc.Boolean, nil
}

// Mkdirs implements hadoopfs.Client.
func (c *Client) Mkdirs(ctx context.Context, path string) error {
	done, err := c.boolean(ctx, request{method: http.MethodPut, op: "MKDIRS", path: path, params: url.Values{"permission": {"755"}}, change: true})
	if err == nil && !done {
		err = errs.New("webhdfsufs.MKDIRS", path, errs.Exist, "the server did not make the directory")
	}
	return err
}

// What a server's RENAME understands.
const (
	plainRename = 1 // HttpFS: a destination that must not exist, or is moved into
	fullRename  = 2 // a name node: renameoptions
)

// understands finds out what RENAME understands, by renaming what cannot be there, beside the path p: a name node says that it
// is missing, and HttpFS, which ignores the options, answers false.
func (c *Client) understands(ctx context.Context, p string) (int32, error) {
	if r := c.renames.Load(); r != 0 {
		return r, nil
	}
	none := path.Join(path.Dir(p), rand.Text())
	_, err := c.boolean(ctx, request{method: http.MethodPut, op: "RENAME", path: none, params: url.Values{
		"destination": {none + "2"}, "renameoptions": {"NONE"},
	}})
	r := int32(plainRename)
	if errors.Is(err, errs.NotExist) {
		r = fullRename
	} else if err != nil {
		return 0, err
	}
	c.renames.Store(r)
	return r, nil
}

// Replaces implements hadoopfs.Replacer.
func (c *Client) Replaces(ctx context.Context, path string) (bool, error) {
	can, err := c.understands(ctx, path)
	return can == fullRename, err
}

// Rename implements hadoopfs.Client. A server that cannot rename over what is there is errs.Unsupported if replace is set and
// something is.
func (c *Client) Rename(ctx context.Context, from, to string, replace bool) error {
	const op = "webhdfsufs.RENAME"
	can, err := c.understands(ctx, from)
	if err != nil {
		return err
	}
	q := request{method: http.MethodPut, op: "RENAME", path: from, params: url.Values{"destination": {to}}, change: true}
	if can == fullRename {
		q.params.Set("renameoptions", map[bool]string{true: "OVERWRITE", false: "NONE"}[replace])
		return c.renameFull(ctx, q)
	}
	taken := func() error { // which a plain rename would move into, if it is a directory
		if _, err := c.Status(ctx, to); err == nil && replace {
			return errs.New(op, to, errs.Unsupported, "HttpFS cannot rename over what is there")
		} else if err == nil {
			return errs.E(op, to, errs.Exist, nil)
		} else if !errors.Is(err, errs.NotExist) {
			return err
		}
		return nil
	}
	if err := taken(); err != nil {
		return err
	}
	was, err := c.Status(ctx, from)
	if err != nil {
		return err
	}
	done, err := c.boolean(ctx, q)
	if err == nil && done && !was.Dir {
		return c.notInto(ctx, from, to)
	}
	if err != nil || done {
		return err
	}
	if err := taken(); err != nil {
		return err
	}
	return errs.New(op, from, errs.NotExist, "the server did not rename it: it, or the directory it is to be in, is missing")
}

// renameFull sends a RENAME with options, which is answered with nothing, or by a server that has not understood them with false
// for one that was not made.
func (c *Client) renameFull(ctx context.Context, q request) error {
	b, err := c.call(ctx, q)
	if err != nil {
		return err
	}
	var doc struct{ Boolean *bool }
	if json.Unmarshal(b, &doc) == nil && doc.Boolean != nil && !*doc.Boolean {
		c.renames.Store(0) // another server answers now: ask again
		return errs.New("webhdfsufs.RENAME", q.path, errs.Unavailable, "the server did not rename it")
	}
	return nil
}

// notInto looks where a plain rename has moved a file: into to, if somebody made a directory there. It is moved back then.
func (c *Client) notInto(ctx context.Context, from, to string) error {
	const op = "webhdfsufs.RENAME"
	st, err := c.Status(ctx, to)
	switch {
	case errors.Is(err, errs.NotExist): // it was removed since
		return nil
	case err != nil: // without its chain: the rename was made
		return errs.New(op, to, errs.Unavailable, "where the file was moved to cannot be looked at: "+err.Error())
	case !st.Dir:
		return nil
	}
	inside := to + "/" + path.Base(from)
	back := request{method: http.MethodPut, op: "RENAME", path: inside, params: url.Values{"destination": {from}}, change: true}
	if done, err := c.boolean(ctx, back); err != nil || !done {
		text := "the file was moved into a directory that somebody made, and could not be moved back from " + inside
		if err != nil {
			text += ": " + err.Error()
		}
		return errs.New(op, to, errs.Unavailable, text)
	}
	return errs.E(op, to, errs.Exist, nil)
}

// Delete implements hadoopfs.Client.
func (c *Client) Delete(ctx context.Context, path string, recursive bool) error {
	q := request{method: http.MethodDelete, op: "DELETE", path: path, params: url.Values{"recursive": {strconv.FormatBool(recursive)}}, change: true}
	done, err := c.boolean(ctx, q)
	if err == nil && !done {
		err = errs.E("webhdfsufs.DELETE", path, errs.NotExist, nil)
	}
	return err
}

// Concat implements hadoopfs.Client. The sources are in one parameter, separated by commas. Errors: errs.Unsupported
// if a path has one.
func (c *Client) Concat(ctx context.Context, to string, sources []string) error {
	const longest = 48 << 10 // bytes of a URL; a server takes 64 KiB of headers (hadoop.http.max.request.header.size)
	for _, src := range sources {
		if strings.Contains(src, ",") { // of the root
			return errs.New("webhdfsufs.CONCAT", to, errs.Unsupported, "WebHDFS cannot name sources below a directory with a comma")
		}
	}
	all := strings.Join(sources, ",")
	if len(url.QueryEscape(all)) > longest {
		return errs.New("webhdfsufs.CONCAT", to, errs.Unsupported, "too many sources for one request")
	}
	return c.change(ctx, http.MethodPost, "CONCAT", to, url.Values{"sources": {all}})
}

// SetMode implements hadoopfs.Client.
func (c *Client) SetMode(ctx context.Context, path string, mode uint32) error {
	return c.change(ctx, http.MethodPut, "SETPERMISSION", path, url.Values{"permission": {strconv.FormatUint(uint64(mode), 8)}})
}

// SetOwner implements hadoopfs.Client.
func (c *Client) SetOwner(ctx context.Context, path, owner, group string) error {
	v := url.Values{}
	if owner != "" {
		v.Set("owner", owner)
	}
	if group != "" {
		v.Set("group", group)
	}
	if len(v) == 0 {
		return nil
	}
	return c.change(ctx, http.MethodPut, "SETOWNER", path, v)
}

// XAttr implements hadoopfs.Client. All are asked for: that a named one is missing is told by an error's text only.
func (c *Client) XAttr(ctx context.Context, path, name string) ([]byte, error) {
	var doc struct {
		XAttrs []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		}
	}
	q := request{method: http.MethodGet, op: "GETXATTRS", path: path, params: url.Values{"encoding": {"base64"}}}
	if err := c.document(ctx, q, &doc); err != nil {
		return nil, err
	}
	for _, x := range doc.XAttrs {
		if !strings.EqualFold(x.Name, name) {
			continue
		}
		value, err := decode(x.Value)
		if err != nil {
			return nil, errs.New("webhdfsufs.GETXATTRS", path, errs.Unavailable, "the server's answer has a value in no encoding of WebHDFS")
		}
		return value, nil
	}
	return nil, nil
}

// decode returns the value of an extended attribute. Source: org.apache.hadoop.fs.XAttrCodec.
func decode(s string) ([]byte, error) {
	switch {
	case strings.HasPrefix(s, "0s"):
		return base64.StdEncoding.DecodeString(s[2:])
	case strings.HasPrefix(s, "0x"):
		return hex.DecodeString(s[2:])
	}
	var text string
	if json.Unmarshal([]byte(s), &text) == nil {
		return []byte(text), nil
	}
	return []byte(s), nil
}

// SetXAttr implements hadoopfs.Client.
func (c *Client) SetXAttr(ctx context.Context, path, name string, value []byte) error {
	const longest = 16 << 10 // bytes of a value that HDFS takes by default, and a URL holds
	if len(value) > longest {
		return errs.New("webhdfsufs.SETXATTR", path, errs.TooLarge, "the value is too long")
	}
	return c.change(ctx, http.MethodPut, "SETXATTR", path, url.Values{
		"xattr.name": {name}, "xattr.value": {"0s" + base64.StdEncoding.EncodeToString(value)}, "flag": {"CREATE,REPLACE"},
	})
}
