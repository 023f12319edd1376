package s3api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// maxBuckets is the largest page of ListBuckets.
const maxBuckets = 10000

// listBuckets serves ListBuckets: the directories at the root whose names are bucket names, and the aliases.
func (s *Server) listBuckets(r *request) error {
	if r.anonymous() {
		return errAccessDenied
	}
	limit, err := r.limit("max-buckets", maxBuckets+1)
	if v := r.query.Get("max-buckets"); err != nil || limit == 0 || v != "" && limit > maxBuckets {
		return invalidArgument("max-buckets", v, "Argument max-buckets must be an integer between 1 and 10000.")
	}
	limit = min(limit, maxBuckets)
	prefix, after := r.query.Get("prefix"), ""
	if v, ok := r.query["continuation-token"]; ok {
		if after, err = openToken("", v[0]); err != nil {
			return err
		}
	}
	all, err := s.bucketsOf(r, prefix, after, limit+1)
	if err != nil {
		return err
	}
	x := newXML(128 * len(all))
	x.root("ListAllMyBucketsResult")
	x.owner("Owner", r.user.User)
	x.open("Buckets")
	more := len(all) > limit
	if more {
		all = all[:limit]
	}
	for _, b := range all {
		x.open("Bucket")
		x.text("Name", b.Name)
		x.time("CreationDate", b.ModTime)
		x.text("BucketRegion", s.region)
		x.close("Bucket")
	}
	x.close("Buckets")
	if more {
		x.text("ContinuationToken", sealToken("", all[limit-1].Name))
	}
	x.optional("Prefix", prefix)
	x.close("ListAllMyBucketsResult")
	return r.document(x.b)
}

// alias returns the directory that a bucket stands for; false if it is no alias.
func (s *Server) alias(ctx context.Context, name string) (core.Path, bool, error) {
	if p, ok := s.aliases[name]; ok {
		return p, true, nil
	}
	if s.buckets == nil {
		return core.Path{}, false, nil
	}
	return s.buckets.BucketAlias(ctx, name)
}

// allAliases returns the directories of all aliases by name.
func (s *Server) allAliases(ctx context.Context) (map[string]core.Path, error) {
	if s.buckets == nil {
		return s.aliases, nil
	}
	more, err := s.buckets.BucketAliases(ctx)
	if err != nil || len(more) == 0 {
		return s.aliases, err
	}
	all := make(map[string]core.Path, len(more)+len(s.aliases))
	for _, a := range more {
		all[a.Name] = a.Path
	}
	maps.Copy(all, s.aliases)
	return all, nil
}

// bucketsOf returns the first buckets, up to most, whose names start with prefix and are greater than after, by name: those that the
// client may see.
func (s *Server) bucketsOf(r *request, prefix, after string, most int) ([]core.Info, error) {
	aliases, err := s.allAliases(r.ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	dirs := map[string]core.Info{}
	for info, err := range s.ns.List(r.ctx, core.Root, core.ListOptions{Children: true, Prefix: prefix}) {
		if err != nil {
			return nil, err
		}
		name, dir := strings.CutSuffix(info.Name, "/")
		_, aliased := aliases[name]
		if dir && !aliased && name > after && validBucket(name) {
			info.Name = name
			names, dirs[name] = append(names, name), info
		}
	}
	for name := range aliases {
		if strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []core.Info
	for _, name := range names {
		if len(all) >= most {
			break
		}
		info, there := dirs[name]
		if !there {
			info, err = s.ns.Stat(r.ctx, aliases[name])
			if errors.Is(err, errs.NotExist) || errors.Is(err, errs.NotDir) || errors.Is(err, errs.Permission) || err == nil && !info.Dir {
				continue // an alias of what is not there, or is not the client's to see, is no bucket of its
			}
			if err != nil {
				return nil, err
			}
			info.Name = name
		}
		all = append(all, info)
	}
	return all, nil
}

// limit reads a page size: absent is most, larger is cut. Errors: InvalidArgument.
func (r *request) limit(name string, most int) (int, error) {
	v := r.query.Get(name)
	if v == "" {
		return most, nil
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 {
		return 0, invalidArgument(name, v, "Argument "+name+" must be an integer between 0 and 2147483647")
	}
	return int(min(n, int64(most))), nil
}

// createBucket serves CreateBucket: a directory at the root.
func (s *Server) createBucket(r *request) error {
	h := r.http.Header
	if err := refuseUnbuilt(h); err != nil {
		return err
	}
	if v := h.Get("X-Amz-Bucket-Object-Lock-Enabled"); v != "" && !strings.EqualFold(v, "false") {
		return notImplemented("x-amz-bucket-object-lock-enabled")
	}
	if v := h.Get("X-Amz-Object-Ownership"); v != "" && v != "BucketOwnerEnforced" {
		return notImplemented("x-amz-object-ownership")
	}
	if err := s.checkLocation(r); err != nil {
		return err
	}
	if r.anonymous() {
		return errAccessDenied
	}
	if r.aliased {
		return s.taken(r)
	}
	_, err := s.ns.Mkdir(r.ctx, r.dir, core.MkdirOptions{})
	if errors.Is(err, errs.Exist) {
		return s.taken(r)
	}
	if err != nil {
		return err
	}
	f := r.fields(2)
	f.set("Location", "/"+r.bucket)
	f.set("x-amz-bucket-arn", "arn:aws:s3:::"+r.bucket)
	return r.empty(http.StatusOK)
}

// taken says whose the bucket is that exists.
func (s *Server) taken(r *request) error {
	info, err := s.ns.Stat(r.ctx, r.dir)
	if err == nil && info.Owner == r.user.User {
		return errOwnBucket
	}
	return errs.E("s3api.CreateBucket", r.bucket, errs.Exist, nil)
}

// checkLocation reads the document of CreateBucket, which is optional. Errors: MalformedXML, InvalidLocationConstraint,
// NotImplemented.
func (s *Server) checkLocation(r *request) error {
	doc, err := r.readDocument()
	if err != nil || len(doc) == 0 {
		return err
	}
	root, err := parseXML(doc, maxSmallElements, "CreateBucketConfiguration", "CreateBucketRequest")
	if err != nil {
		return err
	}
	for _, e := range root.children {
		switch e.name {
		case "LocationConstraint":
			want := strings.TrimSpace(e.value)
			if len(e.children) > 0 {
				return errMalformedXML
			}
			if want != "" && want != s.region && !s.anyRegion {
				return &apiError{Code: "InvalidLocationConstraint", Status: 400, Message: "The specified location-constraint is not valid",
					Detail: []pair{{"LocationConstraint", want}}}
			}
		case "Location", "Bucket", "Tags":
			return notImplemented("CreateBucketConfiguration." + e.name)
		default:
			return errMalformedXML
		}
	}
	return nil
}

// headBucket serves HeadBucket.
func (s *Server) headBucket(r *request) error {
	if _, err := s.statBucket(r); err != nil {
		return err
	}
	f := r.fields(3)
	f.set("x-amz-bucket-arn", "arn:aws:s3:::"+r.bucket)
	f.set("x-amz-bucket-region", s.region)
	f.set("Content-Type", "application/xml")
	r.begin(http.StatusOK)
	return nil
}

// deleteBucket serves DeleteBucket. A mount stays: what lies in it is not Sluice's to remove.
func (s *Server) deleteBucket(r *request) error {
	if _, aliased := s.aliases[r.bucket]; aliased {
		return &apiError{Code: "AccessDenied", Status: 403, Message: "The bucket is an alias of the configuration; remove it there."}
	}
	if r.aliased {
		return &apiError{Code: "AccessDenied", Status: 403,
			Message: "The bucket is an alias, which stands for a directory; an administrator takes it back with sluice bucket alias rm " + r.bucket + "."}
	}
	info, err := s.statBucket(r)
	if err != nil {
		return err
	}
	if info.MountPoint {
		return errs.E("s3api.DeleteBucket", r.bucket, errs.Busy, nil)
	}
	uploads, err := s.uploadsTo(r)
	if err != nil {
		return err
	}
	if err := s.ns.Remove(r.ctx, r.dir, core.RemoveOptions{}); err != nil {
		return err
	}
	for _, up := range uploads {
		if err := s.uploads.AbortUpload(r.ctx, up.Path, up.ID); err != nil && !errors.Is(err, errs.NotExist) {
			s.log.WarnContext(r.ctx, "an upload to a deleted bucket is still there", "id", r.id[0], "path", up.Path.String(), "upload", up.ID, "err", err)
		}
	}
	return r.empty(http.StatusNoContent)
}

// uploadsTo returns the uploads to the bucket, which do not keep it, as in S3, and go with it.
func (s *Server) uploadsTo(r *request) (all []core.Upload, err error) {
	for up, err := range s.uploads.ListUploads(r.ctx, r.dir, "", "", "") {
		if errors.Is(err, errs.Permission) {
			return nil, nil // who may not see them may still remove the bucket; their owners end them
		}
		if err != nil {
			return nil, err
		}
		all = append(all, up)
	}
	return all, nil
}

// getBucketLocation serves GetBucketLocation; the region us-east-1 has an empty name.
func (s *Server) getBucketLocation(r *request) error {
	if _, err := s.statBucket(r); err != nil {
		return err
	}
	x := newXML(128)
	x.root("LocationConstraint")
	if s.region != "us-east-1" {
		x.b = appendEscaped(x.b, s.region)
	}
	x.close("LocationConstraint")
	return r.document(x.b)
}
