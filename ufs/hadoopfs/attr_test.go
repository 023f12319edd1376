package hadoopfs

import (
	"testing"

	"github.com/sluicefs/sluice/ufs"
)

// TestReadOnlyModes keeps attributes with files that nobody may write, as a user whom HDFS then lets set none.
func TestReadOnlyModes(t *testing.T) {
	f, s := newFake(t)
	for _, mode := range []uint32{0o444, 0o644, 0o400} {
		_, err := ufs.WriteFile(t.Context(), s, "a", []byte("data"), ufs.CreateOptions{Attr: ufs.Attr{Mode: mode, ETag: "one"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range []string{"two", "three"} {
			if _, err := s.SetAttr(t.Context(), "a", "", ufs.Attr{Mode: mode, ETag: tag}); err != nil {
				t.Fatal(err)
			}
			in, err := s.Stat(t.Context(), "a")
			if err != nil || in.ETag != tag || in.Mode != mode || f.nodes["/a"].Mode != mode {
				t.Errorf("mode %o: got %o, in HDFS %o, %q, %v", mode, in.Mode, f.nodes["/a"].Mode, in.ETag, err)
			}
		}
	}
}
