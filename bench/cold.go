package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// sluiceCold has its bytes in a versitygw of its own.
const sluiceCold = "sluice-cold"

// coldObjects is how many objects are new to a server in each of its turns: more than it answers for in one.
const coldObjects = 6000

// coldRow reads objects that nobody has read or listed before. What the difference of the medians tells is what Sluice adds to
// the time to the first byte.
func coldRow() row {
	return row{name: "cold4k_c1", unit: "op/s", conns: 1, subject: sluiceCold, peers: []string{versitygw}, whole: cold,
		turn: 350 * time.Millisecond}
}

func startCold(ctx context.Context, o options, s *server, bin string) error {
	o.dir = s.dir // not the peer's
	behind, err := start(ctx, o, versitygw, bin)
	if behind != nil {
		s.behind = append(s.behind, behind)
	}
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(behind.dir, "root", "cold"), 0o755); err != nil {
		return err
	}
	s.s3 = true
	s.note = "a mount of a versitygw of its own; objects appear there and are then read once"
	return s.exec(ctx, []string{bin, "serve", "--data", s.dir, "--s3-listen", s.addr, "--webhdfs-listen", "off", "--admin-listen", "off",
		"--mount", "/cold=s3://cold,path_style=true,region=" + region + ",endpoint=http://" + behind.addr + ",access_key=" + accessKey + ",secret_key=" + secretKey},
		append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+accessKey, "SLUICE_ROOT_SECRET_KEY="+secretKey))
}

// cold puts new files into the directory of the versitygw that is, or is behind, the server, and reads each once.
func cold(s *server, conns, round int, d time.Duration) (sample, error) {
	root := s.dir
	if len(s.behind) > 0 {
		root = s.behind[0].dir
	}
	dir := filepath.Join(root, "root", "cold", strconv.Itoa(round))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return sample{}, err
	}
	body := content("cold", 4*kib)
	for i := range coldObjects {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), body, 0o644); err != nil {
			return sample{}, err
		}
	}
	calls := make([]call, coldObjects)
	for i := range calls {
		calls[i] = call{method: "GET", path: fmt.Sprintf("/cold/%d/%d", round, i), length: -1}
	}
	got, err := run(s.addr, d, signed(s, conns, calls, load{status: 200, length: 4 * kib}))
	if err == nil && got.ops > coldObjects {
		err = fmt.Errorf("%d answers for %d cold objects", got.ops, coldObjects)
	}
	return got, err
}
