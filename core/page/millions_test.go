package page_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/page"
)

var (
	millions    = flag.String("pages", "", "measure the index of these `numbers` of pages, separated by commas")
	millionsDir = flag.String("pages.dir", "", "where their files are made and removed, on a disk (default: a temporary directory)")
	millionsPut = flag.Int("pages.put", 2_000_000, "put up to so many as pages of 4 KiB; more are only headers in sparse files")
)

// TestMillions measures what the index of very many pages of 4 KiB takes, and how long it is until they are found again:
//
//	go test ./core/page -run TestMillions -pages 1000000,10000000 [-pages.dir DIR] -timeout 1h -v
//
// It prints a line of JSON for each number. A million takes 4 GiB of disk, ten million 700 MB.
func TestMillions(t *testing.T) {
	if *millions == "" {
		t.Skip("takes some GB; ask for it with -pages 1000000,10000000")
	}
	for text := range strings.SplitSeq(*millions, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(text, func(t *testing.T) { measureIndex(t, n) })
	}
}

// indexRow is a row of the measurements.
type indexRow struct {
	Row          string  `json:"row"`
	Pages        int     `json:"pages"`
	PutMicros    float64 `json:"put_us,omitempty"`          // per page
	PutBytes     float64 `json:"put_index_bytes,omitempty"` // of heap per page, as pages came one by one
	Bytes        float64 `json:"index_bytes"`               // of heap per page, after a restart
	Files        int     `json:"files"`                     // in the directory
	OpenSeconds  float64 `json:"open_s"`                    // until all are found again
	LookupNanos  float64 `json:"lookup_ns"`                 // of a page that is here, at random
	BytesTarget  float64 `json:"index_bytes_target"`
	FilesTarget  int     `json:"files_target"`
	WithinTarget bool    `json:"within_target"`
}

func measureIndex(t *testing.T, n int) {
	dir := *millionsDir
	if dir == "" {
		dir = t.TempDir()
	}
	dir = filepath.Join(dir, "pages-"+strconv.Itoa(n))
	t.Cleanup(func() { os.RemoveAll(dir) })
	key := func(i int) page.Key {
		return page.Key{ID: [16]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24), 'M'}, Rev: uint64(i)}
	}
	quota := int64(n+page.PagesPerChunk-1) / page.PagesPerChunk * page.ChunkStride
	row := indexRow{Row: "page_index", Pages: n, BytesTarget: 100, FilesTarget: 200}
	if n <= *millionsPut {
		s := open(t, page.SegmentOptions{Dir: dir, Quota: quota})
		before, start, data := heap(), time.Now(), make([]byte, 4096)
		for i := range n {
			if err := s.Put(key(i), data); err != nil {
				t.Fatal(err)
			}
		}
		row.PutMicros = float64(time.Since(start).Microseconds()) / float64(n)
		row.PutBytes = float64(heap()-before) / float64(n)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	} else if err := page.WriteHeaders(dir, quota, n, key); err != nil {
		t.Fatal(err)
	}
	before, start := heap(), time.Now()
	s := open(t, page.SegmentOptions{Dir: dir, Quota: quota})
	row.OpenSeconds = time.Since(start).Seconds()
	row.Bytes = float64(heap()-before) / float64(n)
	if got := s.Stats(); got.Pages != int64(n) || got.Corrupt != 0 {
		t.Fatalf("%d pages are here, %d damaged, want %d", got.Pages, got.Corrupt, n)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	row.Files = len(names)
	const looks = 200_000
	start = time.Now()
	for i := range looks {
		if k := int(uint64(i) * 2654435761 % uint64(n)); !s.Has(key(k)) {
			t.Fatalf("page %d is not here", k)
		}
	}
	row.LookupNanos = float64(time.Since(start).Nanoseconds()) / looks
	row.WithinTarget = max(row.Bytes, row.PutBytes) <= row.BytesTarget && row.Files <= row.FilesTarget
	line, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", line)
	if !row.WithinTarget {
		t.Errorf("beyond the target")
	}
}
