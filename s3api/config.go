package s3api

import "net/http"

// Configuration that nobody can set: reading it answers as S3 does for a bucket or an object that never had any.

// emptyConfig serves the read of a configuration whose unset form is a document.
func emptyConfig(root, content string) handler {
	return func(s *Server, r *request) error {
		if _, err := s.statBucket(r); err != nil {
			return err
		}
		x := newXML(256)
		x.root(root)
		x.b = append(x.b, content...)
		x.close(root)
		return r.document(x.b)
	}
}

// noConfig serves the read of a configuration whose unset form is an error.
func noConfig(code, message string) handler {
	return func(s *Server, r *request) error {
		if _, err := s.statBucket(r); err != nil {
			return err
		}
		return &apiError{Code: code, Status: http.StatusNotFound, Message: message, Detail: []pair{{"BucketName", r.bucket}}}
	}
}

// getBucketACL serves GetBucketAcl: the owner has everything, which S3 calls private.
func (s *Server) getBucketACL(r *request) error {
	info, err := s.statBucket(r)
	if err != nil {
		return err
	}
	return r.document(renderACL(info.Owner))
}

// getObjectACL serves GetObjectAcl.
func (s *Server) getObjectACL(r *request) error {
	info, err := s.statObject(r, r.path)
	if err != nil {
		return s.inBucket(r, r.dir, err)
	}
	return r.document(renderACL(info.Owner))
}

func renderACL(owner string) []byte {
	x := newXML(512)
	x.root("AccessControlPolicy")
	x.owner("Owner", owner)
	x.open("AccessControlList")
	x.open("Grant")
	x.b = append(x.b, `<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">`...)
	x.text("ID", owner)
	x.text("DisplayName", owner)
	x.close("Grantee")
	x.text("Permission", "FULL_CONTROL")
	x.close("Grant")
	x.close("AccessControlList")
	x.close("AccessControlPolicy")
	return x.b
}

// getObjectTagging serves GetObjectTagging: an object has no tags, which is no error.
func (s *Server) getObjectTagging(r *request) error {
	if _, err := s.statObject(r, r.path); err != nil {
		return s.inBucket(r, r.dir, err)
	}
	x := newXML(128)
	x.root("Tagging")
	x.b = append(x.b, "<TagSet></TagSet>"...)
	x.close("Tagging")
	return r.document(x.b)
}

// getObjectLock serves GetObjectRetention and GetObjectLegalHold.
func (s *Server) getObjectLock(r *request) error {
	if _, err := s.statObject(r, r.path); err != nil {
		return s.inBucket(r, r.dir, err)
	}
	return invalidRequest("Bucket is missing Object Lock Configuration")
}

// preflight serves a browser's OPTIONS request: no bucket has a CORS configuration.
func (s *Server) preflight(*request) error { return errNoCORS }
