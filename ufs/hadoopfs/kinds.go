package hadoopfs

import (
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// KindOf returns the kind of a Java exception of HDFS, given by its class, with or without its package.
// Source: org.apache.hadoop.hdfs.server.namenode.FSNamesystem and FSDir*Op, which throw them.
func KindOf(class string) errs.Kind {
	kind, ok := byClass[class[strings.LastIndexAny(class, ".$")+1:]]
	if !ok {
		return errs.Unavailable // an IOException says no more than that it did not work
	}
	return kind
}

var byClass = map[string]errs.Kind{
	"FileNotFoundException":                   errs.NotExist,
	"FileAlreadyExistsException":              errs.Exist,
	"PathIsNotEmptyDirectoryException":        errs.NotEmpty,
	"ParentNotDirectoryException":             errs.NotDir,
	"PathIsNotDirectoryException":             errs.NotDir,
	"AccessControlException":                  errs.Permission,
	"TraverseAccessControlException":          errs.Permission,
	"AuthorizationException":                  errs.Permission,
	"AuthenticationException":                 errs.Permission,
	"SecurityException":                       errs.Permission,
	"InvalidToken":                            errs.Permission,
	"SaslException":                           errs.Permission,
	"AlreadyBeingCreatedException":            errs.Busy,
	"RecoveryInProgressException":             errs.Busy,
	"HadoopIllegalArgumentException":          errs.Invalid,
	"IllegalArgumentException":                errs.Invalid,
	"InvalidPathException":                    errs.Invalid,
	"PathComponentTooLongException":           errs.Invalid,
	"SnapshotAccessControlException":          errs.Permission,
	"SnapshotException":                       errs.Unsupported,
	"UnsupportedOperationException":           errs.Unsupported,
	"MaxDirectoryItemsExceededException":      errs.NoSpace,
	"NSQuotaExceededException":                errs.NoSpace,
	"DSQuotaExceededException":                errs.NoSpace,
	"QuotaByStorageTypeExceededException":     errs.NoSpace,
	"QuotaExceededException":                  errs.NoSpace,
	"ClusterStorageCapacityExceededException": errs.NoSpace,
}
