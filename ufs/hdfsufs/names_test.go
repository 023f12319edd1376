package hdfsufs

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluicefs/sluice/core/errs"
)

// TestReadable refuses files whose blocks are not their bytes, and no directory.
func TestReadable(t *testing.T) {
	for _, c := range []struct {
		kind  protoreflect.EnumNumber
		field string
		want  error
	}{
		{isFile, "", nil}, {isFile, "fileEncryptionInfo", errs.Unsupported}, {isFile, "ecPolicy", errs.Unsupported},
		{isDir, "fileEncryptionInfo", nil}, {isDir, "ecPolicy", nil},
	} {
		m, err := newMessage("hadoop.hdfs.HdfsFileStatusProto")
		if err == nil {
			err = fill(m, map[string]any{"fileType": c.kind})
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.field != "" {
			m.Mutable(m.Descriptor().Fields().ByName(protoreflect.Name(c.field)))
		}
		if err := readable("test", "/f", m); errs.KindOf(err) != errs.KindOf(c.want) {
			t.Errorf("a file of type %d with %q: got %v", c.kind, c.field, err)
		}
	}
}
