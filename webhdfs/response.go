package webhdfs

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// defaultBlockSize is what files without one report: splits are made by it, so it is never small. HDFS's default.
const defaultBlockSize = 128 << 20

// writeHeader starts a response of n bytes.
func writeHeader(w http.ResponseWriter, r *request, status int, contentType string, n int64) {
	setBody(w.Header(), contentType, n)
	r.status = status
	w.WriteHeader(status)
}

// bodyWriter is what a Reader writes a file to. It notes the status before the first byte is written: from then on the header
// may be sent, even if the writing fails and tells of no byte, and what is then left to say an error with is the connection.
type bodyWriter struct {
	http.ResponseWriter
	r *request
}

// Write implements io.Writer.
func (b *bodyWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b.r.status = http.StatusOK
	return b.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom, for the sake of sendfile. The first bytes are read before the header is written: where
// that fails, the answer is an exception.
func (b *bodyWriter) ReadFrom(src io.Reader) (int64, error) {
	if b.r.status == 0 {
		return io.Copy(struct{ io.Writer }{b}, src)
	}
	return io.Copy(b.ResponseWriter, src)
}

// Unwrap lets http.ResponseController reach the connection.
func (b *bodyWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// setBody announces a body of n bytes.
func setBody(h http.Header, contentType string, n int64) {
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.FormatInt(n, 10))
}

// describe says how what the response tells of a file was come by.
func (r *request) describe(h http.Header, info core.Info) {
	r.cache, r.mount = info.Cache, info.Mount
	if info.Cache != "" {
		h.Set("X-Cache", string(info.Cache))
		if info.Age > 0 || info.Cache != core.Stale { // how old what is too old is may not be known
			h.Set("Age", strconv.FormatInt(int64(info.Age.Seconds()), 10))
		}
	}
}

// writeEmpty writes a response without a body. Hadoop's clients want it typed and with its length.
func writeEmpty(w http.ResponseWriter, r *request, status int) {
	writeHeader(w, r, status, "application/octet-stream", 0)
}

// writeJSON writes v. A client that is gone is none of the handler's business.
func writeJSON(w http.ResponseWriter, r *request, status int, v any) {
	body := marshal(v)
	writeHeader(w, r, status, "application/json", int64(len(body)))
	_, _ = w.Write(body)
}

// marshal returns v as JSON with names as they are, without escapes for HTML.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("webhdfs: a response that is no JSON: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// writeBoolean writes the answer of the operations that may refuse without an exception.
func writeBoolean(w http.ResponseWriter, r *request, ok bool) error {
	writeJSON(w, r, http.StatusOK, map[string]bool{"boolean": ok})
	return nil
}

// fileStatus is HDFS's FileStatus. Times are milliseconds since 1970.
// Source: org.apache.hadoop.hdfs.web.JsonUtilClient.toFileStatus, which fails without any of them but the last three.
type fileStatus struct {
	AccessTime       int64  `json:"accessTime"`
	BlockSize        int64  `json:"blockSize"`
	Group            string `json:"group"`
	Length           int64  `json:"length"`
	ModificationTime int64  `json:"modificationTime"`
	Owner            string `json:"owner"`
	PathSuffix       string `json:"pathSuffix"`
	Permission       string `json:"permission"`
	Replication      int    `json:"replication"`
	Type             string `json:"type"`
	ChildrenNum      int    `json:"childrenNum"`
	FileID           uint64 `json:"fileId"`
	StoragePolicy    int    `json:"storagePolicy"`
}

// statusOf returns the FileStatus of i under the name suffix.
func statusOf(i core.Info, suffix string) fileStatus {
	st := fileStatus{
		AccessTime: millis(i.AccessTime), ModificationTime: millis(i.ModTime), Owner: i.Owner, Group: i.Group,
		PathSuffix: suffix, Permission: octal(i.Mode), Type: "DIRECTORY", ChildrenNum: i.Children,
		// Java reads a signed number.
		FileID: i.ID &^ (1 << 63),
	}
	if !i.Dir {
		st.Type, st.ChildrenNum = "FILE", 0
		st.Length, st.BlockSize, st.Replication = i.Size, blockSize(i), max(i.Replication, 1)
	}
	return st
}

// entryOf returns the FileStatus of an entry of List.
func entryOf(i core.Info) fileStatus { return statusOf(i, spell(strings.TrimSuffix(i.Name, "/"))) }

func blockSize(i core.Info) int64 {
	if i.BlockSize > 0 {
		return i.BlockSize
	}
	return defaultBlockSize
}

func octal(mode uint32) string { return strconv.FormatUint(uint64(mode), 8) }

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
