package webhdfs

import "net/http"

// home returns the user's home directory. It need not exist.
func (r *request) home() string { return "/user/" + r.who.User }

// getHomeDirectory serves GETHOMEDIRECTORY.
func (s *Server) getHomeDirectory(w http.ResponseWriter, r *request) error {
	writeJSON(w, r, http.StatusOK, map[string]string{"Path": r.home()})
	return nil
}

// getTrashRoot serves GETTRASHROOT.
func (s *Server) getTrashRoot(w http.ResponseWriter, r *request) error {
	writeJSON(w, r, http.StatusOK, map[string]string{"Path": r.home() + "/.Trash"})
	return nil
}

// getTrashRoots serves GETTRASHROOTS: with trash off there are none to expunge.
func (s *Server) getTrashRoots(w http.ResponseWriter, r *request) error {
	writeJSON(w, r, http.StatusOK, map[string]any{"Paths": nil})
	return nil
}

// getServerDefaults serves GETSERVERDEFAULTS, without which "hdfs dfs -rm" gives up. Trash is off.
func (s *Server) getServerDefaults(w http.ResponseWriter, r *request) error {
	writeJSON(w, r, http.StatusOK, map[string]any{"FsServerDefaults": map[string]any{
		"blockSize": defaultBlockSize, "bytesPerChecksum": 512, "writePacketSize": 64 << 10, "replication": 1,
		"fileBufferSize": 4096, "encryptDataTransfer": false, "trashInterval": 0,
		"checksumType":   2,                               // CRC32C
		"keyProviderUri": "", "defaultStoragePolicyId": 7, // HOT
	}})
	return nil
}

// getDelegationToken serves GETDELEGATIONTOKEN: none is needed where user.name is trusted, none is issued elsewhere.
func (s *Server) getDelegationToken(w http.ResponseWriter, r *request) error {
	if !s.o.Simple {
		return unsupported(s, w, r)
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"Token": nil})
	return nil
}
