package s3ufs

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sluicefs/sluice/core/errs"
)

// A service that keeps its objects in a file system may take "a//b" and "a/./b" for "a/b": what is written under one
// name would change the other. Probe finds out, or the first use of such a name; until then it is taken for S3.

// odd reports whether name has an empty, "." or ".." segment.
func odd(name string) bool {
	return name != "" && slices.ContainsFunc(strings.Split(strings.TrimSuffix(name, "/"), "/"), func(segment string) bool {
		return segment == "" || segment == "." || segment == ".."
	})
}

// learnNames finds out whether the service keeps odd names apart by asking for an object it has under another name. In
// an empty bucket the question stays open, and there is nothing to mistake.
func (s *Store) learnNames(ctx context.Context, op string) error {
	out, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.o.Bucket, Prefix: s.key(""), MaxKeys: aws.Int32(1)})
	if err != nil {
		return fail(ctx, op, "", err)
	}
	if len(out.Contents) == 0 {
		return nil
	}
	return s.judgeNames(ctx, op, strings.TrimPrefix(aws.ToString(out.Contents[0].Key), s.prefix))
}

// judgeNames finds it out by name, which is there.
func (s *Store) judgeNames(ctx context.Context, op, name string) error {
	folds := false
	for _, other := range []string{"./" + name, strings.Replace(name, "/", "//", 1)} {
		if other == name {
			continue
		}
		_, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: s.key(other)})
		if isBadRequest(err) { // of a HEAD, which cannot say why: it is the name if the plain one is answered
			_, err = s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: s.key(name)})
		}
		switch err = fail(ctx, op, other, err); {
		case err == nil || errors.Is(err, errs.Invalid):
			folds = true
		case errors.Is(err, errs.Permission):
			return nil // the question stays open
		case !errors.Is(err, errs.NotExist):
			return err
		}
	}
	s.folds.Store(folds)
	s.named.Store(true)
	return nil
}

func isBadRequest(err error) bool {
	r, ok := errors.AsType[*smithyhttp.ResponseError](err)
	return ok && r.HTTPStatusCode() == http.StatusBadRequest
}
