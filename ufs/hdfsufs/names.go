package hdfsufs

import (
	"context"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs/hadoopfs"
)

// Status implements hadoopfs.Client.
func (c *Client) Status(ctx context.Context, path string) (st hadoopfs.Status, err error) {
	const op = "hdfsufs.Status"
	err = c.do(ctx, op, path, false, func(k *conn) error {
		resp, err := k.call("getFileInfo", map[string]any{"src": path})
		if err == nil && !has(resp, "fs") {
			return errs.E(op, path, errs.NotExist, nil)
		}
		if err == nil {
			err = readable(op, path, field(resp, "fs").Message())
			st = statusOf(field(resp, "fs").Message())
		}
		return err
	})
	return st, err
}

// readable reports errs.Unsupported for a file whose blocks are not its bytes: the library decrypts nothing, and knows no stripes.
func readable(op, path string, m protoreflect.Message) error {
	if field(m, "fileType").Enum() != isFile {
		return nil
	}
	what := ""
	switch {
	case has(m, "fileEncryptionInfo"):
		what = "encrypted (it is in an encryption zone)"
	case has(m, "ecPolicy"):
		what = "erasure-coded"
	default:
		return nil
	}
	return errs.New(op, path, errs.Unsupported, "the file is "+what+", which hdfs:// does not read or write; over webhdfs:// the datanodes do it")
}

// The values of HdfsFileStatusProto.FileType.
const (
	isDir  = 1
	isFile = 2
)

func statusOf(m protoreflect.Message) hadoopfs.Status {
	kind := field(m, "fileType").Enum()
	return hadoopfs.Status{
		Name: string(field(m, "path").Bytes()), Dir: kind == isDir, Other: kind != isDir && kind != isFile,
		Size: int64(field(m, "length").Uint()), MTime: int64(field(m, "modification_time").Uint()), //nolint:gosec // Java's longs
		ID: field(m, "fileId").Uint(), Owner: field(m, "owner").String(), Group: field(m, "group").String(),
		Mode: uint32(field(field(m, "permission").Message(), "perm").Uint()) & 0o1777, //nolint:gosec // 16 bits
	}
}

// List implements hadoopfs.Client.
func (c *Client) List(ctx context.Context, path, after string) (rows []hadoopfs.Status, more bool, err error) {
	const op = "hdfsufs.List"
	err = c.do(ctx, op, path, false, func(k *conn) error {
		resp, err := k.call("getListing", map[string]any{"src": path, "startAfter": []byte(after), "needLocation": false})
		if err != nil {
			return err
		}
		if !has(resp, "dirList") {
			return errs.E(op, path, errs.NotExist, nil)
		}
		dir := field(resp, "dirList").Message()
		list := field(dir, "partialListing").List()
		for i := range list.Len() {
			rows = append(rows, statusOf(list.Get(i).Message()))
		}
		more = field(dir, "remainingEntries").Uint() > 0
		return nil
	})
	return rows, more, err
}

// change makes a call that others see, and whose answer says nothing.
func (c *Client) change(ctx context.Context, op, path, method string, fields map[string]any) error {
	return c.do(ctx, op, path, true, func(k *conn) error {
		_, err := k.call(method, fields)
		return err
	})
}

// perm is an FsPermissionProto.
func perm(mode uint32) map[string]any { return map[string]any{"perm": mode} }

// Mkdirs implements hadoopfs.Client.
func (c *Client) Mkdirs(ctx context.Context, path string) error {
	return c.change(ctx, "hdfsufs.Mkdirs", path, "mkdirs", map[string]any{"src": path, "masked": perm(0o755), "createParent": true})
}

// Rename implements hadoopfs.Client.
func (c *Client) Rename(ctx context.Context, from, to string, replace bool) error {
	return c.change(ctx, "hdfsufs.Rename", to, "rename2", map[string]any{"src": from, "dst": to, "overwriteDest": replace})
}

// Delete implements hadoopfs.Client.
func (c *Client) Delete(ctx context.Context, path string, recursive bool) error {
	const op = "hdfsufs.Delete"
	return c.do(ctx, op, path, true, func(k *conn) error {
		resp, err := k.call("delete", map[string]any{"src": path, "recursive": recursive})
		if err == nil && !field(resp, "result").Bool() {
			return errs.E(op, path, errs.NotExist, nil)
		}
		return err
	})
}

// Concat implements hadoopfs.Client.
func (c *Client) Concat(ctx context.Context, to string, sources []string) error {
	return c.change(ctx, "hdfsufs.Concat", to, "concat", map[string]any{"trg": to, "srcs": sources})
}

// SetMode implements hadoopfs.Client.
func (c *Client) SetMode(ctx context.Context, path string, mode uint32) error {
	return c.change(ctx, "hdfsufs.SetMode", path, "setPermission", map[string]any{"src": path, "permission": perm(mode)})
}

// SetOwner implements hadoopfs.Client.
func (c *Client) SetOwner(ctx context.Context, path, owner, group string) error {
	fields := map[string]any{"src": path}
	if owner != "" {
		fields["username"] = owner
	}
	if group != "" {
		fields["groupname"] = group
	}
	return c.change(ctx, "hdfsufs.SetOwner", path, "setOwner", fields)
}

// XAttr implements hadoopfs.Client. All are asked for: that a named one is missing is told by an error's text only.
func (c *Client) XAttr(ctx context.Context, path, name string) (value []byte, err error) {
	err = c.do(ctx, "hdfsufs.XAttr", path, false, func(k *conn) error {
		resp, err := k.call("getXAttrs", map[string]any{"src": path})
		if err != nil {
			return err
		}
		list := field(resp, "xAttrs").List()
		for i := range list.Len() {
			m := list.Get(i).Message()
			if field(m, "namespace").Enum() == userXAttr && "user."+field(m, "name").String() == name {
				value = field(m, "value").Bytes()
			}
		}
		return nil
	})
	return value, err
}

// userXAttr is USER of XAttrProto.XAttrNamespaceProto.
const userXAttr protoreflect.EnumNumber = 0

// SetXAttr implements hadoopfs.Client.
func (c *Client) SetXAttr(ctx context.Context, path, name string, value []byte) error {
	const createOrReplace uint32 = 3 // of XAttrSetFlagProto
	return c.change(ctx, "hdfsufs.SetXAttr", path, "setXAttr", map[string]any{
		"src": path, "flag": createOrReplace,
		"xAttr": map[string]any{"namespace": userXAttr, "name": name[len("user."):], "value": value},
	})
}
