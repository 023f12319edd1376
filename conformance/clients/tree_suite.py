"""Spark, Hadoop's DistCp and boto3 on one tree of five kinds of stores.

usage: tree_suite.py CONFIG

CONFIG is JSON: s3, webhdfs (URLs), access, secret, user (superuser), jars (class path), work (scratch directory), bucket (the mount
on top), stores: the prefixes in it, "" included, that are stores of kinds of their own, by kind; and full: whether every store is the
source of a DistCp, and more tables are joined.

Prints one line of JSON per case: {"case": name, "error": text or ""}.
"""
import json, os, sys, traceback, urllib.error, urllib.parse, urllib.request

import boto3
from botocore.client import Config
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

conf = json.loads(sys.argv[1])
os.environ["HADOOP_USER_NAME"] = conf["user"]
work, bucket, stores = conf["work"], conf["bucket"], conf["stores"]

spark = (
    SparkSession.builder.master("local[2]").appName("tree")
    .config("spark.driver.memory", "1g").config("spark.driver.extraClassPath", conf["jars"])
    .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "2")
    .config("spark.local.dir", work).config("spark.sql.warehouse.dir", os.path.join(work, "warehouse"))
    .config("spark.hadoop.hadoop.tmp.dir", os.path.join(work, "hadoop"))
    .config("spark.hadoop.mapreduce.framework.name", "local")
    .config("spark.hadoop.fs.s3a.endpoint", conf["s3"]).config("spark.hadoop.fs.s3a.endpoint.region", "us-east-1")
    .config("spark.hadoop.fs.s3a.path.style.access", "true").config("spark.hadoop.fs.s3a.connection.ssl.enabled", "false")
    .config("spark.hadoop.fs.s3a.aws.credentials.provider", "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider")
    .config("spark.hadoop.fs.s3a.access.key", conf["access"]).config("spark.hadoop.fs.s3a.secret.key", conf["secret"])
    .config("spark.hadoop.fs.s3a.buffer.dir", os.path.join(work, "s3a"))
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
s3 = boto3.client("s3", endpoint_url=conf["s3"], aws_access_key_id=conf["access"], aws_secret_access_key=conf["secret"],
                  region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))


def s3a(path):
    return f"s3a://{bucket}/{path}"


def hdfs(path):
    return f"webhdfs://{urllib.parse.urlparse(conf['webhdfs']).netloc}/{bucket}/{path}"


def eq(got, want):
    assert got == want, f"got {got!r:.1000}, want {want!r:.1000}"


def keys(prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {o["Key"][len(prefix):]: o["ETag"] for page in pages for o in page.get("Contents", []) if not o["Key"].endswith("/")}


def files(prefix):
    return {k: s3.get_object(Bucket=bucket, Key=prefix + k)["Body"].read() for k in keys(prefix)}


def case(name, f, *args):
    try:
        f(*args)
        error = ""
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps({"case": name, "error": error}), flush=True)


def write(kind, prefix):
    """Each store has a table of its own, with the same keys."""
    spark.range(1000).select("id", (F.col("id") * len(kind)).alias(kind)).coalesce(1).write.parquet(s3a(prefix + "table"))


def join(*kinds):
    read = [spark.read.parquet((s3a if i % 2 else hdfs)(stores[k] + "table")) for i, k in enumerate(kinds)]
    both = read[0]
    for other in read[1:]:
        both = both.join(other, "id")
    got = both.agg(F.count("*"), *[F.sum(k) for k in kinds]).collect()[0]
    eq(tuple(got), (1000, *[999 * 500 * len(k) for k in kinds]))


def rename(kind, prefix):
    for name in ("a", "sub/b"):
        s3.put_object(Bucket=bucket, Key=f"{prefix}from/{name}", Body=name.encode())
    url = f"{conf['webhdfs']}/webhdfs/v1/{bucket}/{prefix}from?" + urllib.parse.urlencode(
        {"op": "RENAME", "destination": f"/{bucket}/{prefix}to", "user.name": conf["user"]})
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=60) as answer:
        eq(json.load(answer), {"boolean": True})
    eq(files(prefix + "to/"), {"a": b"a", "sub/b": b"sub/b"})
    eq(keys(prefix + "from/"), {})


def copy(kind, prefix, other, to):
    s3.copy_object(Bucket=bucket, Key=f"{to}copy-of-{kind}", CopySource={"Bucket": bucket, "Key": prefix + "to/a"})
    eq(s3.get_object(Bucket=bucket, Key=f"{to}copy-of-{kind}")["Body"].read(), b"a")


def distcp(source, target, of, to):
    jvm = spark._jvm
    config = jvm.org.apache.hadoop.conf.Configuration(spark._jsc.hadoopConfiguration())
    args = spark.sparkContext._gateway.new_array(jvm.java.lang.String, 3)
    args[0], args[1], args[2] = "-direct", source(of), target(to)
    eq(jvm.org.apache.hadoop.tools.DistCp(config, None).run(args), 0)
    want = files(of + "/")
    assert want
    eq(files(to + "/"), want)


for kind, prefix in stores.items():
    case(f"{kind}: a table", write, kind, prefix)
kinds = list(stores)
for some in (kinds[:3], kinds[2:5], [kinds[4], kinds[0], kinds[2]], kinds)[:None if conf["full"] else 1]:
    case("a join of " + ", ".join(some), join, *some)
for i, (kind, prefix) in enumerate(stores.items()):
    other = kinds[(i + 1) % len(kinds)]
    case(f"{kind}: a directory renamed", rename, kind, prefix)
    case(f"{kind}: a file copied to {other}", copy, kind, prefix, other, stores[other])
    ways = [(s3a, s3a, "s3a"), (hdfs, hdfs, "webhdfs"), (s3a, hdfs, "s3a to webhdfs")]
    source, target, name = ways[i % len(ways)]
    if conf["full"] or i == 2:
        case(f"{kind}: distcp to {other}, {name}", distcp, source, target, prefix + "table", f"{stores[other]}of-{kind}")
