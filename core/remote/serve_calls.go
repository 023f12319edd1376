package remote

import (
	"context"
	"io"
	"iter"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// calls makes each method's call: it reads the arguments from in, and appends what the call returns to out.
var calls = [methods]func(s *Server, ctx context.Context, in, out *coder) error{
	methodEcho: func(_ *Server, _ context.Context, in, out *coder) error {
		var s string
		in.raw(&s)
		out.raw(&s)
		return in.finish()
	},
	methodStat: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		in.path(&p)
		return answerInfo(in, out, func() (core.Info, error) { return s.o.Tree.Stat(ctx, p) })
	},
	methodList:    serveList,
	methodPut:     servePut,
	methodPutPart: servePut,
	methodCompose: func(s *Server, ctx context.Context, in, out *coder) error {
		var dst core.Path
		var parts []core.Path
		in.composeArgs(&dst, &parts)
		return answerInfo(in, out, func() (core.Info, error) { return s.o.Tree.Compose(ctx, dst, parts) })
	},
	methodCopy: func(s *Server, ctx context.Context, in, out *coder) error {
		var src, dst core.Path
		var o core.CopyOptions
		in.copyArgs(&src, &dst, &o)
		return answerInfo(in, out, func() (core.Info, error) { return s.o.Tree.Copy(ctx, src, dst, o) })
	},
	methodMkdir: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		var o core.MkdirOptions
		in.path(&p)
		in.mkdirOptions(&o)
		return answerInfo(in, out, func() (core.Info, error) { return s.o.Tree.Mkdir(ctx, p, o) })
	},
	methodRename: func(s *Server, ctx context.Context, in, out *coder) error {
		var src, dst core.Path
		var o core.RenameOptions
		in.renameArgs(&src, &dst, &o)
		job := ""
		ctx = core.WithNotes(ctx, func(what, value string) {
			if what == core.RenameInProgress {
				job = value
			}
		})
		err := answerNothing(in, func() error { return s.o.Tree.Rename(ctx, src, dst, o) })
		if err == nil && job != "" {
			text(out, &job)
		}
		return err
	},
	methodRemove: func(s *Server, ctx context.Context, in, _ *coder) error {
		var p core.Path
		var o core.RemoveOptions
		in.path(&p)
		in.removeOptions(&o)
		return answerNothing(in, func() error { return s.o.Tree.Remove(ctx, p, o) })
	},
	methodSetAttr: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		var a core.AttrChange
		in.path(&p)
		in.attrChange(&a)
		return answerInfo(in, out, func() (core.Info, error) { return s.o.Tree.SetAttr(ctx, p, a) })
	},
	methodCheckName: func(s *Server, ctx context.Context, in, _ *coder) error {
		var p core.Path
		in.path(&p)
		return answerNothing(in, func() error { return s.o.Tree.CheckName(ctx, p) })
	},
	methodCheckAccess: func(s *Server, ctx context.Context, in, _ *coder) error {
		var p core.Path
		var want uint32
		in.path(&p)
		in.uint32(&want)
		return answerNothing(in, func() error { return s.o.Tree.CheckAccess(ctx, p, want) })
	},
	methodCreateUpload: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		var o core.CreateOptions
		in.path(&p)
		in.createOptions(&o)
		return answer(in, out, text[string], func() (string, error) { return s.o.Tree.CreateUpload(ctx, p, o) })
	},
	methodCopyPart: func(s *Server, ctx context.Context, in, out *coder) error {
		var p, src core.Path
		var id string
		var number int
		var r core.Range
		in.copyPartArgs(&p, &id, &number, &src, &r)
		return answer(in, out, (*coder).part, func() (core.Part, error) { return s.o.Tree.CopyPart(ctx, p, id, number, src, r) })
	},
	methodCompleteUpload: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		var id string
		var parts []core.Part
		var o core.CompleteOptions
		in.completeArgs(&p, &id, &parts, &o)
		return answerInfo(in, out, func() (core.Info, error) { return s.o.Tree.CompleteUpload(ctx, p, id, parts, o) })
	},
	methodAbortUpload: func(s *Server, ctx context.Context, in, _ *coder) error {
		var p core.Path
		var id string
		in.uploadArgs(&p, &id)
		return answerNothing(in, func() error { return s.o.Tree.AbortUpload(ctx, p, id) })
	},
	methodListUploads: func(s *Server, ctx context.Context, in, out *coder) error {
		var dir core.Path
		var prefix, key, id string
		in.listUploadsArgs(&dir, &prefix, &key, &id)
		if err := in.finish(); err != nil {
			return err
		}
		writePage(s, out, s.o.Tree.ListUploads(ctx, dir, prefix, key, id), (*coder).upload)
		return nil
	},
	methodListParts: serveListParts,
	methodLocate: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		var r core.Range
		in.pathRange(&p, &r)
		return answer(in, out, blocks, func() ([]core.Block, error) { return s.o.Tree.Locate(ctx, p, r) })
	},
	methodFileChecksum: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		in.path(&p)
		return answer(in, out, (*coder).fileChecksum, func() (core.FileChecksum, error) { return s.o.Tree.FileChecksum(ctx, p) })
	},
	methodSummarize: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		in.path(&p)
		return answer(in, out, (*coder).summary, func() (core.Summary, error) { return s.o.Tree.Summarize(ctx, p) })
	},
	methodMounts: func(s *Server, ctx context.Context, in, out *coder) error {
		return answer(in, out, mountInfos, func() ([]core.MountInfo, error) { return s.o.Tree.Mounts(ctx) })
	},
	methodMount: func(s *Server, ctx context.Context, in, out *coder) error {
		var m core.MountSpec
		in.mountSpec(&m)
		return answer(in, out, (*coder).mountInfo, func() (core.MountInfo, error) { return s.o.Tree.Mount(ctx, m) })
	},
	methodUpdateMount: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		var m core.MountChange
		in.path(&p)
		in.mountChange(&m)
		return answer(in, out, (*coder).mountInfo, func() (core.MountInfo, error) { return s.o.Tree.UpdateMount(ctx, p, m) })
	},
	methodUnmount: func(s *Server, ctx context.Context, in, _ *coder) error {
		var p core.Path
		in.path(&p)
		return answerNothing(in, func() error { return s.o.Tree.Unmount(ctx, p) })
	},
	methodSecret: func(s *Server, ctx context.Context, in, out *coder) error {
		var key string
		text(in, &key)
		if err := in.finish(); err != nil {
			return err
		}
		secret, p, err := s.o.Authenticator.Secret(ctx, key)
		text(out, &secret)
		out.principal(&p)
		return err
	},
	methodUser: func(s *Server, ctx context.Context, in, out *coder) error {
		var name string
		text(in, &name)
		return answer(in, out, (*coder).principal, func() (core.Principal, error) { return s.o.Authenticator.User(ctx, name) })
	},
	methodPlace: func(s *Server, ctx context.Context, in, out *coder) error {
		var p core.Path
		var r core.Range
		in.pathRange(&p, &r)
		return answer(in, out, (*coder).placed, func() (core.Placed, error) { return s.o.Tree.Place(ctx, p, r) })
	},
	methodFollow: func(s *Server, ctx context.Context, in, out *coder) error {
		var ticket []byte
		in.bytes(&ticket)
		return answer(in, out, (*coder).bytes, func() ([]byte, error) { return s.o.Tree.Follow(ctx, ticket) })
	},
	methodStores: func(s *Server, ctx context.Context, in, out *coder) error {
		return answer(in, out, storeSpecs, func() ([]core.StoreSpec, error) {
			if !isWorker(ctx) {
				return nil, errs.New("remote.Stores", "", errs.Permission, "only workers open stores")
			}
			return s.o.Tree.Stores(ctx)
		})
	},
	methodAliases: func(s *Server, ctx context.Context, in, out *coder) error {
		return answer(in, out, bucketAliases, func() ([]core.BucketAlias, error) { return s.o.Tree.BucketAliases(ctx) })
	},
	methodTicketSecret: func(s *Server, ctx context.Context, in, out *coder) error {
		return answer(in, out, text[string], func() (string, error) {
			if isWorker(ctx) {
				return "", errs.New("remote.TicketSecret", "", errs.Permission, "workers redirect no clients")
			}
			secret, err := s.o.Tree.TicketSecret(ctx)
			return string(secret), err
		})
	},
	methodOutcome: func(_ *Server, _ context.Context, in, _ *coder) error {
		if err := in.finish(); err != nil {
			return err
		}
		// What asks has found no answer and no Commit in progress, and has claimed the id: one that comes late gets this answer.
		return errs.New("remote.Commit", "", errs.Unavailable, "the connection broke before the file was complete; write it again")
	},
}

// answer makes a call that returns one value, once the arguments have been read.
func answer[T any](in, out *coder, code func(*coder, *T), call func() (T, error)) error {
	if err := in.finish(); err != nil {
		return err
	}
	v, err := call()
	if err == nil {
		code(out, &v)
	}
	return err
}

func answerInfo(in, out *coder, call func() (core.Info, error)) error {
	return answer(in, out, (*coder).info, call)
}

func answerNothing(in *coder, call func() error) error {
	if err := in.finish(); err != nil {
		return err
	}
	return call()
}

func blocks(c *coder, p *[]core.Block)         { list(c, p, (*coder).block) }
func mountInfos(c *coder, p *[]core.MountInfo) { list(c, p, (*coder).mountInfo) }
func storeSpecs(c *coder, p *[]core.StoreSpec) { list(c, p, (*coder).storeSpec) }

func bucketAliases(c *coder, p *[]core.BucketAlias) {
	list(c, p, func(c *coder, a *core.BucketAlias) { text(c, &a.Name); c.path(&a.Path) })
}

// A page of a listing is its entries, each after a pageEntry, and how it ends.
const (
	pageEnd   byte = iota // there is no more
	pageEntry             // an entry follows
	pageMore              // the page is full; the next begins after the last entry
	pageFault             // the fault that follows ended the listing
)

// writePage appends a page of all.
func writePage[T any](s *Server, out *coder, all iter.Seq2[T, error], code func(*coder, *T)) {
	start, n := len(out.b), 0
	for v, err := range all {
		if err != nil {
			out.b = append(out.b, pageFault)
			out.fault(&err)
			return
		}
		out.b = append(out.b, pageEntry)
		code(out, &v)
		if n++; n == s.page || len(out.b)-start >= pageBytes {
			out.b = append(out.b, pageMore)
			return
		}
	}
	out.b = append(out.b, pageEnd)
}

// readPage yields the entries of a page. last is the final one; more says that another page begins after it. A page that
// cannot be read is for c's finish to report.
func readPage[T any](c *coder, code func(*coder, *T), yield func(T, error) bool) (last T, more bool) {
	for {
		var how byte
		c.byte(&how)
		if c.err != nil {
			return last, false
		}
		switch how {
		case pageEntry:
			var v T
			code(c, &v)
			if c.err != nil {
				return last, false
			}
			if !yield(v, nil) {
				c.s = "" // the rest is not wanted
				return v, false
			}
			last = v
		case pageMore, pageEnd:
			return last, how == pageMore && c.s == ""
		case pageFault:
			var err error
			c.fault(&err)
			if c.err == nil {
				var none T
				yield(none, err)
			}
			return last, false
		default:
			c.fail("a page that does not end")
			return last, false
		}
	}
}

func serveList(s *Server, ctx context.Context, in, out *coder) error {
	var dir core.Path
	var o core.ListOptions
	in.listArgs(&dir, &o)
	if err := in.finish(); err != nil {
		return err
	}
	if o.Limit <= 0 || o.Limit > s.page {
		o.Limit = s.page
	}
	writePage(s, out, s.o.Tree.List(ctx, dir, o), (*coder).info)
	return nil
}

func serveListParts(s *Server, ctx context.Context, in, out *coder) error {
	var p core.Path
	var id string
	var after int
	in.uploadArgs(&p, &id)
	in.int(&after)
	if err := in.finish(); err != nil {
		return err
	}
	u, parts, err := s.o.Tree.ListParts(ctx, p, id, after)
	if err != nil {
		return err
	}
	out.upload(&u)
	writePage(s, out, parts, (*coder).part)
	return nil
}

// servePut writes a small file or part whole.
func servePut(s *Server, ctx context.Context, in, out *coder) error {
	var t target
	var o core.CommitOptions
	var data string
	in.putArgs(&t, &o, &data)
	return answerInfo(in, out, func() (core.Info, error) {
		w, err := s.create(ctx, &t)
		if err != nil {
			return core.Info{}, err
		}
		if _, err := io.WriteString(w, data); err != nil {
			return core.Info{}, both(err, w.Abort())
		}
		return w.Commit(ctx, o)
	})
}

// create returns the Tree's writer of t.
func (s *Server) create(ctx context.Context, t *target) (core.Writer, error) {
	if t.part {
		return s.o.Tree.PutPart(ctx, t.path, t.id, t.number, t.size)
	}
	return s.o.Tree.Create(ctx, t.path, t.file)
}
