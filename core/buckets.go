package core

import (
	"context"
	"net/netip"
	"strings"
)

// Buckets is what the S3 front-end asks of bucket aliases: names of buckets that stand for directories anywhere. What an alias leads to
// is authorised as the path itself is.
type Buckets interface {
	// BucketAlias returns the directory that the alias name stands for; false if there is no such alias.
	BucketAlias(ctx context.Context, name string) (Path, bool, error)
	// BucketAliases returns all aliases, by name.
	BucketAliases(ctx context.Context) ([]BucketAlias, error)
}

// BucketAdmin changes bucket aliases, which are journaled. Only a superuser may use it: errs.Permission.
type BucketAdmin interface {
	Buckets
	// SetBucketAlias makes name stand for the directory at, also where it stood for another. Errors: errs.Invalid if name cannot be a
	// bucket's; errs.Exist if a directory or file at the root has the name; errs.NotExist or errs.NotDir if at is no directory;
	// errs.NoSpace beyond MaxBucketAliases or MaxBucketAliasBytes.
	SetBucketAlias(ctx context.Context, name string, at Path) (BucketAlias, error)
	// RemoveBucketAlias takes an alias back; what it stood for stays. Errors: errs.NotExist.
	RemoveBucketAlias(ctx context.Context, name string) error
}

// BucketAlias is a bucket that stands for a directory. It names a path: it does not follow a directory that is renamed.
type BucketAlias struct {
	Name string
	Path Path // a directory's
}

// MaxBucketAliases is how many aliases there may be.
const MaxBucketAliases = 10_000

// MaxBucketAliasBytes is how many bytes the names and paths of all aliases may have together: gateways are told all of them at once.
const MaxBucketAliasBytes = 2 << 20

// BucketName reports whether name may be a bucket's.
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
func BucketName(name string) bool {
	if len(name) < 3 || len(name) > 63 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' && c != '.' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	if strings.Contains(name, "..") {
		return false
	}
	for _, p := range []string{"xn--", "sthree-"} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	for _, p := range []string{"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"} {
		if strings.HasSuffix(name, p) {
			return false
		}
	}
	_, err := netip.ParseAddr(name)
	return err != nil
}
