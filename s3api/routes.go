package s3api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/mux"
)

// A handler serves one operation. It has written the whole response if it returns nil; if it returns an error it has
// written nothing, or the response has been cut short and the connection cannot be used again.
type handler func(s *Server, r *request) error

// route is one row of the table: the first row of a request's method and resource whose query and header it has serves it.
type route struct {
	op     string   // the AWS operation name, for the access line, metrics and tests
	method string   //
	on     resource // service, bucket or object
	query  string   // parameters that must be there: "acl", "uploadId&partNumber", "list-type=2"; "" matches always
	header string   // a header that must be there, "" for none
	serve  handler  // nil answers NotImplemented
}

// routes lists every operation of the S3 API reference, the catch-all of each method and resource last. An operation
// without a handler is a row all the same, so that its request cannot fall through to another.
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
func routes() []route {
	return []route{
		{"ListDirectoryBuckets", "GET", service, "max-directory-buckets", "", nil},
		{"ListBuckets", "GET", service, "", "", (*Server).listBuckets},
		{"WriteGetObjectResponse", "POST", service, "", "X-Amz-Request-Route", nil},

		{"GetBucketLocation", "GET", bucket, "location", "", (*Server).getBucketLocation},
		{"GetBucketVersioning", "GET", bucket, "versioning", "", emptyConfig("VersioningConfiguration", "")},
		{"ListObjectVersions", "GET", bucket, "versions", "", (*Server).listObjectVersions},
		{"ListMultipartUploads", "GET", bucket, "uploads", "", (*Server).listMultipartUploads},
		{"GetBucketAcl", "GET", bucket, "acl", "", (*Server).getBucketACL},
		{"GetBucketPolicy", "GET", bucket, "policy", "", noConfig("NoSuchBucketPolicy", "The bucket policy does not exist")},
		{"GetBucketPolicyStatus", "GET", bucket, "policyStatus", "", noConfig("NoSuchBucketPolicy", "The bucket policy does not exist")},
		{"GetBucketTagging", "GET", bucket, "tagging", "", noConfig("NoSuchTagSet", "The TagSet does not exist")},
		{"GetBucketLifecycleConfiguration", "GET", bucket, "lifecycle", "", noConfig("NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")},
		{"GetBucketCors", "GET", bucket, "cors", "", noConfig("NoSuchCORSConfiguration", "The CORS configuration does not exist")},
		{"GetBucketEncryption", "GET", bucket, "encryption", "", noConfig("ServerSideEncryptionConfigurationNotFoundError", "The server side encryption configuration was not found")},
		{"GetObjectLockConfiguration", "GET", bucket, "object-lock", "", noConfig("ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket")},
		{"GetBucketWebsite", "GET", bucket, "website", "", noConfig("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration")},
		{"GetBucketReplication", "GET", bucket, "replication", "", noConfig("ReplicationConfigurationNotFoundError", "The replication configuration was not found")},
		{"GetPublicAccessBlock", "GET", bucket, "publicAccessBlock", "", noConfig("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found")},
		{"GetBucketOwnershipControls", "GET", bucket, "ownershipControls", "", noConfig("OwnershipControlsNotFoundError", "The bucket ownership controls were not found")},
		{"GetBucketRequestPayment", "GET", bucket, "requestPayment", "", emptyConfig("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>")},
		{"GetBucketLogging", "GET", bucket, "logging", "", emptyConfig("BucketLoggingStatus", "")},
		{"GetBucketNotificationConfiguration", "GET", bucket, "notification", "", emptyConfig("NotificationConfiguration", "")},
		{"GetBucketAccelerateConfiguration", "GET", bucket, "accelerate", "", emptyConfig("AccelerateConfiguration", "")},
		{"GetBucketAbac", "GET", bucket, "abac", "", nil},
		{"GetBucketAnalyticsConfiguration", "GET", bucket, "analytics&id", "", noConfig("NoSuchConfiguration", "The specified configuration does not exist.")},
		{"ListBucketAnalyticsConfigurations", "GET", bucket, "analytics", "", emptyConfig("ListBucketAnalyticsConfigurationResult", "<IsTruncated>false</IsTruncated>")},
		{"GetBucketIntelligentTieringConfiguration", "GET", bucket, "intelligent-tiering&id", "", noConfig("NoSuchConfiguration", "The specified configuration does not exist.")},
		{"ListBucketIntelligentTieringConfigurations", "GET", bucket, "intelligent-tiering", "", emptyConfig("ListBucketIntelligentTieringConfigurationsOutput", "<IsTruncated>false</IsTruncated>")},
		{"GetBucketInventoryConfiguration", "GET", bucket, "inventory&id", "", noConfig("NoSuchConfiguration", "The specified configuration does not exist.")},
		{"ListBucketInventoryConfigurations", "GET", bucket, "inventory", "", emptyConfig("ListInventoryConfigurationsResult", "<IsTruncated>false</IsTruncated>")},
		{"GetBucketMetricsConfiguration", "GET", bucket, "metrics&id", "", noConfig("NoSuchConfiguration", "The specified configuration does not exist.")},
		{"ListBucketMetricsConfigurations", "GET", bucket, "metrics", "", emptyConfig("ListMetricsConfigurationsResult", "<IsTruncated>false</IsTruncated>")},
		{"GetBucketMetadataConfiguration", "GET", bucket, "metadataConfiguration", "", nil},
		{"GetBucketMetadataTableConfiguration", "GET", bucket, "metadataTable", "", nil},
		{"CreateSession", "GET", bucket, "session", "", nil},
		{"ListObjectsV2", "GET", bucket, "list-type=2", "", (*Server).listObjectsV2},
		{"ListObjects", "GET", bucket, "", "", (*Server).listObjects},
		{"HeadBucket", "HEAD", bucket, "", "", (*Server).headBucket},

		{"PutBucketAbac", "PUT", bucket, "abac", "", nil},
		{"PutBucketAccelerateConfiguration", "PUT", bucket, "accelerate", "", nil},
		{"PutBucketAcl", "PUT", bucket, "acl", "", nil},
		{"PutBucketAnalyticsConfiguration", "PUT", bucket, "analytics", "", nil},
		{"PutBucketCors", "PUT", bucket, "cors", "", nil},
		{"PutBucketEncryption", "PUT", bucket, "encryption", "", nil},
		{"PutBucketIntelligentTieringConfiguration", "PUT", bucket, "intelligent-tiering", "", nil},
		{"PutBucketInventoryConfiguration", "PUT", bucket, "inventory", "", nil},
		{"PutBucketLifecycleConfiguration", "PUT", bucket, "lifecycle", "", nil},
		{"PutBucketLogging", "PUT", bucket, "logging", "", nil},
		{"PutBucketMetricsConfiguration", "PUT", bucket, "metrics", "", nil},
		{"PutBucketNotificationConfiguration", "PUT", bucket, "notification", "", nil},
		{"PutBucketOwnershipControls", "PUT", bucket, "ownershipControls", "", nil},
		{"PutBucketPolicy", "PUT", bucket, "policy", "", nil},
		{"PutBucketReplication", "PUT", bucket, "replication", "", nil},
		{"PutBucketRequestPayment", "PUT", bucket, "requestPayment", "", nil},
		{"PutBucketTagging", "PUT", bucket, "tagging", "", nil},
		{"PutBucketVersioning", "PUT", bucket, "versioning", "", nil},
		{"PutBucketWebsite", "PUT", bucket, "website", "", nil},
		{"PutObjectLockConfiguration", "PUT", bucket, "object-lock", "", nil},
		{"PutPublicAccessBlock", "PUT", bucket, "publicAccessBlock", "", nil},
		{"UpdateBucketMetadataInventoryTableConfiguration", "PUT", bucket, "metadataInventoryTable", "", nil},
		{"UpdateBucketMetadataJournalTableConfiguration", "PUT", bucket, "metadataJournalTable", "", nil},
		{"CreateBucket", "PUT", bucket, "", "", (*Server).createBucket},

		{"DeleteObjects", "POST", bucket, "delete", "", (*Server).deleteObjects},
		{"CreateBucketMetadataConfiguration", "POST", bucket, "metadataConfiguration", "", nil},
		{"CreateBucketMetadataTableConfiguration", "POST", bucket, "metadataTable", "", nil},
		{"PostObject", "POST", bucket, "", "", nil},

		{"DeleteBucketAnalyticsConfiguration", "DELETE", bucket, "analytics", "", nil},
		{"DeleteBucketCors", "DELETE", bucket, "cors", "", nil},
		{"DeleteBucketEncryption", "DELETE", bucket, "encryption", "", nil},
		{"DeleteBucketIntelligentTieringConfiguration", "DELETE", bucket, "intelligent-tiering", "", nil},
		{"DeleteBucketInventoryConfiguration", "DELETE", bucket, "inventory", "", nil},
		{"DeleteBucketLifecycle", "DELETE", bucket, "lifecycle", "", nil},
		{"DeleteBucketMetadataConfiguration", "DELETE", bucket, "metadataConfiguration", "", nil},
		{"DeleteBucketMetadataTableConfiguration", "DELETE", bucket, "metadataTable", "", nil},
		{"DeleteBucketMetricsConfiguration", "DELETE", bucket, "metrics", "", nil},
		{"DeleteBucketOwnershipControls", "DELETE", bucket, "ownershipControls", "", nil},
		{"DeleteBucketPolicy", "DELETE", bucket, "policy", "", nil},
		{"DeleteBucketReplication", "DELETE", bucket, "replication", "", nil},
		{"DeleteBucketTagging", "DELETE", bucket, "tagging", "", nil},
		{"DeleteBucketWebsite", "DELETE", bucket, "website", "", nil},
		{"DeletePublicAccessBlock", "DELETE", bucket, "publicAccessBlock", "", nil},
		{"DeleteBucket", "DELETE", bucket, "", "", (*Server).deleteBucket},

		{"ListParts", "GET", object, "uploadId", "", (*Server).listParts},
		{"GetObjectAcl", "GET", object, "acl", "", (*Server).getObjectACL},
		{"GetObjectAttributes", "GET", object, "attributes", "", (*Server).getObjectAttributes},
		{"GetObjectTagging", "GET", object, "tagging", "", (*Server).getObjectTagging},
		{"GetObjectLegalHold", "GET", object, "legal-hold", "", (*Server).getObjectLock},
		{"GetObjectRetention", "GET", object, "retention", "", (*Server).getObjectLock},
		{"GetObjectTorrent", "GET", object, "torrent", "", nil},
		{"GetObject", "GET", object, "", "", (*Server).getObject},
		{"HeadObject", "HEAD", object, "", "", (*Server).headObject},

		{"UploadPartCopy", "PUT", object, "uploadId&partNumber", "X-Amz-Copy-Source", (*Server).uploadPartCopy},
		{"UploadPart", "PUT", object, "uploadId&partNumber", "", (*Server).uploadPart},
		{"PutObjectAcl", "PUT", object, "acl", "", nil},
		{"PutObjectLegalHold", "PUT", object, "legal-hold", "", nil},
		{"PutObjectRetention", "PUT", object, "retention", "", nil},
		{"PutObjectTagging", "PUT", object, "tagging", "", nil},
		{"RenameObject", "PUT", object, "renameObject", "", nil},
		{"UpdateObjectEncryption", "PUT", object, "encryption", "", nil},
		{"CopyObject", "PUT", object, "", "X-Amz-Copy-Source", (*Server).copyObject},
		{"PutObject", "PUT", object, "", "", (*Server).putObject},

		{"CreateMultipartUpload", "POST", object, "uploads", "", (*Server).createMultipartUpload},
		{"CompleteMultipartUpload", "POST", object, "uploadId", "", (*Server).completeMultipartUpload},
		{"RestoreObject", "POST", object, "restore", "", nil},
		{"SelectObjectContent", "POST", object, "select", "", nil},

		{"AbortMultipartUpload", "DELETE", object, "uploadId", "", (*Server).abortMultipartUpload},
		{"DeleteObjectTagging", "DELETE", object, "tagging", "", nil},
		{"DeleteObject", "DELETE", object, "", "", (*Server).deleteObject},

		{"PreflightBucket", "OPTIONS", bucket, "", "", (*Server).preflight},
		{"PreflightObject", "OPTIONS", object, "", "", (*Server).preflight},
	}
}

// router is the table as gorilla/mux routes, one mux.Router for each resource: what a request's host and path name is
// decided before, from the raw request line, since a key may look like anything.
type router struct {
	on  [3]*mux.Router
	row map[*mux.Route]*route
	sub [3]map[string]bool // the parameters that select an operation, by resource
}

func newRouter(table []route) *router {
	rt := &router{row: map[*mux.Route]*route{}}
	var methods [3]map[string]*mux.Router
	for on := range rt.on {
		rt.on[on] = mux.NewRouter().SkipClean(true).UseEncodedPath()
		rt.sub[on], methods[on] = map[string]bool{}, map[string]*mux.Router{}
	}
	for i := range table {
		row := &table[i]
		of := methods[row.on][row.method]
		if of == nil {
			of = rt.on[row.on].Methods(row.method).Subrouter()
			methods[row.on][row.method] = of
		}
		rt.row[of.Name(row.op).MatcherFunc(rt.matcher(row))] = row
		if key, _, _ := strings.Cut(row.query, "&"); key != "" && !strings.Contains(key, "=") {
			rt.sub[row.on][key] = true
		}
	}
	return rt
}

// matcher matches the requests that have the row's query, which is parsed in Form, and its header. A parameter that
// selects an operation never reaches the catch-all of another method: DELETE ?acl does not delete the bucket.
func (rt *router) matcher(row *route) mux.MatcherFunc {
	return func(r *http.Request, _ *mux.RouteMatch) bool {
		return hasQuery(r.Form, row.query) && (row.header == "" || len(r.Header[row.header]) > 0) &&
			!(row.query == "" && rt.selects(row.on, r.Form))
	}
}

// find returns the row that serves the request, whose parsed query is in Form. Errors: MethodNotAllowed.
func (rt *router) find(r *http.Request, on resource) (*route, error) {
	var m mux.RouteMatch
	if rt.on[on].Match(r, &m) {
		if row := rt.row[m.Route]; row != nil {
			return row, nil
		}
	}
	return nil, errMethodNotAllowed
}

func (rt *router) selects(on resource, query url.Values) bool {
	for k := range query {
		if rt.sub[on][k] {
			return true
		}
	}
	return false
}

// hasQuery reports whether query holds every parameter that want names.
func hasQuery(query url.Values, want string) bool {
	if want == "" {
		return true
	}
	if len(query) == 0 {
		return false
	}
	for want != "" {
		var one string
		one, want, _ = strings.Cut(want, "&")
		key, value, exact := strings.Cut(one, "=")
		have, ok := query[key]
		if !ok || exact && have[0] != value {
			return false
		}
	}
	return true
}
