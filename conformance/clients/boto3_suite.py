"""boto3 against a running Sluice: every S3 operation Sluice has, byte for byte.

usage: boto3_suite.py [--mounted] [--any-key] [--azure] ENDPOINT ACCESS_KEY SECRET_KEY BUCKET [CA_FILE]

Prints one line of JSON per case: {"case": name, "error": text or ""}. BUCKET must not exist; with --mounted it is an empty
mount, which is neither made nor deleted. With --any-key the store below it holds every key, "a//b" and "a" beside "a/b"
included; without, such keys are refused. With --azure it holds "a" beside "a/b", but no key with a backslash or with a dot at a segment's end.
"""
import argparse, base64, datetime, hashlib, io, json, os, threading, traceback, urllib.error, urllib.request, zlib

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

args = argparse.ArgumentParser()
args.add_argument("--mounted", action="store_true")
args.add_argument("--any-key", action="store_true")
args.add_argument("--azure", action="store_true")
for name in ("endpoint", "ak", "sk", "bucket"):
    args.add_argument(name)
args.add_argument("ca", nargs="?")
args = args.parse_args()
endpoint, ak, sk, bucket, ca = args.endpoint, args.ak, args.sk, args.bucket, args.ca


def client(secret=sk, **kw):
    s3 = {"addressing_style": "path", **kw.pop("s3", {})}
    cfg = Config(retries={"total_max_attempts": 1}, s3=s3, signature_version=kw.pop("signature_version", "s3v4"), **kw)
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=ak, aws_secret_access_key=secret,
                        region_name="us-east-1", config=cfg, verify=ca if ca else None)


s3 = client()
cases = []


def case(f):
    cases.append(f)
    return f


def error(code, status, f, *a, **kw):
    try:
        f(*a, **kw)
    except ClientError as e:
        got = (e.response["Error"]["Code"], e.response["ResponseMetadata"]["HTTPStatusCode"])
        assert got == (code, status), f"got {got}, want {(code, status)}"
        return e
    raise AssertionError(f"no error, want {code}")


def eq(got, want):
    if isinstance(got, bytes) and len(got) > 200:
        assert got == want, f"got {len(got)} bytes {hashlib.md5(got).hexdigest()}, want {len(want)} {hashlib.md5(want).hexdigest()}"
        return
    assert got == want, f"got {got!r}, want {want!r}"


def data(n, seed=0):
    block = hashlib.sha256(str(seed).encode()).digest() * 32
    return (block * (n // len(block) + 1))[:n]


def put(key, body=b"x", **kw):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **kw)


def get(key, **kw):
    return s3.get_object(Bucket=bucket, Key=key, **kw)["Body"].read()


@case
def create_bucket():
    if not args.mounted:
        s3.create_bucket(Bucket=bucket)
    error("BucketAlreadyOwnedByYou", 409, s3.create_bucket, Bucket=bucket)


@case
def create_bucket_bad_name():
    import botocore.handlers
    c = client()
    c.meta.events.unregister("before-parameter-build.s3", botocore.handlers.validate_bucket_name)
    error("InvalidBucketName", 400, c.create_bucket, Bucket="Bad_Name")


@case
def head_bucket():
    s3.head_bucket(Bucket=bucket)
    error("404", 404, s3.head_bucket, Bucket=bucket + "-none")


@case
def list_buckets():
    assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]


@case
def get_bucket_location():
    eq(s3.get_bucket_location(Bucket=bucket)["LocationConstraint"], None)


@case
def unset_configuration():
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    error("NoSuchBucketPolicy", 404, s3.get_bucket_policy, Bucket=bucket)
    error("NoSuchTagSet", 404, s3.get_bucket_tagging, Bucket=bucket)
    error("NoSuchLifecycleConfiguration", 404, s3.get_bucket_lifecycle_configuration, Bucket=bucket)
    error("NoSuchCORSConfiguration", 404, s3.get_bucket_cors, Bucket=bucket)
    error("NoSuchWebsiteConfiguration", 404, s3.get_bucket_website, Bucket=bucket)
    error("ObjectLockConfigurationNotFoundError", 404, s3.get_object_lock_configuration, Bucket=bucket)
    error("ServerSideEncryptionConfigurationNotFoundError", 404, s3.get_bucket_encryption, Bucket=bucket)
    error("NoSuchBucket", 404, s3.get_bucket_versioning, Bucket=bucket + "-none")


@case
def not_implemented():
    error("NotImplemented", 501, s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    error("NotImplemented", 501, s3.put_bucket_policy, Bucket=bucket, Policy="{}")
    put("ni")
    error("NotImplemented", 501, s3.put_object_tagging, Bucket=bucket, Key="ni", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    error("NotImplemented", 501, s3.put_object, Bucket=bucket, Key="ni", Body=b"y", ServerSideEncryption="AES256")
    eq(get("ni"), b"x")


def sizes(n):
    def f():
        b = data(n, n)
        r = put(f"size/{n}", b)
        eq(r["ETag"], '"%s"' % hashlib.md5(b).hexdigest())
        h = s3.head_object(Bucket=bucket, Key=f"size/{n}")
        eq((h["ContentLength"], h["ETag"]), (n, r["ETag"]))
        eq(get(f"size/{n}"), b)
    f.__name__ = f"put_get_{n}"
    return f


for n in (0, 1, 4095, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 8 << 20, 20 << 20):
    case(sizes(n))


@case
def overwrite():
    put("over", b"one")
    e1 = s3.head_object(Bucket=bucket, Key="over")["ETag"]
    put("over", b"twotwo")
    eq(get("over"), b"twotwo")
    assert e1 != s3.head_object(Bucket=bucket, Key="over")["ETag"]


@case
def missing_key():
    error("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key="none")
    error("404", 404, s3.head_object, Bucket=bucket, Key="none")
    error("NoSuchBucket", 404, s3.get_object, Bucket=bucket + "-none", Key="none")
    error("NoSuchBucket", 404, s3.put_object, Bucket=bucket + "-none", Key="none", Body=b"")


ODD = ["a b+c%2F?&=#.txt", "ünï/çødé/日本語", "dots/..hidden", "tilde~star*paren(1)!'", "colon:semi;at@eq=", "back\\slash",
       "percent%25%20", "plus+plus", "quote\"'<>&", "trail.", "x" * 200]


@case
def odd_keys():
    if args.azure:
        for k in "back\\slash", "trail.":
            ODD.remove(k)
            error("InvalidArgument", 400, s3.put_object, Bucket=bucket, Key="odd/" + k, Body=b"")
    for i, k in enumerate(ODD):
        put("odd/" + k, data(100 + i, k))
    for i, k in enumerate(ODD):
        eq(get("odd/" + k), data(100 + i, k))
    got = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="odd/")["Contents"]]
    eq(got, sorted(("odd/" + k for k in ODD), key=lambda k: k.encode()))


@case
def key_too_long():
    error("KeyTooLongError", 400, s3.put_object, Bucket=bucket, Key="k" * 1025, Body=b"")


@case
def metadata_and_headers():
    put("meta", b"m", Metadata={"one": "1", "two": "zwei"}, ContentType="text/x-thing", CacheControl="max-age=7",
        ContentDisposition="attachment", ContentEncoding="gzip", ContentLanguage="de",
        Expires=datetime.datetime(2030, 1, 1))
    for r in (s3.head_object(Bucket=bucket, Key="meta"), s3.get_object(Bucket=bucket, Key="meta")):
        eq(r["Metadata"], {"one": "1", "two": "zwei"})
        eq((r["ContentType"], r["CacheControl"], r["ContentDisposition"], r["ContentEncoding"], r["ContentLanguage"]),
           ("text/x-thing", "max-age=7", "attachment", "gzip", "de"))


@case
def metadata_too_large():
    error("MetadataTooLarge", 400, s3.put_object, Bucket=bucket, Key="big-meta", Body=b"", Metadata={"a": "x" * 2100})
    error("404", 404, s3.head_object, Bucket=bucket, Key="big-meta")


@case
def ranges():
    b = data(3 << 20, "r")
    put("range", b)
    for spec, want in [("bytes=0-0", b[:1]), ("bytes=5-9", b[5:10]), ("bytes=1048570-1048590", b[1048570:1048591]),
                       ("bytes=-7", b[-7:]), ("bytes=3145700-", b[3145700:]), ("bytes=0-99999999", b),
                       ("bytes=-99999999", b)]:
        r = s3.get_object(Bucket=bucket, Key="range", Range=spec)
        got = r["Body"].read()
        eq(got, want)
        eq(r["ResponseMetadata"]["HTTPStatusCode"], 206)
        assert r["ContentRange"].endswith("/" + str(len(b)))
    error("InvalidRange", 416, s3.get_object, Bucket=bucket, Key="range", Range="bytes=3145728-")
    eq(get("range", Range="bytes=9-5"), b)
    eq(get("range", Range="lines=1-2"), b)


@case
def conditional_get():
    etag = put("cond", b"c")["ETag"]
    eq(get("cond", IfMatch=etag), b"c")
    error("PreconditionFailed", 412, s3.get_object, Bucket=bucket, Key="cond", IfMatch='"no"')
    error("304", 304, s3.get_object, Bucket=bucket, Key="cond", IfNoneMatch=etag)
    eq(get("cond", IfNoneMatch='"no"'), b"c")
    past, future = datetime.datetime(2001, 1, 1), datetime.datetime.now() + datetime.timedelta(days=1)
    error("304", 304, s3.get_object, Bucket=bucket, Key="cond", IfModifiedSince=future)
    error("PreconditionFailed", 412, s3.get_object, Bucket=bucket, Key="cond", IfUnmodifiedSince=past)
    eq(get("cond", IfModifiedSince=past), b"c")


@case
def conditional_put():
    s3.put_object(Bucket=bucket, Key="cput", Body=b"1", IfNoneMatch="*")
    error("PreconditionFailed", 412, s3.put_object, Bucket=bucket, Key="cput", Body=b"2", IfNoneMatch="*")
    etag = s3.head_object(Bucket=bucket, Key="cput")["ETag"]
    error("PreconditionFailed", 412, s3.put_object, Bucket=bucket, Key="cput", Body=b"2", IfMatch='"no"')
    s3.put_object(Bucket=bucket, Key="cput", Body=b"3", IfMatch=etag)
    eq(get("cput"), b"3")
    error("NoSuchKey", 404, s3.put_object, Bucket=bucket, Key="cput-none", Body=b"2", IfMatch='"no"')


@case
def conditional_put_race():
    wins, threads = [], []

    def race(i):
        try:
            client().put_object(Bucket=bucket, Key="race", Body=str(i).encode(), IfNoneMatch="*")
            wins.append(i)
        except ClientError as e:
            assert e.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412), e
    for i in range(8):
        threads.append(threading.Thread(target=race, args=(i,)))
        threads[-1].start()
    for t in threads:
        t.join()
    eq(len(wins), 1)
    eq(get("race"), str(wins[0]).encode())


def checksums(alg):
    def f():
        b = data(100_000, alg)
        r = put("sum/" + alg, b, ChecksumAlgorithm=alg)
        name = "Checksum" + alg
        assert r[name], r
        h = s3.head_object(Bucket=bucket, Key="sum/" + alg, ChecksumMode="ENABLED")
        eq(h[name], r[name])
        g = s3.get_object(Bucket=bucket, Key="sum/" + alg, ChecksumMode="ENABLED")
        eq((g["Body"].read(), g[name]), (b, r[name]))
        assert name not in s3.get_object(Bucket=bucket, Key="sum/" + alg, Range="bytes=0-9")
    f.__name__ = "checksum_" + alg
    return f


for alg in ("CRC32", "SHA1", "SHA256"):
    case(checksums(alg))


@case
def checksum_mismatch():
    error("BadDigest", 400, s3.put_object, Bucket=bucket, Key="bad", Body=b"abc",
          ChecksumCRC32=base64.b64encode(zlib.crc32(b"xyz").to_bytes(4, "big")).decode())
    error("BadDigest", 400, s3.put_object, Bucket=bucket, Key="bad", Body=b"abc",
          ContentMD5=base64.b64encode(hashlib.md5(b"xyz").digest()).decode())
    error("404", 404, s3.head_object, Bucket=bucket, Key="bad")


@case
def stream_of_unknown_length():
    class Stream(io.RawIOBase):
        def __init__(self, b):
            self.b = io.BytesIO(b)

        def readable(self):
            return True

        def read(self, n=-1):
            return self.b.read(n)
    b = data(3_000_000, "stream")
    s3.upload_fileobj(Stream(b), bucket, "stream")
    eq(get("stream"), b)


@case
def delete_object():
    put("del")
    s3.delete_object(Bucket=bucket, Key="del")
    error("404", 404, s3.head_object, Bucket=bucket, Key="del")
    eq(s3.delete_object(Bucket=bucket, Key="del")["ResponseMetadata"]["HTTPStatusCode"], 204)


@case
def delete_objects():
    keys = [f"many/{i}" for i in range(20)]
    for k in keys:
        put(k)
    r = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in keys + ["many/none"]]})
    eq(sorted(d["Key"] for d in r["Deleted"]), sorted(keys + ["many/none"]))
    eq(s3.list_objects_v2(Bucket=bucket, Prefix="many/")["KeyCount"], 0)
    put("many/q")
    r = s3.delete_objects(Bucket=bucket, Delete={"Quiet": True, "Objects": [{"Key": "many/q"}]})
    assert "Deleted" not in r


TREE = ["t/a", "t/a-", "t/b/1", "t/b/2", "t/b/c/3", "t/b0", "t/z"]


@case
def list_v2():
    for k in TREE:
        put(k, k.encode())
    r = s3.list_objects_v2(Bucket=bucket, Prefix="t/")
    eq([o["Key"] for o in r["Contents"]], TREE)
    eq([o["Size"] for o in r["Contents"]], [len(k) for k in TREE])
    r = s3.list_objects_v2(Bucket=bucket, Prefix="t/", Delimiter="/")
    eq([o["Key"] for o in r["Contents"]], ["t/a", "t/a-", "t/b0", "t/z"])
    eq([p["Prefix"] for p in r["CommonPrefixes"]], ["t/b/"])
    r = s3.list_objects_v2(Bucket=bucket, Prefix="t/", StartAfter="t/b/2")
    eq([o["Key"] for o in r["Contents"]], ["t/b/c/3", "t/b0", "t/z"])
    r = s3.list_objects_v2(Bucket=bucket, Prefix="t/", MaxKeys=0)
    eq((r["KeyCount"], r["IsTruncated"]), (0, False))


@case
def list_v2_pages():
    got, pages = [], 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="t/", PaginationConfig={"PageSize": 2}):
        pages += 1
        got += [o["Key"] for o in page.get("Contents", [])]
    eq((got, pages), (TREE, 4))
    got = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="t/", Delimiter="/", PaginationConfig={"PageSize": 1}):
        got += [o["Key"] for o in page.get("Contents", [])] + [p["Prefix"] for p in page.get("CommonPrefixes", [])]
    eq(got, ["t/a", "t/a-", "t/b/", "t/b0", "t/z"])


@case
def list_v1():
    r = s3.list_objects(Bucket=bucket, Prefix="t/", MaxKeys=3)
    eq([o["Key"] for o in r["Contents"]], TREE[:3])
    assert r["IsTruncated"]
    r = s3.list_objects(Bucket=bucket, Prefix="t/", Marker=TREE[2])
    eq([o["Key"] for o in r["Contents"]], TREE[3:])
    r = s3.list_objects(Bucket=bucket, Prefix="t/", Delimiter="/", MaxKeys=2)
    eq(r["NextMarker"], "t/a-")


@case
def list_other_delimiter():
    r = s3.list_objects_v2(Bucket=bucket, Prefix="t/", Delimiter="b")
    eq([o["Key"] for o in r["Contents"]], ["t/a", "t/a-", "t/z"])
    eq([p["Prefix"] for p in r["CommonPrefixes"]], ["t/b"])


@case
def list_encoding():
    r = s3.list_objects_v2(Bucket=bucket, Prefix="odd/", EncodingType="url")
    assert r["EncodingType"] == "url" and any("%" in o["Key"] for o in r["Contents"])


@case
def list_missing_bucket():
    error("NoSuchBucket", 404, s3.list_objects_v2, Bucket=bucket + "-none")


@case
def directory_marker():
    put("dir/", b"")
    eq(s3.head_object(Bucket=bucket, Key="dir/")["ContentLength"], 0)
    put("dir/file", b"f")
    eq([o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="dir/")["Contents"]], ["dir/", "dir/file"])
    s3.delete_object(Bucket=bucket, Key="dir/")
    eq([o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="dir/")["Contents"]], ["dir/file"])
    s3.delete_object(Bucket=bucket, Key="dir/file")
    eq(s3.list_objects_v2(Bucket=bucket, Prefix="dir/")["KeyCount"], 0)


@case
def implied_directories_vanish():
    put("imp/a/b/c", b"1")
    s3.delete_object(Bucket=bucket, Key="imp/a/b/c")
    eq(s3.list_objects_v2(Bucket=bucket, Prefix="imp", Delimiter="/")["KeyCount"], 0)


@case
def copy_object():
    b = data(1 << 20, "copy")
    put("src", b, Metadata={"k": "v"}, ContentType="text/a")
    r = s3.copy_object(Bucket=bucket, Key="dst", CopySource={"Bucket": bucket, "Key": "src"})
    eq(r["CopyObjectResult"]["ETag"], '"%s"' % hashlib.md5(b).hexdigest())
    h = s3.get_object(Bucket=bucket, Key="dst")
    eq((h["Body"].read(), h["Metadata"], h["ContentType"]), (b, {"k": "v"}, "text/a"))
    s3.copy_object(Bucket=bucket, Key="dst", CopySource={"Bucket": bucket, "Key": "src"}, MetadataDirective="REPLACE",
                   Metadata={"n": "w"}, ContentType="text/b")
    h = s3.head_object(Bucket=bucket, Key="dst")
    eq((h["Metadata"], h["ContentType"]), ({"n": "w"}, "text/b"))
    error("NoSuchKey", 404, s3.copy_object, Bucket=bucket, Key="d2", CopySource={"Bucket": bucket, "Key": "none"})
    error("InvalidRequest", 400, s3.copy_object, Bucket=bucket, Key="src", CopySource={"Bucket": bucket, "Key": "src"})


@case
def copy_self_replace():
    put("self", b"s", Metadata={"a": "1"})
    s3.copy_object(Bucket=bucket, Key="self", CopySource={"Bucket": bucket, "Key": "self"}, MetadataDirective="REPLACE", Metadata={"b": "2"})
    r = s3.get_object(Bucket=bucket, Key="self")
    eq((r["Body"].read(), r["Metadata"]), (b"s", {"b": "2"}))


@case
def copy_conditions():
    etag = s3.head_object(Bucket=bucket, Key="src")["ETag"]
    error("PreconditionFailed", 412, s3.copy_object, Bucket=bucket, Key="dc", CopySource={"Bucket": bucket, "Key": "src"}, CopySourceIfNoneMatch=etag)
    s3.copy_object(Bucket=bucket, Key="dc", CopySource={"Bucket": bucket, "Key": "src"}, CopySourceIfMatch=etag)


def upload(key, parts, **kw):
    up = s3.create_multipart_upload(Bucket=bucket, Key=key, **kw)["UploadId"]
    done = []
    for i, b in enumerate(parts, 1):
        r = s3.upload_part(Bucket=bucket, Key=key, UploadId=up, PartNumber=i, Body=b)
        done.append({"PartNumber": i, "ETag": r["ETag"]})
    return up, done


@case
def multipart():
    ps = [data(5 << 20, 1), data(6 << 20, 2), data(1000, 3)]
    up, done = upload("mp", ps, Metadata={"m": "p"}, ContentType="text/mp")
    error("404", 404, s3.head_object, Bucket=bucket, Key="mp")
    r = s3.complete_multipart_upload(Bucket=bucket, Key="mp", UploadId=up, MultipartUpload={"Parts": done})
    want = hashlib.md5(b"".join(hashlib.md5(p).digest() for p in ps)).hexdigest() + "-3"
    eq(r["ETag"], '"%s"' % want)
    h = s3.get_object(Bucket=bucket, Key="mp")
    eq((h["Body"].read(), h["ETag"], h["Metadata"], h["ContentType"]), (b"".join(ps), '"%s"' % want, {"m": "p"}, "text/mp"))
    r = s3.get_object(Bucket=bucket, Key="mp", PartNumber=2)
    eq((r["Body"].read(), r["PartsCount"]), (ps[1], 3))
    again = s3.complete_multipart_upload(Bucket=bucket, Key="mp", UploadId=up, MultipartUpload={"Parts": done})
    eq(again["ETag"], '"%s"' % want)


@case
def multipart_errors():
    up, done = upload("mpe", [data(100, 1), data(100, 2)])
    f = lambda parts: s3.complete_multipart_upload(Bucket=bucket, Key="mpe", UploadId=up, MultipartUpload={"Parts": parts})
    error("EntityTooSmall", 400, f, done)
    error("InvalidPartOrder", 400, f, done[::-1])
    error("InvalidPart", 400, f, [{"PartNumber": 1, "ETag": '"00000000000000000000000000000000"'}])
    error("InvalidPart", 400, f, [{"PartNumber": 9, "ETag": done[0]["ETag"]}])
    error("NoSuchUpload", 404, s3.upload_part, Bucket=bucket, Key="mpe", UploadId="nope", PartNumber=1, Body=b"")
    error("InvalidArgument", 400, s3.upload_part, Bucket=bucket, Key="mpe", UploadId=up, PartNumber=10001, Body=b"")
    error("BadDigest", 400, s3.upload_part, Bucket=bucket, Key="mpe", UploadId=up, PartNumber=1, Body=b"abc",
          ContentMD5=base64.b64encode(hashlib.md5(b"xyz").digest()).decode())
    eq([p["ETag"] for p in s3.list_parts(Bucket=bucket, Key="mpe", UploadId=up)["Parts"]], [d["ETag"] for d in done])
    s3.abort_multipart_upload(Bucket=bucket, Key="mpe", UploadId=up)
    error("NoSuchUpload", 404, f, done)
    error("NoSuchUpload", 404, s3.abort_multipart_upload, Bucket=bucket, Key="mpe", UploadId=up)
    error("404", 404, s3.head_object, Bucket=bucket, Key="mpe")


@case
def multipart_listing():
    ups = [s3.create_multipart_upload(Bucket=bucket, Key=f"lu/{k}")["UploadId"] for k in "abc"]
    r = s3.list_multipart_uploads(Bucket=bucket, Prefix="lu/")
    eq([u["Key"] for u in r["Uploads"]], ["lu/a", "lu/b", "lu/c"])
    eq([u["UploadId"] for u in r["Uploads"]], ups)
    r = s3.list_multipart_uploads(Bucket=bucket, Prefix="lu/", MaxUploads=2)
    assert r["IsTruncated"]
    r = s3.list_multipart_uploads(Bucket=bucket, Prefix="lu/", KeyMarker=r["NextKeyMarker"], UploadIdMarker=r["NextUploadIdMarker"])
    eq([u["Key"] for u in r["Uploads"]], ["lu/c"])
    for i in (1, 2, 3):
        s3.upload_part(Bucket=bucket, Key="lu/a", UploadId=ups[0], PartNumber=i, Body=data(i * 10))
    r = s3.list_parts(Bucket=bucket, Key="lu/a", UploadId=ups[0], MaxParts=2)
    eq(([p["PartNumber"] for p in r["Parts"]], r["IsTruncated"]), ([1, 2], True))
    r = s3.list_parts(Bucket=bucket, Key="lu/a", UploadId=ups[0], PartNumberMarker=2)
    eq([(p["PartNumber"], p["Size"]) for p in r["Parts"]], [(3, 30)])
    for k, u in zip("abc", ups):
        s3.abort_multipart_upload(Bucket=bucket, Key=f"lu/{k}", UploadId=u)
    assert not s3.list_multipart_uploads(Bucket=bucket, Prefix="lu/").get("Uploads")


@case
def multipart_replaced_part():
    up, done = upload("mpr", [data(5 << 20, 1), b"tail"])
    r = s3.upload_part(Bucket=bucket, Key="mpr", UploadId=up, PartNumber=1, Body=data(5 << 20, 9))
    done[0]["ETag"] = r["ETag"]
    s3.complete_multipart_upload(Bucket=bucket, Key="mpr", UploadId=up, MultipartUpload={"Parts": done})
    eq(get("mpr"), data(5 << 20, 9) + b"tail")


@case
def multipart_skips_numbers_and_parts():
    up = s3.create_multipart_upload(Bucket=bucket, Key="mps")["UploadId"]
    e = {i: s3.upload_part(Bucket=bucket, Key="mps", UploadId=up, PartNumber=i, Body=data(5 << 20, i))["ETag"] for i in (2, 7, 9)}
    s3.complete_multipart_upload(Bucket=bucket, Key="mps", UploadId=up, MultipartUpload={"Parts": [{"PartNumber": i, "ETag": e[i]} for i in (2, 9)]})
    eq(get("mps"), data(5 << 20, 2) + data(5 << 20, 9))


@case
def multipart_checksums():
    for alg, kind in (("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("SHA256", "COMPOSITE")):
        key = f"mpc-{alg}-{kind}"
        up = s3.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm=alg, ChecksumType=kind)["UploadId"]
        done = []
        for i in (1, 2):
            r = s3.upload_part(Bucket=bucket, Key=key, UploadId=up, PartNumber=i, Body=data((5 << 20) + i, i), ChecksumAlgorithm=alg)
            done.append({"PartNumber": i, "ETag": r["ETag"], "Checksum" + alg: r["Checksum" + alg]})
        r = s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=up, MultipartUpload={"Parts": done}, ChecksumType=kind)
        eq(r["ChecksumType"], kind)
        h = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        eq(h["Checksum" + alg], r["Checksum" + alg])
        if kind == "FULL_OBJECT":
            whole = data((5 << 20) + 1, 1) + data((5 << 20) + 2, 2)
            eq(h["ChecksumCRC32"], base64.b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode())
        else:
            assert h["Checksum" + alg].endswith("-2")


@case
def upload_part_copy():
    b = data(11 << 20, "upc")
    put("upc-src", b)
    up = s3.create_multipart_upload(Bucket=bucket, Key="upc")["UploadId"]
    e1 = s3.upload_part_copy(Bucket=bucket, Key="upc", UploadId=up, PartNumber=1, CopySource={"Bucket": bucket, "Key": "upc-src"},
                             CopySourceRange=f"bytes=0-{(6 << 20) - 1}")["CopyPartResult"]["ETag"]
    e2 = s3.upload_part_copy(Bucket=bucket, Key="upc", UploadId=up, PartNumber=2, CopySource={"Bucket": bucket, "Key": "upc-src"},
                             CopySourceRange=f"bytes={6 << 20}-{len(b) - 1}")["CopyPartResult"]["ETag"]
    s3.complete_multipart_upload(Bucket=bucket, Key="upc", UploadId=up,
                                 MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": e1}, {"PartNumber": 2, "ETag": e2}]})
    eq(get("upc"), b)


@case
def transfer_manager():
    b = data(30 << 20, "tm")
    s3.upload_fileobj(io.BytesIO(b), bucket, "tm")
    out = io.BytesIO()
    s3.download_fileobj(bucket, "tm", out)
    eq(out.getvalue(), b)
    s3.copy({"Bucket": bucket, "Key": "tm"}, bucket, "tm2")
    eq(get("tm2"), b)


@case
def object_attributes():
    r = s3.get_object_attributes(Bucket=bucket, Key="mp", ObjectAttributes=["ETag", "ObjectSize", "ObjectParts"])
    eq((r["ObjectSize"], r["ObjectParts"]["TotalPartsCount"]), ((11 << 20) + 1000, 3))


def fetch(url, method="GET", body=None):
    # Without a type of its own, urllib calls a body a form, which the server that holds every key reads as one and loses.
    headers = {"Content-Type": "text/plain"} if body and args.any_key else {}
    req = urllib.request.Request(url, data=body, method=method, headers=headers)
    ctx = None
    if ca:
        import ssl
        ctx = ssl.create_default_context(cafile=ca)
    with urllib.request.urlopen(req, context=ctx) as r:
        return r.read()


@case
def presigned():
    b = data(1000, "pre")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "pre signed/ü"})
    fetch(url, "PUT", b)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "pre signed/ü", "ResponseContentType": "x/y"})
    eq(fetch(url), b)
    for bad in (url.replace("Signature=", "Signature=0"), url.replace("pre%20signed", "pre%20signeD")):
        try:
            fetch(bad)
            raise AssertionError("a tampered URL was served")
        except urllib.error.HTTPError as e:
            eq(e.code, 403)


@case
def wrong_credentials():
    error("SignatureDoesNotMatch", 403, client(secret="wrong").list_objects_v2, Bucket=bucket)
    error("SignatureDoesNotMatch", 403, client(secret="wrong").put_object, Bucket=bucket, Key="evil", Body=b"x")
    c = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="nobody", aws_secret_access_key="x", region_name="us-east-1", verify=ca)
    error("InvalidAccessKeyId", 403, c.list_buckets)
    error("404", 404, s3.head_object, Bucket=bucket, Key="evil")


@case
def anonymous():
    from botocore import UNSIGNED
    c = boto3.client("s3", endpoint_url=endpoint, config=Config(signature_version=UNSIGNED), region_name="us-east-1", verify=ca)
    error("AccessDenied", 403, c.get_object, Bucket=bucket, Key="src")
    error("AccessDenied", 403, c.put_object, Bucket=bucket, Key="evil", Body=b"x")


@case
def wrong_region():
    # botocore reads the right region out of AuthorizationHeaderMalformed and asks again
    c = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=ak, aws_secret_access_key=sk, region_name="eu-west-3", verify=ca)
    eq(c.get_object(Bucket=bucket, Key="src")["Body"].read(), data(1 << 20, "copy"))


@case
def legacy_checksums():
    c = client(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    c.put_object(Bucket=bucket, Key="legacy", Body=data(70000, 1))
    eq(c.get_object(Bucket=bucket, Key="legacy")["Body"].read(), data(70000, 1))


@case
def unsigned_payload():
    c = client(s3={"payload_signing_enabled": False})
    c.put_object(Bucket=bucket, Key="unsigned", Body=data(70000, 2))
    eq(get("unsigned"), data(70000, 2))


ODD_SEGMENTS = ["a//b", "a///b", "/lead", "//", "trail//", "../escape", "a/../b", "a/..", "./x", "a/./b", "a/.", "."]


def odd_segments_are_refused():
    for key in ODD_SEGMENTS:
        error("InvalidArgument", 400, s3.put_object, Bucket=bucket, Key=key, Body=b"")
        error("404", 404, s3.head_object, Bucket=bucket, Key=key)


def odd_segments():
    body = lambda key: b"" if key.endswith("/") else key.encode()
    for key in ODD_SEGMENTS:
        put("seg/" + key, body(key), Metadata={"n": "v"})
    for key in ODD_SEGMENTS:
        r = s3.get_object(Bucket=bucket, Key="seg/" + key)
        eq((r["Body"].read(), r["Metadata"]), (body(key), {"n": "v"}))
        if body(key):
            eq(get("seg/" + key, Range="bytes=0-0"), body(key)[:1])
    want = sorted("seg/" + k for k in ODD_SEGMENTS)
    eq([o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="seg/")["Contents"]], want)
    got = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="seg/", PaginationConfig={"PageSize": 1}):
        got += [o["Key"] for o in page.get("Contents", [])]
    eq(got, want)
    r = s3.list_objects_v2(Bucket=bucket, Prefix="seg/", Delimiter="/")
    eq(([o["Key"] for o in r.get("Contents", [])], [p["Prefix"] for p in r["CommonPrefixes"]]),
       (["seg/."], ["seg/../", "seg/./", "seg//", "seg/a/", "seg/trail/"]))
    r = s3.list_objects_v2(Bucket=bucket, Prefix="seg/a/", Delimiter="/")
    eq(([o["Key"] for o in r.get("Contents", [])], [p["Prefix"] for p in r["CommonPrefixes"]]),
       (["seg/a/.", "seg/a/.."], ["seg/a/../", "seg/a/./", "seg/a//"]))
    s3.copy_object(Bucket=bucket, Key="seg/c//d", CopySource={"Bucket": bucket, "Key": "seg/a//b"})
    eq(get("seg/c//d"), b"a//b")
    up, done = upload("seg/m/../n", [data(5 << 20, 1), b"tail"])
    s3.complete_multipart_upload(Bucket=bucket, Key="seg/m/../n", UploadId=up, MultipartUpload={"Parts": done})
    eq(get("seg/m/../n"), data(5 << 20, 1) + b"tail")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "seg/a/../b"})
    eq(fetch(url), b"a/../b")
    s3.delete_object(Bucket=bucket, Key="seg/a//b")
    error("404", 404, s3.head_object, Bucket=bucket, Key="seg/a//b")
    eq(get("seg/a///b"), b"a///b")
    left = [k for k in want if k != "seg/a//b"] + ["seg/c//d", "seg/m/../n"]
    r = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in left]})
    eq(sorted(d["Key"] for d in r["Deleted"]), sorted(left))
    eq(s3.list_objects_v2(Bucket=bucket, Prefix="seg/")["KeyCount"], 0)


def file_and_directory_conflict():
    put("fd", b"file")
    try:
        put("fd/child", b"")
        raise AssertionError("a key below a file was stored")
    except ClientError as e:
        assert e.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 409), e
    eq(get("fd"), b"file")


def file_beside_directory():
    put("fd", b"file")
    put("fd/child", b"child")
    put("fd/", b"")
    eq((get("fd"), get("fd/child"), get("fd/")), (b"file", b"child", b""))
    eq([o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="fd")["Contents"]], ["fd", "fd/", "fd/child"])
    r = s3.list_objects_v2(Bucket=bucket, Prefix="fd", Delimiter="/")
    eq(([o["Key"] for o in r["Contents"]], [p["Prefix"] for p in r["CommonPrefixes"]]), (["fd"], ["fd/"]))
    s3.delete_object(Bucket=bucket, Key="fd")
    error("404", 404, s3.head_object, Bucket=bucket, Key="fd")
    eq((get("fd/child"), get("fd/")), (b"child", b""))
    put("fd", b"again")
    s3.delete_object(Bucket=bucket, Key="fd/child")
    s3.delete_object(Bucket=bucket, Key="fd/")
    eq([o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="fd")["Contents"]], ["fd"])
    eq(get("fd"), b"again")


for f in (odd_segments if args.any_key else odd_segments_are_refused,
          file_beside_directory if args.any_key or args.azure else file_and_directory_conflict):
    case(f)


@case
def delete_bucket():
    refusal = ("AccessDenied", 403) if args.mounted else ("BucketNotEmpty", 409)
    error(*refusal, s3.delete_bucket, Bucket=bucket)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": o["Key"]} for o in page.get("Contents", [])]
        if keys:
            r = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})
            assert not r.get("Errors"), r["Errors"]
    if args.mounted:
        eq(s3.list_objects_v2(Bucket=bucket)["KeyCount"], 0)
        error(*refusal, s3.delete_bucket, Bucket=bucket)
        return
    s3.delete_bucket(Bucket=bucket)
    error("404", 404, s3.head_bucket, Bucket=bucket)
    error("NoSuchBucket", 404, s3.delete_bucket, Bucket=bucket)


for f in cases:
    try:
        f()
        err = ""
    except Exception as e:
        err = f"{type(e).__name__}: {e}\n{traceback.format_exc(limit=-3)}"
    print(json.dumps({"case": f.__name__, "error": err}), flush=True)
