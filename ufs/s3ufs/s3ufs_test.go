package s3ufs

import (
	"testing"
	"time"

	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

// open returns a store in the fake's bucket.
func (f *fake) open(t *testing.T, prefix string) *Store {
	t.Helper()
	s, err := Open(Options{
		Bucket: f.bucket, Prefix: prefix, Endpoint: f.URL, AccessKey: "access", SecretKey: "secret", PathStyle: true,
		backoff: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSuite(t *testing.T) {
	for name, c := range map[string]struct {
		prefix string
		probe  bool
	}{"conditional": {"", true}, "prefix, not probed": {"pre/fix", false}} {
		t.Run(name, func(t *testing.T) {
			ufstest.Run(t, func(t *testing.T) ufs.Store {
				s := newFake(t).open(t, c.prefix)
				if c.probe {
					if err := s.Probe(t.Context(), true); err != nil {
						t.Fatal(err)
					}
					if !s.Features().Conditional {
						t.Fatal("the probe did not find out that conditions are honoured")
					}
				}
				return s
			})
		})
	}
}
