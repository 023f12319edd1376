package conformance

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// s3Client returns an S3 client that never repeats a request.
func s3Client(url, access, secret string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &url, Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""), Retryer: aws.NopRetryer{},
	})
}

// client returns a client of the store itself, behind Sluice's back.
func (s *S3Store) client() *s3.Client { return s3Client(s.URL, s.AccessKey, s.SecretKey) }

// client returns a client of Sluice.
func (s *Server) client() *s3.Client { return s3Client(s.S3, AccessKey, SecretKey) }

func makeBucket(t *testing.T, s *S3Store, name string) {
	t.Helper()
	if _, err := s.client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
}
