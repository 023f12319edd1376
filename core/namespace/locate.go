package namespace

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Locate implements core.Locator: every block is served by this process.
func (n *Namespace) Locate(ctx context.Context, p core.Path, r core.Range) ([]core.Block, error) {
	info, err := n.Stat(ctx, p)
	if err != nil {
		return nil, err
	}
	if info.Dir {
		return nil, errs.E("namespace.Locate", p.String(), errs.IsDir, nil)
	}
	off, length, err := clamp(r, info.Size)
	if err != nil || length == 0 {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(n.o.Host)
	if err != nil {
		host = n.o.Host
	}
	var blocks []core.Block
	for at := off - off%info.BlockSize; at < off+length; at += info.BlockSize {
		blocks = append(blocks, core.Block{Off: at, Len: min(info.BlockSize, info.Size-at), Hosts: []string{host}, Names: []string{n.o.Host}})
	}
	return blocks, nil
}

// FileChecksum implements core.Locator.
func (n *Namespace) FileChecksum(ctx context.Context, p core.Path) (core.FileChecksum, error) {
	ctx = n.looking(ctx, looksUp)
	rd, err := n.Open(ctx, p, core.All)
	if err != nil {
		return core.FileChecksum{}, err
	}
	defer rd.Close()
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return core.FileChecksum{}, err
	}
	if nd.file() && origin(nd.entry.ID, nd.entry.Rev) == rd.Info().Version {
		if algorithm, sum, ok := strings.Cut(nd.entry.HDFSSum, ":"); ok {
			if b, err := hex.DecodeString(sum); err == nil {
				return core.FileChecksum{Algorithm: algorithm, Bytes: b}, nil
			}
		}
	}
	h := newHDFSSum(rd.Info().BlockSize)
	if _, err := io.Copy(h, struct{ io.Reader }{rd}); err != nil {
		return core.FileChecksum{}, err
	}
	return h.sum(), nil
}

// Summarize implements core.Locator.
func (n *Namespace) Summarize(ctx context.Context, p core.Path) (core.Summary, error) {
	ctx = n.looking(ctx, lists)
	if err := n.traverse(ctx, p); err != nil {
		return core.Summary{}, err
	}
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return core.Summary{}, err
	}
	if !nd.dir() {
		return core.Summary{Files: 1, Bytes: n.infoOf(&nd).Size}, nil
	}
	s := core.Summary{}
	dirs := []core.Path{nd.path}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		s.Dirs++
		err := n.list(ctx, dir, core.ListOptions{Children: true}, func(x *lister) bool {
			child := x.node()
			if child.dir() {
				dirs = append(dirs, child.path)
				return true
			}
			s.Files++
			s.Bytes += n.infoOf(child).Size
			return true
		})
		if errs.KindOf(err) == errs.NotExist {
			s.Dirs--
			continue // removed while it was counted
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}
