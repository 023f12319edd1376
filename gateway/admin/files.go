package admin

import (
	"context"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// Entry is a file or directory as the API shows it.
type Entry struct {
	Path       string            `json:"path" doc:"A directory's ends in a slash."`
	Name       string            `json:"name,omitempty" doc:"In a list: relative to the directory listed."`
	Type       string            `json:"type" enum:"file,directory"`
	Size       int64             `json:"size" doc:"Bytes; 0 for a directory."`
	Modified   time.Time         `json:"modified"`
	Owner      string            `json:"owner"`
	Group      string            `json:"group"`
	Mode       string            `json:"mode" example:"0644"`
	ETag       string            `json:"etag,omitempty"`
	Mount      string            `json:"mount" doc:"Path of the mount it lives in."`
	MountPoint bool              `json:"mount_point,omitempty"`
	ReadOnly   bool              `json:"read_only,omitempty"`
	BlockSize  int64             `json:"block_size,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"`
	User       map[string]string `json:"user_metadata,omitempty"`
	Age        float64           `json:"age,omitempty" doc:"Seconds since its facts were last checked against the store."`
	Cache      string            `json:"cache,omitempty" doc:"How the facts were come by: HIT, MISS, REVALIDATED or STALE."`
}

// Summary counts what is below a directory, itself included.
type Summary struct {
	Directories int64 `json:"directories"`
	Files       int64 `json:"files"`
	Bytes       int64 `json:"bytes"`
}

// Transfer names what to copy or move where.
type Transfer struct {
	From      string `json:"from"`
	To        string `json:"to"`
	Overwrite bool   `json:"overwrite,omitempty" doc:"Replace a file that is there."`
}

// NewDirectory names a directory to make.
type NewDirectory struct {
	Path    string `json:"path"`
	Parents bool   `json:"parents,omitempty" doc:"Make missing parents too, and accept that it exists."`
	Mode    string `json:"mode,omitempty" example:"0755"`
}

// PathInput names a file or directory.
type PathInput struct {
	Path string `query:"path" required:"true" doc:"Absolute path. With a trailing slash it names a directory only."`
}

func (s *Server) registerFiles() {
	const fs = base + "/fs"
	huma.Register(s.api, operation("Stat", http.MethodGet, fs+"/entry", "Show a file or directory"), s.stat)
	huma.Register(s.api, operation("Remove", http.MethodDelete, fs+"/entry", "Remove a file or directory"), s.remove)
	huma.Register(s.api, operation("List", http.MethodGet, fs+"/entries", "List a directory"), s.list)
	huma.Register(s.api, operation("Summarize", http.MethodGet, fs+"/summary", "Count what is below a directory"), s.summarize)
	huma.Register(s.api, operation("Copy", http.MethodPost, fs+"/copy", "Copy a file"), s.copy)
	huma.Register(s.api, operation("Move", http.MethodPost, fs+"/move", "Move a file or directory in one step"), s.move)
	huma.Register(s.api, operation("Mkdir", http.MethodPost, fs+"/mkdir", "Make a directory"), s.mkdir)

	bytes := map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}
	read := operation("Read", http.MethodGet, fs+"/content", "Read a file's bytes")
	read.Responses = map[string]*huma.Response{"200": {Description: "The bytes.", Content: bytes}}
	huma.Register(s.api, read, s.read)
	write := operation("Write", http.MethodPut, fs+"/content", "Make a file of the request's body")
	write.DefaultStatus = http.StatusCreated
	write.RequestBody = &huma.RequestBody{Content: bytes}
	huma.Register(s.api, write, s.write)
}

// parsePath returns the path s names: the directory, else the file, unless a trailing slash says directory or an empty
// segment makes it a name that only an object store has.
func parsePath(s string) (core.Path, error) {
	if strings.HasSuffix(s, "/") || strings.Contains(s, "//") {
		return core.ParsePath(s)
	}
	return core.ParseEither(s)
}

// parseFile returns the file s names.
func parseFile(s string) (core.Path, error) {
	if strings.HasSuffix(s, "/") {
		return core.Path{}, errs.New("admin", s, errs.IsDir, "a file's path has no trailing slash")
	}
	return core.ParsePath(s)
}

func (s *Server) stat(ctx context.Context, in *PathInput) (*body[Entry], error) {
	p, err := parsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	info, err := s.o.Namespace.Stat(ctx, p)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Entry]{entry(info)}, nil
}

func (s *Server) remove(ctx context.Context, in *struct {
	PathInput
	Recursive bool `query:"recursive" doc:"Remove a directory with everything below it, in one step."`
}) (*struct{}, error) {
	p, err := parsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return nil, failed(ctx, s.o.Namespace.Remove(ctx, p, core.RemoveOptions{Recursive: in.Recursive}))
}

func (s *Server) list(ctx context.Context, in *struct {
	PathInput
	Recursive bool   `query:"recursive" doc:"List every file at any depth, and no directories."`
	After     string `query:"after" doc:"Only names after this one: next of the page before."`
	Limit     int    `query:"limit" default:"1000" minimum:"1" maximum:"10000"`
}) (*body[List[Entry]], error) {
	p, err := parsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	out := &body[List[Entry]]{Body: List[Entry]{Items: []Entry{}}}
	o := core.ListOptions{Children: !in.Recursive, After: in.After, Limit: in.Limit + 1}
	for info, err := range s.o.Namespace.List(ctx, p.Dir(), o) {
		if err != nil {
			return nil, failed(ctx, err)
		}
		if n := len(out.Body.Items); n == in.Limit {
			out.Body.Next = out.Body.Items[n-1].Name
			break
		}
		e := entry(info)
		e.Name = info.Name
		out.Body.Items = append(out.Body.Items, e)
	}
	return out, nil
}

func (s *Server) summarize(ctx context.Context, in *PathInput) (*body[Summary], error) {
	p, err := parsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	sum, err := s.o.Locator.Summarize(ctx, p)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Summary]{Summary{sum.Dirs, sum.Files, sum.Bytes}}, nil
}

func (s *Server) copy(ctx context.Context, in *body[Transfer]) (*body[Entry], error) {
	src, err := parseFile(in.Body.From)
	if err != nil {
		return nil, failed(ctx, err)
	}
	dst, err := parseFile(in.Body.To)
	if err != nil {
		return nil, failed(ctx, err)
	}
	o := core.CopyOptions{MakeParents: true}
	if !in.Body.Overwrite {
		o.Dest.IfNoneMatch = "*"
	}
	info, err := s.o.Namespace.Copy(ctx, src, dst, o)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Entry]{entry(info)}, nil
}

func (s *Server) move(ctx context.Context, in *body[Transfer]) (*struct{}, error) {
	src, err := parsePath(in.Body.From)
	if err != nil {
		return nil, failed(ctx, err)
	}
	dst, err := parsePath(in.Body.To)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return nil, failed(ctx, s.o.Namespace.Rename(ctx, src, dst, core.RenameOptions{Overwrite: in.Body.Overwrite}))
}

func (s *Server) mkdir(ctx context.Context, in *body[NewDirectory]) (*body[Entry], error) {
	p, err := core.ParsePath(in.Body.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	mode, err := config.ParseMode(in.Body.Mode)
	if err != nil {
		return nil, failed(ctx, &config.FieldError{Key: "mode", Err: err})
	}
	info, err := s.o.Namespace.Mkdir(ctx, p.Dir(), core.MkdirOptions{Mode: mode, MakeParents: in.Body.Parents})
	if errs.KindOf(err) == errs.Exist && in.Body.Parents {
		// As mkdir -p: it is fine if it is there, but not if a file is.
		info, err = s.o.Namespace.Stat(ctx, p.Dir())
	}
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Entry]{entry(info)}, nil
}

func (s *Server) read(ctx context.Context, in *struct {
	PathInput
	Offset int64 `query:"offset" doc:"First byte; negative: that many from the end."`
	Length int64 `query:"length" default:"-1" doc:"Number of bytes; -1: to the end."`
}) (*huma.StreamResponse, error) {
	p, err := parsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	r, err := s.o.Namespace.Open(ctx, p, core.Range{Off: in.Offset, Len: in.Length})
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &huma.StreamResponse{Body: func(out huma.Context) {
		defer r.Close()
		_, n := r.Span()
		out.SetHeader("Content-Type", "application/octet-stream")
		out.SetHeader("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": p.Name()}))
		out.SetHeader("Content-Length", strconv.FormatInt(n, 10))
		out.SetHeader("ETag", `"`+r.Info().ETag+`"`)
		out.SetStatus(http.StatusOK)
		if _, err := r.WriteTo(out.BodyWriter()); err != nil {
			recordOf(ctx).err = err
			panic(http.ErrAbortHandler) // the status is sent; only a cut connection can say that bytes are missing
		}
	}}, nil
}

// Upload gives a handler the request's body as a stream.
type Upload struct {
	reader io.Reader
	size   int64 // bytes, -1 if not known
}

// Resolve is called by huma before the handler.
func (u *Upload) Resolve(ctx huma.Context) []error {
	r, _ := humamux.Unwrap(ctx)
	u.reader, u.size = r.Body, r.ContentLength
	return nil
}

func (s *Server) write(ctx context.Context, in *struct {
	PathInput
	Upload
	Overwrite   bool   `query:"overwrite" doc:"Replace a file that is there."`
	ContentType string `header:"Content-Type" doc:"Kept with the file."`
}) (*body[Entry], error) {
	p, err := parseFile(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	o := core.CreateOptions{Mode: core.CreateNew, MakeParents: true, Size: in.size}
	if in.Overwrite {
		o.Mode = core.Replace
	}
	if in.ContentType != "" {
		o.Attr.Headers = map[string]string{"Content-Type": in.ContentType}
	}
	w, err := s.o.Namespace.Create(ctx, p, o)
	if err != nil {
		return nil, failed(ctx, err)
	}
	if _, err := io.Copy(w, in.reader); err != nil {
		_ = w.Abort()
		return nil, failed(ctx, err)
	}
	info, err := w.Commit(ctx, core.CommitOptions{})
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Entry]{entry(info)}, nil
}

func entry(i core.Info) Entry {
	e := Entry{
		Path: i.Path.String(), Type: "file", Size: i.Size, Modified: i.ModTime.UTC(), Owner: i.Owner, Group: i.Group,
		Mode: octal(i.Mode), ETag: i.ETag, Mount: i.Mount, MountPoint: i.MountPoint, ReadOnly: i.ReadOnly,
		BlockSize: i.BlockSize, Headers: i.Headers, User: i.User, Age: i.Age.Seconds(), Cache: string(i.Cache),
	}
	if i.Dir {
		e.Type = "directory"
	}
	return e
}
