package s3api_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sluicefs/sluice/core"
)

// begin starts an upload to b-1/k with one part.
func (r *rig) begin(in s3.CreateMultipartUploadInput) (id string, parts *types.CompletedMultipartUpload) {
	r.Helper()
	in.Bucket, in.Key = aws.String("b-1"), aws.String("d/k")
	up, err := r.s3.CreateMultipartUpload(r.Context(), &in)
	if err != nil {
		r.Fatal(err)
	}
	p, err := r.s3.UploadPart(r.Context(), &s3.UploadPartInput{Bucket: in.Bucket, Key: in.Key, UploadId: up.UploadId, PartNumber: aws.Int32(1),
		ChecksumAlgorithm: types.ChecksumAlgorithm(in.ChecksumAlgorithm), Body: strings.NewReader("part")})
	if err != nil {
		r.Fatal(err)
	}
	return *up.UploadId, &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{PartNumber: aws.Int32(1), ETag: p.ETag}}}
}

func TestDeletedBucketStaysDeleted(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b, k := aws.String(r.bucket()), aws.String("d/k")
	id, parts := r.begin(s3.CreateMultipartUploadInput{})
	r.put("other", "x")
	_, err := r.s3.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: b})
	wantCode(t, err, "BucketNotEmpty")
	if list, err := r.s3.ListParts(ctx, &s3.ListPartsInput{Bucket: b, Key: k, UploadId: &id}); err != nil || len(list.Parts) != 1 {
		t.Errorf("a refused DeleteBucket ended an upload: %v", err)
	}
	if _, err := r.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b, Key: aws.String("other")}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s3.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: b}); err != nil {
		t.Fatal(err)
	}
	_, err = r.s3.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: b, Key: k, UploadId: &id, MultipartUpload: parts})
	wantCode(t, err, "NoSuchBucket")
	_, err = r.s3.UploadPart(ctx, &s3.UploadPartInput{Bucket: b, Key: k, UploadId: &id, PartNumber: aws.Int32(2), Body: strings.NewReader("x")})
	wantCode(t, err, "NoSuchBucket")
	_, err = r.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: b})
	wantCode(t, err, "NotFound")
	r.bucket()
	if list, err := r.s3.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: b}); err != nil || len(list.Uploads) != 0 {
		t.Errorf("the upload outlived its bucket: %+v, %v", list, err)
	}
}

// TestBucketDeletedMeanwhile removes the bucket after each request has looked at it.
func TestBucketDeletedMeanwhile(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	if _, err := r.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("b-2")}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("b-2"), Key: aws.String("src"), Body: strings.NewReader("x")}); err != nil {
		t.Fatal(err)
	}
	b, k := aws.String("b-1"), aws.String("d/k")
	for op, do := range map[string]func() error{
		"Commit": func() error {
			_, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: b, Key: k, Body: strings.NewReader("x")})
			return err
		},
		"Mkdir": func() error {
			_, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: b, Key: aws.String("d/e/"), Body: strings.NewReader("")})
			return err
		},
		"Copy": func() error {
			_, err := r.s3.CopyObject(ctx, &s3.CopyObjectInput{Bucket: b, Key: k, CopySource: aws.String("b-2/src")})
			return err
		},
		"CompleteUpload": func() error {
			id, parts := r.begin(s3.CreateMultipartUploadInput{})
			_, err := r.s3.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: b, Key: k, UploadId: &id, MultipartUpload: parts})
			return err
		},
	} {
		r.bucket()
		removed := false
		r.ns.fail(func(at string) error {
			if at != op || removed {
				return nil
			}
			removed = true
			p, err := core.ParsePath("/b-1/")
			if err != nil {
				return err
			}
			return r.ns.Namespace.Remove(core.WithPrincipal(ctx, core.Principal{User: "alice", Super: true}), p, core.RemoveOptions{})
		})
		err := do()
		r.ns.fail(nil)
		if !removed {
			t.Fatalf("%s: the bucket was not removed: %v", op, err)
		}
		wantCode(t, err, "NoSuchBucket")
		_, err = r.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: b})
		wantCode(t, err, "NotFound")
	}
}
