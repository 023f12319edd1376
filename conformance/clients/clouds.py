"""boto3 and WebHDFS on a tree of several stores: write, read, list, copy and rename in each and between all of them.

usage: clouds.py S3_ENDPOINT WEBHDFS_ENDPOINT ACCESS_KEY SECRET_KEY BUCKET PREFIX...

Prints one line of JSON per case: {"case": name, "error": text or ""}. Each PREFIX of BUCKET is another store that can be
written; gcs/web/ is one that cannot, with a.txt and "sub dir/b+c.txt" in it.
"""
import getpass, hashlib, json, sys, traceback, urllib.error, urllib.parse, urllib.request

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

endpoint, hdfs, ak, sk, bucket, *prefixes = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=ak, aws_secret_access_key=sk, region_name="us-east-1",
                  config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}))


def webhdfs(method, path, op, **query):
    url = f"{hdfs}/webhdfs/v1{urllib.parse.quote(path)}?" + urllib.parse.urlencode({"op": op, "user.name": getpass.getuser(), **query})
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def eq(got, want):
    assert got == want, f"got {got!r:.300}, want {want!r:.300}"


def put(key, body, **more):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **more)


def get(key, **more):
    return s3.get_object(Bucket=bucket, Key=key, **more)["Body"].read()


def keys(prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": 3})
    return [o["Key"] for page in pages for o in page.get("Contents", [])]


def code(f):
    try:
        f()
    except ClientError as e:
        return e.response["Error"]["Code"]
    return "no error"


def data(n, seed):
    block = hashlib.sha256(str(seed).encode()).digest() * 64
    return (block * (n // len(block) + 1))[:n]


def case(name, f, *args):
    try:
        f(*args)
        error = ""
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps({"case": name, "error": error}), flush=True)


def write(p):
    for size in (0, 5, 100_000, 9 << 20):
        body = data(size, p)
        tag = put(p + "w/é+ %.bin", body, ContentType="text/x-own", Metadata={"k-1": "v", "empty": ""})["ETag"].strip('"')
        eq(tag, hashlib.md5(body).hexdigest())
        head = s3.head_object(Bucket=bucket, Key=p + "w/é+ %.bin")
        eq((head["ContentLength"], head["ETag"].strip('"'), head["ContentType"], head["Metadata"]), (size, tag, "text/x-own", {"k-1": "v", "empty": ""}))
        eq(get(p + "w/é+ %.bin"), body)
        if size > 10:
            eq(get(p + "w/é+ %.bin", Range="bytes=7-1006"), body[7:1007])


def conditions(p):
    put(p + "c", b"one", IfNoneMatch="*")
    eq(code(lambda: put(p + "c", b"two", IfNoneMatch="*")), "PreconditionFailed")
    tag = s3.head_object(Bucket=bucket, Key=p + "c")["ETag"]
    put(p + "c", b"three", IfMatch=tag)
    eq(code(lambda: put(p + "c", b"four", IfMatch=tag)), "PreconditionFailed")
    eq(get(p + "c"), b"three")


def multipart(p):
    key, one, two = p + "m", data(5 << 20, 1), b"tail"
    id = s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata={"k": "v"})["UploadId"]
    parts = [{"PartNumber": n, "ETag": s3.upload_part(Bucket=bucket, Key=key, UploadId=id, PartNumber=n, Body=b)["ETag"]} for n, b in ((2, two), (1, one))]
    parts.reverse()
    s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=id, MultipartUpload={"Parts": parts})
    eq(get(key), one + two)
    eq(s3.head_object(Bucket=bucket, Key=key)["Metadata"], {"k": "v"})
    id = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    s3.upload_part(Bucket=bucket, Key=key, UploadId=id, PartNumber=1, Body=b"never")
    s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=id)
    eq(get(key), one + two)


def rename(p):
    for name in ("a", "sub/b", "sub/c"):
        put(p + "from/" + name, name.encode())
    eq(webhdfs("PUT", f"/{bucket}/{p}from", "RENAME", destination=f"/{bucket}/{p}to")[1], b'{"boolean":true}')
    eq(keys(p + "from/"), [])
    eq(keys(p + "to/"), [p + "to/a", p + "to/sub/b", p + "to/sub/c"])
    eq(get(p + "to/sub/b"), b"sub/b")
    eq(webhdfs("PUT", f"/{bucket}/{p}to/a", "RENAME", destination=f"/{bucket}/{p}to/z")[1], b'{"boolean":true}')
    eq(get(p + "to/z"), b"a")
    eq(code(lambda: get(p + "to/a")), "NoSuchKey")


def listing(p):
    for i in range(8):
        put(f"{p}l/{i}", b"x")
        put(f"{p}l/d{i}/x", b"x")
    want = sorted([f"{p}l/{i}" for i in range(8)] + [f"{p}l/d{i}/x" for i in range(8)])
    eq(keys(p + "l/"), want)
    page = s3.list_objects_v2(Bucket=bucket, Prefix=p + "l/", Delimiter="/", StartAfter=p + "l/6")
    eq([o["Key"] for o in page["Contents"]], [p + "l/7"])
    eq([o["Prefix"] for o in page["CommonPrefixes"]], [f"{p}l/d{i}/" for i in range(8)])
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in want]})
    eq(keys(p + "l/"), [])


def between(a, b):
    for size in (10, 9 << 20):
        body = data(size, a + b)
        put(a + "src", body, Metadata={"from": "a"})
        key = f"{b}copy-of-{a.replace('/', '-')}"
        s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": a + "src"})
        eq(get(key), body)
        eq(s3.head_object(Bucket=bucket, Key=key)["Metadata"], {"from": "a"})
    s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": a + "src"}, MetadataDirective="REPLACE", Metadata={"n": "1"}, ContentType="text/y")
    head = s3.head_object(Bucket=bucket, Key=key)
    eq((head["Metadata"], head["ContentType"]), ({"n": "1"}, "text/y"))
    if a != b:  # as of a directory that lies in another file system
        status, text = webhdfs("PUT", f"/{bucket}/{a}src", "RENAME", destination=f"/{bucket}/{b}moved")
        assert status // 100 == 4 and b"mount" in text or text == b'{"boolean":false}', f"{status} {text}"
        eq(get(a + "src"), body)


def web():
    eq(keys("gcs/web/"), ["gcs/web/a.txt", "gcs/web/sub dir/b+c.txt"])
    eq(get("gcs/web/a.txt", Range="bytes=3-5"), b"lis")
    eq(code(lambda: put("gcs/web/new", b"x")), "AccessDenied")
    eq(code(lambda: s3.delete_object(Bucket=bucket, Key="gcs/web/a.txt")), "AccessDenied")
    for p in prefixes:
        s3.copy_object(Bucket=bucket, Key=p + "from-web", CopySource={"Bucket": bucket, "Key": "gcs/web/sub dir/b+c.txt"})
        eq(get(p + "from-web"), b"below")


for p in prefixes:
    for f in (write, conditions, multipart, rename, listing):
        case(f"{f.__name__} /{p}", f, p)
for a in prefixes:
    for b in prefixes:
        case(f"copy /{a} to /{b}", between, a, b)
case("the web server", web)
