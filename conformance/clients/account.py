"""boto3 and WebHDFS on a mount of all buckets of an account, with boto3 looking at the account itself.

usage: account.py S3_ENDPOINT WEBHDFS_ENDPOINT ACCESS_KEY SECRET_KEY BUCKET STORE_ENDPOINT STORE_ACCESS_KEY STORE_SECRET_KEY

BUCKET is the mount, whose account has the bucket "first-one" with the key "was/there" in it. Prints one line of JSON per case:
{"case": name, "error": text or ""}.
"""
import getpass, hashlib, json, sys, traceback, urllib.error, urllib.parse, urllib.request

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

endpoint, hdfs, ak, sk, bucket, store_endpoint, store_ak, store_sk = sys.argv[1:]


def client(url, access, secret):
    return boto3.client("s3", endpoint_url=url, aws_access_key_id=access, aws_secret_access_key=secret, region_name="us-east-1",
                        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}))


s3, store = client(endpoint, ak, sk), client(store_endpoint, store_ak, store_sk)


def webhdfs(method, path, op, **query):
    url = f"{hdfs}/webhdfs/v1/{bucket}/{urllib.parse.quote(path)}?" + urllib.parse.urlencode({"op": op, "user.name": getpass.getuser(), **query})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def eq(got, want):
    assert got == want, f"got {got!r:.400}, want {want!r:.400}"


def refused(status_and_text, *texts):
    status, text = status_and_text
    assert status // 100 == 4 and all(t in text for t in texts), f"{status} {text}"


def error(f):
    try:
        f()
    except ClientError as e:
        return e.response["ResponseMetadata"]["HTTPStatusCode"], e.response["Error"]["Code"] + " " + e.response["Error"]["Message"]
    return 200, ""


def put(key, body, **more):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **more)


def get(key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def behind(key):
    b, key = key.split("/", 1)
    return store.get_object(Bucket=b, Key=key)["Body"].read()


def buckets():
    return sorted(b["Name"] for b in store.list_buckets()["Buckets"])


def shown():
    return sorted(s["pathSuffix"] for s in webhdfs("GET", "", "LISTSTATUS")[1]["FileStatuses"]["FileStatus"])


def keys(prefix="", **more):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": 2}, **more)
    return [o["Key"] for page in pages for o in page.get("Contents", [])]


def data(n, seed):
    block = hashlib.sha256(str(seed).encode()).digest() * 64
    return (block * (n // len(block) + 1))[:n]


def case(f):
    try:
        f()
        error = ""
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps({"case": f.__name__, "error": error}), flush=True)


def what_is_there():
    eq(shown(), ["first-one"])
    eq(get("first-one/was/there"), b"before")
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    eq([p["Prefix"] for p in page["CommonPrefixes"]], ["first-one/"])


def make_buckets():
    eq(webhdfs("PUT", "second-one", "MKDIRS"), (200, {"boolean": True}))
    eq(webhdfs("PUT", "third-one/deep/er", "MKDIRS"), (200, {"boolean": True}))
    eq(buckets(), ["first-one", "second-one", "third-one"])
    eq(shown(), buckets())


def refusals():
    refused(webhdfs("PUT", "No_Bucket", "MKDIRS"), "lower-case letters")
    refused(webhdfs("PUT", "ab", "MKDIRS"), "3 to 63 characters")
    refused(error(lambda: put("beside", b"x")), "Invalid")
    refused(error(lambda: put("typo-in-name/key", b"x")), "Invalid")
    refused(error(lambda: s3.create_multipart_upload(Bucket=bucket, Key="typo-in-name/key")), "Invalid")
    refused(error(lambda: s3.copy_object(Bucket=bucket, Key="typo-in-name/key", CopySource=f"{bucket}/first-one/was/there")), "Invalid")
    refused(error(lambda: put("typo-in-name/key", b"x", Metadata={}, ContentType="x/y")), "Invalid")
    refused(webhdfs("PUT", "second-one", "RENAME", destination=f"/{bucket}/fourth-one"), "cannot be renamed")
    refused(webhdfs("DELETE", "first-one", "DELETE", recursive="true"), "not empty")
    eq(buckets(), ["first-one", "second-one", "third-one"])
    eq(get("first-one/was/there"), b"before")


def write_and_read():
    for size in (0, 5, 100_000, 9 << 20):
        body = data(size, size)
        tag = put("second-one/d/é+ %.bin", body, Metadata={"k": "v"})["ETag"].strip('"')
        eq(tag, hashlib.md5(body).hexdigest())
        eq(get("second-one/d/é+ %.bin"), body)
        eq(behind("second-one/d/é+ %.bin"), body)
    put("second-one/c", b"one", IfNoneMatch="*")
    eq(error(lambda: put("second-one/c", b"two", IfNoneMatch="*"))[0], 412)


def multipart():
    key, one, two = "second-one/m", data(5 << 20, 1), b"tail"
    id = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts = [{"PartNumber": n, "ETag": s3.upload_part(Bucket=bucket, Key=key, UploadId=id, PartNumber=n, Body=b)["ETag"]} for n, b in ((1, one), (2, two))]
    s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=id, MultipartUpload={"Parts": parts})
    eq(get(key), one + two)
    eq(behind(key), one + two)
    id = s3.create_multipart_upload(Bucket=bucket, Key="third-one/m")["UploadId"]
    part = s3.upload_part_copy(Bucket=bucket, Key="third-one/m", UploadId=id, PartNumber=1, CopySource=f"{bucket}/{key}", CopySourceRange="bytes=1-99")
    s3.complete_multipart_upload(Bucket=bucket, Key="third-one/m", UploadId=id, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]})
    eq(behind("third-one/m"), one[1:100])


def copy():
    put("first-one/src", data(70_000, 2), Metadata={"from": "first"})
    for key in ("first-one/copy", "third-one/copy"):
        s3.copy_object(Bucket=bucket, Key=key, CopySource=f"{bucket}/first-one/src")
        eq(behind(key), data(70_000, 2))
        eq(s3.head_object(Bucket=bucket, Key=key)["Metadata"], {"from": "first"})


def rename():
    for name in ("a", "sub/b", "sub/c"):
        put("first-one/from/" + name, name.encode())
    eq(webhdfs("PUT", "first-one/from", "RENAME", destination=f"/{bucket}/first-one/to"), (200, {"boolean": True}))
    eq(webhdfs("PUT", "first-one/to", "RENAME", destination=f"/{bucket}/second-one/moved"), (200, {"boolean": True}))
    eq(keys("first-one/from/") + keys("first-one/to/"), [])
    eq(keys("second-one/moved/"), ["second-one/moved/a", "second-one/moved/sub/b", "second-one/moved/sub/c"])
    eq(behind("second-one/moved/sub/b"), b"sub/b")
    eq(webhdfs("PUT", "second-one/moved/a", "RENAME", destination=f"/{bucket}/third-one/a"), (200, {"boolean": True}))
    eq(behind("third-one/a"), b"a")
    eq(error(lambda: behind("second-one/moved/a"))[0], 404)


def list_everything():
    want = sorted(f"{b}/{o['Key']}" for b in buckets() for page in store.get_paginator("list_objects_v2").paginate(Bucket=b) for o in page.get("Contents", [])
                  if not o["Key"].startswith(".sluice/"))
    got = keys()
    eq([k for k in got if not k.endswith("/")], [k for k in want if not k.endswith("/")])
    eq(got, sorted(got))
    eq([k for k in keys(StartAfter="second-one/d/") if not k.endswith("/")], [k for k in want if k > "second-one/d/" and not k.endswith("/")])


def behind_its_back():
    store.create_bucket(Bucket="made-behind")
    store.put_object(Bucket="made-behind", Key="k", Body=b"behind")
    assert "made-behind" in shown()
    eq(get("made-behind/k"), b"behind")
    store.delete_object(Bucket="made-behind", Key="k")
    store.delete_bucket(Bucket="made-behind")
    assert "made-behind" not in shown()
    eq(error(lambda: get("made-behind/k"))[0], 404)
    refused(error(lambda: put("made-behind/k", b"x")), "Invalid")
    assert "made-behind" not in buckets()


def remove_buckets():
    refused(webhdfs("DELETE", "third-one", "DELETE", recursive="false"), "not empty")
    eq(webhdfs("DELETE", "third-one/deep", "DELETE", recursive="true"), (200, {"boolean": True}))
    for k in keys("third-one/"):
        if k != "third-one/":
            s3.delete_object(Bucket=bucket, Key=k)
    eq(shown(), ["first-one", "second-one", "third-one"])  # empty, and there
    eq(webhdfs("DELETE", "third-one", "DELETE", recursive="false"), (200, {"boolean": True}))
    eq(shown(), ["first-one", "second-one"])
    eq(buckets(), ["first-one", "second-one"])


for f in (what_is_there, make_buckets, refusals, write_and_read, multipart, copy, rename, list_everything, behind_its_back, remove_buckets):
    case(f)
