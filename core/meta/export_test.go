package meta

// AppendRecordForTest returns an empty record with this header.
func AppendRecordForTest(seq uint64, term int64) []byte {
	return appendRecord(nil, header{seq: seq, term: term}, nil)
}
