package webhdfs

import (
	"encoding/hex"
	"errors"
	"math"
	"net"
	"net/http"
	"strconv"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// blocks returns the request's file and its blocks in the range asked for.
func (s *Server) blocks(r *request) (core.Info, []core.Block, error) {
	rng := core.Range{Off: r.q.long("offset", 0, 0), Len: r.q.long("length", -1, 0)}
	if r.q.err != nil {
		return core.Info{}, nil, r.q.err
	}
	info, err := s.file(r)
	if err != nil || rng.Off >= info.Size {
		return info, nil, err
	}
	if rng.Len > info.Size { // clients send the largest number for "to the end"
		rng.Len = -1
	}
	found, err := s.o.Locator.Locate(r.Context(), r.path, rng)
	return info, found, absent(err, "File %s not found.", r.name)
}

// getFileBlockLocations serves GETFILEBLOCKLOCATIONS, which Spark asks once a file.
func (s *Server) getFileBlockLocations(w http.ResponseWriter, r *request) error {
	_, found, err := s.blocks(r)
	if err != nil {
		return err
	}
	locations := make([]any, 0, len(found))
	for _, b := range found {
		topology := make([]string, 0, len(b.Names))
		for _, n := range b.Names {
			topology = append(topology, "/default-rack/"+n)
		}
		locations = append(locations, map[string]any{
			"offset": b.Off, "length": b.Len, "corrupt": false, "hosts": list(b.Hosts), "names": list(b.Names),
			"cachedHosts": []string{}, "topologyPaths": topology, "storageTypes": disks(len(b.Names)),
		})
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"BlockLocations": map[string]any{"BlockLocation": locations}})
	return nil
}

// getBlockLocations serves GET_BLOCK_LOCATIONS, the same for clients up to Hadoop 3.3.
func (s *Server) getBlockLocations(w http.ResponseWriter, r *request) error {
	info, found, err := s.blocks(r)
	if err != nil {
		return err
	}
	located := make([]any, 0, len(found))
	for _, b := range found {
		located = append(located, locatedBlock(info, b))
	}
	var last any
	if n := len(found); n > 0 && found[n-1].Off+found[n-1].Len == info.Size {
		last = located[n-1]
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"LocatedBlocks": map[string]any{
		"fileLength": info.Size, "isUnderConstruction": false, "isLastBlockComplete": true,
		"lastLocatedBlock": last, "locatedBlocks": located,
	}})
	return nil
}

// locatedBlock returns a block in the NameNode's words. Numbers and token only have to be there: no client of WebHDFS
// talks to a DataNode with them.
func locatedBlock(info core.Info, b core.Block) map[string]any {
	nodes := make([]any, 0, len(b.Names))
	for i, name := range b.Names {
		host, p, err := net.SplitHostPort(name)
		if err != nil {
			host = name
		}
		port, _ := strconv.Atoi(p) // 0 if there is none
		hostName := host
		if i < len(b.Hosts) {
			hostName = b.Hosts[i]
		}
		nodes = append(nodes, map[string]any{
			"ipAddr": host, "hostName": hostName, "name": name, "storageID": "", "networkLocation": "/default-rack",
			"adminState": "NORMAL", "xferPort": port, "infoPort": port, "infoSecurePort": 0, "ipcPort": port,
			"capacity": 0, "dfsUsed": 0, "remaining": 0, "blockPoolUsed": 0, "lastUpdate": 0, "xceiverCount": 0,
		})
	}
	return map[string]any{
		"block": map[string]any{
			"blockPoolId": "BP-sluice", "blockId": (info.ID<<16 + uint64(b.Off/blockSize(info))) &^ (1 << 63),
			"numBytes": b.Len, "generationStamp": 1000,
		},
		"blockToken":  map[string]string{"urlString": "AAAAAA"}, // the empty token: four lengths of zero
		"startOffset": b.Off, "isCorrupt": false, "storageTypes": disks(len(b.Names)),
		"cachedLocations": []any{}, "locations": nodes,
	}
}

// list returns names as an array, never null.
func list(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

// disks returns the storage type of n replicas.
func disks(n int) []string {
	types := make([]string, n)
	for i := range types {
		types[i] = "DISK"
	}
	return types
}

// getFileChecksum serves GETFILECHECKSUM, in two steps: some clients insist on the redirect.
func (s *Server) getFileChecksum(w http.ResponseWriter, r *request) error {
	info, err := s.file(r)
	if err != nil {
		return err
	}
	if r.ticket == nil {
		if err := s.o.Attrs.CheckAccess(r.Context(), r.path, 4); err != nil {
			return err
		}
		return s.redirect(w, r, info.ID)
	}
	sum, err := s.o.Locator.FileChecksum(r.Context(), r.path)
	switch {
	case errors.Is(err, errs.Unsupported):
		// distcp passes over an IOException, and dies of an UnsupportedOperationException.
		return &remoteError{status: http.StatusForbidden, class: classIO, msg: "Fail to get checksum of " + r.name, cause: err}
	case err != nil:
		return absent(err, "File %s not found.", r.name)
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"FileChecksum": map[string]any{
		"algorithm": sum.Algorithm, "bytes": hex.EncodeToString(sum.Bytes), "length": len(sum.Bytes),
	}})
	return nil
}

// summarize counts what is below the request's name.
func (s *Server) summarize(r *request) (core.Summary, error) {
	sum, err := s.o.Locator.Summarize(r.Context(), r.path)
	return sum, absent(err, "File does not exist: %s", r.name)
}

// getContentSummary serves GETCONTENTSUMMARY. There are no quotas.
func (s *Server) getContentSummary(w http.ResponseWriter, r *request) error {
	sum, err := s.summarize(r)
	if err != nil {
		return err
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"ContentSummary": map[string]any{
		"directoryCount": sum.Dirs, "fileCount": sum.Files, "length": sum.Bytes, "spaceConsumed": sum.Bytes,
		"quota": -1, "spaceQuota": -1, "typeQuota": map[string]any{}, "ecPolicy": "",
		"snapshotDirectoryCount": 0, "snapshotFileCount": 0, "snapshotLength": 0, "snapshotSpaceConsumed": 0,
	}})
	return nil
}

// getQuotaUsage serves GETQUOTAUSAGE.
func (s *Server) getQuotaUsage(w http.ResponseWriter, r *request) error {
	sum, err := s.summarize(r)
	if err != nil {
		return err
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"QuotaUsage": map[string]any{
		"fileAndDirectoryCount": sum.Dirs + sum.Files, "spaceConsumed": sum.Bytes,
		"quota": -1, "spaceQuota": -1, "typeQuota": map[string]any{},
	}})
	return nil
}

// getStatus serves GETSTATUS. Many stores have no capacity to tell, so it is without limit, as Hadoop's FileSystem says
// where it knows none; used is what is below the name.
func (s *Server) getStatus(w http.ResponseWriter, r *request) error {
	sum, err := s.summarize(r)
	if err != nil {
		return err
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"FsStatus": map[string]int64{
		"capacity": math.MaxInt64, "used": sum.Bytes, "remaining": math.MaxInt64 - sum.Bytes,
	}})
	return nil
}
