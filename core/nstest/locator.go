package nstest

import (
	"bytes"
	"crypto/md5" //nolint:gosec // HDFS's
	"encoding/binary"
	"hash/crc32"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

var locatorTests = []entry{
	{name: "Locate returns the blocks of the range", test: func(f *fixture) {
		f.putWith("a", pattern(1, 2500), core.CreateOptions{Size: 2500, Attr: core.FileAttr{BlockSize: 1024}})
		for _, c := range []struct {
			r    core.Range
			want [][2]int64
		}{
			{core.All, [][2]int64{{0, 1024}, {1024, 1024}, {2048, 452}}}, {core.Range{Off: 1024, Len: 1}, [][2]int64{{1024, 1024}}},
			{core.Range{Off: 1000, Len: 100}, [][2]int64{{0, 1024}, {1024, 1024}}}, {core.Range{Off: 2500, Len: 10}, nil}, {core.Range{Off: 9999, Len: 1}, nil},
		} {
			blocks, err := f.Locate(f.ctx(), f.path("a"), c.r)
			if err != nil || len(blocks) != len(c.want) {
				f.Errorf("%+v: got %+v, %v", c.r, blocks, err)
				continue
			}
			for i, b := range blocks {
				if b.Off != c.want[i][0] || b.Len != c.want[i][1] || len(b.Hosts) != len(b.Names) || len(b.Hosts) == 0 {
					f.Errorf("%+v: block %d is %+v, want %v", c.r, i, b, c.want[i])
				}
			}
		}
		_, err := f.Locate(f.ctx(), f.path("n"), core.All)
		f.wantErr("missing", err, errs.NotExist)
		_, err = f.Locate(f.ctx(), f.path(""), core.All)
		f.wantErr("directory", err, errs.IsDir)
	}},
	{name: "FileChecksum is HDFS's", test: func(f *fixture) {
		for _, size := range []int{1, 511, 512, 513, 1024, 5000, 70_000} {
			for _, block := range []int64{1024, 128 << 20} {
				data := pattern(size, size)
				f.putWith("a", data, core.CreateOptions{Size: int64(size), Attr: core.FileAttr{BlockSize: block}})
				f.wantChecksum("a", data, block)
			}
		}
		f.append("a", "tail")
		f.wantChecksum("a", pattern(70_000, 70_000)+"tail", 128<<20)
		f.storePut("s", large)
		f.wantChecksum("s", large, 128<<20)
		_, err := f.FileChecksum(f.ctx(), f.path("n"))
		f.wantErr("missing", err, errs.NotExist)
	}},
	{name: "FileChecksum of what another way brought", test: func(f *fixture) {
		f.put("a", large)
		_, err := f.Copy(f.ctx(), f.path("a"), f.path("b"), core.CopyOptions{})
		f.must(err)
		f.wantChecksum("b", large, 128<<20)
		id := f.begin("c", core.CreateOptions{})
		f.mustComplete("c", id, f.part("c", id, 1, big), f.part("c", id, 2, "x"))
		f.wantChecksum("c", big+"x", 128<<20)
	}},
	{name: "Summarize counts what is at and below a name", test: func(f *fixture) {
		f.put("d/a", "123")
		f.put("d/e/b", "4567")
		f.storePut("d/e/f/c", "89")
		f.mkdir("d/g/")
		for name, want := range map[string]core.Summary{
			"d/": {Dirs: 4, Files: 3, Bytes: 9}, "~d": {Dirs: 4, Files: 3, Bytes: 9}, "d/e/": {Dirs: 2, Files: 2, Bytes: 6},
			"d/a": {Files: 1, Bytes: 3}, "d/g/": {Dirs: 1}, "": {Dirs: 5, Files: 3, Bytes: 9},
		} {
			if got, err := f.Summarize(f.ctx(), f.path(name)); err != nil || got != want {
				f.Errorf("%q: got %+v, %v; want %+v", name, got, err, want)
			}
		}
		_, err := f.Summarize(f.ctx(), f.path("n"))
		f.wantErr("missing", err, errs.NotExist)
		f.chmod("d/e/", 0o700)
		ann := f.as("ann")
		_, err = ann.Summarize(ann.ctx(), f.path("d/"))
		f.wantErr("unreadable", err, errs.Permission)
	}},
}

func (f *fixture) wantChecksum(name, data string, block int64) {
	f.Helper()
	got, err := f.FileChecksum(f.ctx(), f.path(name))
	if want := hdfsChecksum(data, block); err != nil || !bytes.Equal(got.Bytes, want) {
		f.Errorf("%q, %d bytes in blocks of %d: got %s %x, %v; want %x", name, len(data), block, got.Algorithm, got.Bytes, err, want)
	}
}

// hdfsChecksum is the definition spelled out: the MD5, over a buffer that HDFS pads to a power of two of at least 32 bytes,
// of the MD5s of the blocks' CRC32Cs of 512 bytes each. Source: Hadoop's FileChecksumHelper and MD5MD5CRC32FileChecksum.
func hdfsChecksum(data string, block int64) []byte {
	var blocks []byte
	for at := 0; at < len(data); at += int(min(block, int64(len(data)-at))) {
		var crcs []byte
		part := data[at:min(int64(len(data)), int64(at)+block)]
		for i := 0; i < len(part); i += 512 {
			crc := crc32.Checksum([]byte(part[i:min(len(part), i+512)]), crc32.MakeTable(crc32.Castagnoli))
			crcs = binary.BigEndian.AppendUint32(crcs, crc)
		}
		sum := md5.Sum(crcs) //nolint:gosec // HDFS's
		blocks = append(blocks, sum[:]...)
	}
	perBlock := uint64(0)
	if int64(len(data)) > block {
		perBlock = uint64(block / 512)
	}
	padded := 32
	for padded < len(blocks) {
		padded *= 2
	}
	whole := md5.Sum(append(blocks, make([]byte, padded-len(blocks))...)) //nolint:gosec // HDFS's
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, 512), perBlock)
	return append(b, whole[:]...)
}
