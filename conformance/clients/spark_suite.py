"""Spark against a running Sluice: tables written through one protocol and read through the other.

usage: spark_suite.py CONFIG

CONFIG is JSON: s3, webhdfs, admin (URLs), access, secret, user (superuser), jars (directory), work (scratch directory) and
mounts, a list of {"name", "bucket", "dir"} for a mounted directory or {"name", "bucket", "store": {"url", "access",
"secret", "bucket"}} for a mounted bucket of another S3 server.

Prints one line of JSON per case: {"case": name, "error": text or ""}.
"""
import datetime, hashlib, json, os, re, shutil, sys, traceback, urllib.parse, urllib.request

import boto3
from botocore.client import Config
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

conf = json.loads(sys.argv[1])
os.environ["HADOOP_USER_NAME"] = conf["user"]
work = conf["work"]

spark = (
    SparkSession.builder.master("local[2]").appName("conformance")
    .config("spark.driver.memory", "1200m")
    .config("spark.driver.extraClassPath", os.path.join(conf["jars"], "*"))
    .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "2")
    .config("spark.local.dir", work).config("spark.sql.warehouse.dir", os.path.join(work, "warehouse"))
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.hadoop.fs.s3a.endpoint", conf["s3"]).config("spark.hadoop.fs.s3a.endpoint.region", "us-east-1")
    .config("spark.hadoop.fs.s3a.path.style.access", "true").config("spark.hadoop.fs.s3a.connection.ssl.enabled", "false")
    .config("spark.hadoop.fs.s3a.aws.credentials.provider", "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider")
    .config("spark.hadoop.fs.s3a.access.key", conf["access"]).config("spark.hadoop.fs.s3a.secret.key", conf["secret"])
    .config("spark.hadoop.fs.s3a.attempts.maximum", "1").config("spark.hadoop.fs.s3a.retry.limit", "0")
    .config("spark.hadoop.fs.s3a.buffer.dir", os.path.join(work, "s3a"))
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")

ROWS, PARTS = 200_000, 4


def table(rows=ROWS, seed=1, parts=PARTS):
    """Columns of every common type, with nulls, and bytes that do not compress to nothing."""
    return spark.range(rows).repartition(2, "id").select(
        "id",
        F.sha2(F.concat_ws("/", F.lit(seed), "id"), 256).alias("name"),
        F.when(F.col("id") % 7 != 0, F.rand(seed) * 1e6).alias("price"),
        (F.col("id") * 3 + seed).cast("decimal(18,2)").alias("amount"),
        F.timestamp_seconds(F.lit(1_700_000_000) + F.col("id")).alias("at"),
        (F.col("id") % 3 == 0).alias("flag"),
        F.array(F.col("id"), F.col("id") + seed).alias("list"),
        F.concat(F.lit("p="), (F.col("id") % parts).cast("string")).alias("part"),
    )


def digest(df):
    """The number of rows and a sum over the hashes of all columns of each row."""
    cols = sorted(df.columns)
    r = df.agg(F.count("*"), F.sum(F.xxhash64(*cols).cast("decimal(38,0)"))).collect()[0]
    return r[0], str(r[1])


base = table().cache()
more = table(20_000, seed=2).cache()
BASE, MORE = digest(base), digest(more)
BOTH = (BASE[0] + MORE[0], str(int(BASE[1]) + int(MORE[1])))
assert BASE[0] == ROWS


def sluice_s3():
    return boto3.client("s3", endpoint_url=conf["s3"], aws_access_key_id=conf["access"], aws_secret_access_key=conf["secret"],
                        region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))


def store_s3(store):
    return boto3.client("s3", endpoint_url=store["url"], aws_access_key_id=store["access"], aws_secret_access_key=store["secret"],
                        region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))


s3 = sluice_s3()


def eq(got, want):
    assert got == want, f"got {str(got)[:2000]}, want {str(want)[:2000]}"


class Mount:
    def __init__(self, m):
        self.name, self.bucket, self.dir, self.store = m["name"], m["bucket"], m.get("dir"), m.get("store")
        self.client = store_s3(self.store) if self.store else None

    def s3a(self, path):
        return f"s3a://{self.bucket}/{path}"

    def hdfs(self, path):
        return f"webhdfs://{urllib.parse.urlparse(conf['webhdfs']).netloc}/{self.bucket}/{path}"

    def keys(self, prefix):
        """Key to size and bytes' MD5, as Sluice's S3 has them."""
        return objects(s3, self.bucket, prefix)

    def stored(self, prefix):
        """The same as the store itself has them, without Sluice."""
        if self.client:
            return objects(self.client, self.store["bucket"], prefix)
        found = {}
        for at, _, files in os.walk(os.path.join(self.dir, prefix)):
            for f in files:
                p = os.path.join(at, f)
                with open(p, "rb") as r:
                    b = r.read()
                found[os.path.relpath(p, self.dir)] = (len(b), hashlib.md5(b).hexdigest())
        return found

    def listing(self, path):
        """The names of a directory, as WebHDFS has them."""
        url = f"{conf['webhdfs']}/webhdfs/v1/{self.bucket}/{urllib.parse.quote(path)}?op=LISTSTATUS&user.name={conf['user']}"
        with urllib.request.urlopen(url) as r:
            return sorted(f["pathSuffix"] for f in json.load(r)["FileStatuses"]["FileStatus"])


def objects(client, bucket, prefix):
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for o in page.get("Contents", []):
            if o["Key"].endswith("/"):
                continue
            b = client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read()
            eq(len(b), o["Size"])
            found[o["Key"]] = (o["Size"], hashlib.md5(b).hexdigest())
    return found


cases = []


def case(f):
    cases.append(f)
    return f


def written(m, path, partitioned=True):
    """What a committed table looks like: _SUCCESS, data in every partition, nothing left of the job, no other names; and
    the store has the very same bytes under the very same names."""
    keys = m.keys(path + "/")
    names = m.listing(path)
    assert "_SUCCESS" in names and path + "/_SUCCESS" in keys, names
    for k in keys:
        assert not re.search(r"_temporary|\.spark-staging|__magic|_COPYING_", k), k
    assert not [n for n in names if n not in ("_SUCCESS",) and n.startswith(("_", "."))], names
    if partitioned:
        eq([n for n in names if n != "_SUCCESS"], [f"part=p%3D{i}" for i in range(PARTS)])
        for i in range(PARTS):
            assert any(k.startswith(f"{path}/part=p%3D{i}/part-") for k in keys), keys
    eq(m.stored(path + "/"), keys)
    return keys


def write(df, where, fmt="parquet", mode="errorifexists", partitioned=True, **options):
    w = df.write.mode(mode).options(**options)
    (w.partitionBy("part") if partitioned else w).format(fmt).save(where)


def read(where, fmt="parquet", schema=None, **options):
    r = spark.read.options(**options)
    return (r.schema(schema) if schema else r).format(fmt).load(where)


ALGORITHM = "mapreduce.fileoutputcommitter.algorithm.version"


def parquet(write_by, read_by, algorithm):
    def f(m):
        path = f"{write_by}-v{algorithm}"
        write(base, getattr(m, write_by)(path), **{ALGORITHM: algorithm})
        keys = written(m, path)
        for k in keys:
            assert k.endswith(("_SUCCESS", ".snappy.parquet")), k
        eq(digest(read(getattr(m, read_by)(path))), BASE)
        eq(digest(read(getattr(m, write_by)(path))), BASE)
    f.__name__ = f"parquet_{write_by}_v{algorithm}_then_{read_by}"
    return f


for by, then in (("s3a", "hdfs"), ("hdfs", "s3a")):
    for algorithm in ("1", "2"):
        case(parquet(by, then, algorithm))


@case
def magic_committer(m):
    options = {
        "spark.sql.sources.commitProtocolClass": "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol",
        "spark.sql.parquet.output.committer.class": "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter",
    }
    for k, v in options.items():
        spark.conf.set(k, v)
    try:
        write(base, m.s3a("magic"), **{
            "fs.s3a.committer.name": "magic",
            "mapreduce.outputcommitter.factory.scheme.s3a": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory"})
    finally:
        for k in options:
            spark.conf.unset(k)
    success = json.loads(s3.get_object(Bucket=m.bucket, Key="magic/_SUCCESS")["Body"].read())
    eq(success["committer"], "magic")
    keys = written(m, "magic")
    eq(sorted("/" + k for k in keys if not k.endswith("_SUCCESS")), sorted(success["filenames"]))
    eq(digest(read(m.hdfs("magic"))), BASE)
    assert not s3.list_multipart_uploads(Bucket=m.bucket).get("Uploads")


@case
def existing_table_is_refused(m):
    before = m.keys("s3a-v1/")
    for where in (m.s3a("s3a-v1"), m.hdfs("s3a-v1")):
        try:
            write(more, where)
            raise RuntimeError("a table was written over another")
        except Exception as e:
            assert "already exists" in str(e), e
    eq(m.keys("s3a-v1/"), before)


def overwrite(by, then):
    def f(m):
        path = f"over-{by}"
        write(more, getattr(m, by)(path))
        old = set(written(m, path))
        write(base, getattr(m, by)(path), mode="overwrite")
        new = set(written(m, path))
        eq(old & new, {path + "/_SUCCESS"})
        eq(digest(read(getattr(m, then)(path))), BASE)
    f.__name__ = f"overwrite_by_{by}"
    return f


def append(by, then):
    def f(m):
        path = f"append-{by}"
        write(base, getattr(m, then)(path))
        old = written(m, path)
        write(more, getattr(m, by)(path), mode="append")
        new = written(m, path)
        eq({k: v for k, v in new.items() if k in old}, old)
        assert len(new) > len(old)
        eq(digest(read(getattr(m, then)(path))), BOTH)
        eq(digest(read(getattr(m, by)(path))), BOTH)
    f.__name__ = f"append_by_{by}"
    return f


def dynamic(by, then):
    def f(m):
        path = f"dynamic-{by}"
        write(base, getattr(m, then)(path))
        old = written(m, path)
        one = f"{path}/part=p%3D1/"
        write(more.where("part = 'p=1'"), getattr(m, by)(path), mode="overwrite", partitionOverwriteMode="dynamic")
        new = written(m, path)
        eq({k: v for k, v in new.items() if not k.startswith(one)}, {k: v for k, v in old.items() if not k.startswith(one)})
        assert not {k for k in new if k.startswith(one)} & set(old)
        want = digest(base.where("part <> 'p=1'").union(more.where("part = 'p=1'")))
        eq(digest(read(getattr(m, then)(path))), want)
    f.__name__ = f"dynamic_partition_overwrite_by_{by}"
    return f


for by, then in (("s3a", "hdfs"), ("hdfs", "s3a")):
    case(overwrite(by, then))
    case(append(by, then))
    case(dynamic(by, then))


@case
def csv_s3a_then_hdfs(m):
    flat = more.drop("list")
    write(flat, m.s3a("csv"), "csv", header=True)
    for k in written(m, "csv"):
        assert k.endswith(("_SUCCESS", ".csv")), k
    eq(digest(read(m.hdfs("csv"), "csv", flat.schema, header=True)), digest(flat))


@case
def json_hdfs_then_s3a(m):
    write(more, m.hdfs("json"), "json")
    for k in written(m, "json"):
        assert k.endswith(("_SUCCESS", ".json")), k
    eq(digest(read(m.s3a("json"), "json", more.schema)), MORE)


@case
def unpartitioned_through_both(m):
    df = more.drop("part").coalesce(1)
    for by, then in (("s3a", "hdfs"), ("hdfs", "s3a")):
        path = "flat-" + by
        write(df, getattr(m, by)(path), partitioned=False)
        eq(len(written(m, path, partitioned=False)), 2)
        eq(digest(read(getattr(m, then)(path))), digest(df))


@case
def pruning_and_ranges(m):
    want = base.where("part = 'p=2' and id between 50000 and 60000").select("id", "price")
    for by in ("s3a", "hdfs"):
        got = read(getattr(m, by)("s3a-v1")).where("part = 'p=2' and id between 50000 and 60000").select("id", "price")
        eq(digest(got), digest(want))


def numbers():
    """Sums over the labels of every metric, and those that count reads of under-stores."""
    with urllib.request.urlopen(conf["admin"] + "/metrics") as r:
        text = r.read().decode()
    n = {"hit": 0.0, "miss": 0.0, "filled": 0.0, "store": 0.0}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("sluice_cache_pages_total{") and 'result="hit"' in name:
            n["hit"] += float(value)
        elif name.startswith("sluice_cache_pages_total{") and 'result="miss"' in name:
            n["miss"] += float(value)
        elif name.startswith("sluice_cache_source_bytes_total"):
            n["filled"] += float(value)
        elif name.startswith("sluice_ufs_calls_total{") and 'op="Open"' in name:
            n["store"] += float(value)
    return n


@case
def warm_read(m):
    """A table that another program put into the store is read from it once, and from the cache after."""
    n0 = numbers()
    for by in ("hdfs", "s3a"):
        eq(digest(read(getattr(m, by)("behind"))), BASE)
    keys = m.keys("behind/")
    n1 = numbers()
    eq(m.stored("behind/"), keys)
    size = sum(v[0] for v in keys.values())
    eq(size, m.behind)
    assert n1["miss"] > n0["miss"] and n1["store"] > n0["store"], (n0, n1)
    # A reader that leaves gives up the page it was filling, so a little is read twice; four readings in turn are not.
    assert size <= n1["filled"] - n0["filled"] < size * 3 / 2, (n0, n1, size)
    for by in ("s3a", "hdfs"):
        eq(digest(read(getattr(m, by)("behind"))), BASE)
    n2 = numbers()
    assert n2["hit"] > n1["hit"], (n1, n2)
    eq((n2["miss"], n2["filled"], n2["store"]), (n1["miss"], n1["filled"], n1["store"]))
    for k in keys:
        for again in (False, True):  # the first may check facts that have become old
            r = s3.get_object(Bucket=m.bucket, Key=k)
            r["Body"].read()
            cache = r["ResponseMetadata"]["HTTPHeaders"].get("x-cache")
            assert cache == "HIT" or cache == "REVALIDATED" and not again, cache
    eq(numbers()["store"], n2["store"])


@case
def tables_are_removed(m):
    hadoop = spark._jvm.org.apache.hadoop.fs
    for where, path in ((m.s3a, "s3a-v1"), (m.hdfs, "hdfs-v1")):
        p = hadoop.Path(where(path))
        fs = p.getFileSystem(spark._jsc.hadoopConfiguration())
        assert fs.delete(p, True) and not fs.exists(p)
        eq((m.keys(path + "/"), m.stored(path + "/")), ({}, {}))


@case
def table_is_renamed(m):
    hadoop = spark._jvm.org.apache.hadoop.fs
    for by, then, path in (("hdfs", "s3a", "hdfs-v2"), ("s3a", "hdfs", "s3a-v2")):
        was = m.keys(path + "/")
        p, q = hadoop.Path(getattr(m, by)(path)), hadoop.Path(getattr(m, by)("moved-" + path))
        assert p.getFileSystem(spark._jsc.hadoopConfiguration()).rename(p, q)
        now = written(m, "moved-" + path)
        eq({k.removeprefix("moved-"): v for k, v in now.items()}, was)
        eq((m.keys(path + "/"), m.stored(path + "/")), ({}, {}))
        eq(digest(read(getattr(m, then)("moved-" + path))), BASE)


def put_behind(mounts):
    """Puts a table into the stores before Sluice has been asked for anything there."""
    local = os.path.join(work, "behind")
    base.write.partitionBy("part").parquet("file://" + local)
    files = []
    for at, _, names in os.walk(local):
        files += [os.path.join(at, n) for n in names if not n.endswith(".crc")]
    old = datetime.datetime.now().timestamp() - 60
    for m in mounts:
        m.behind = sum(os.path.getsize(p) for p in files)
        for p in files:
            key = "behind/" + os.path.relpath(p, local)
            if m.client:
                m.client.upload_file(p, m.store["bucket"], key)
                continue
            to = os.path.join(m.dir, key)
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copyfile(p, to)
            os.utime(to, (old, old))  # a file that has only just changed may change again unseen, and is not cached


mounts = [Mount(m) for m in conf["mounts"]]
put_behind(mounts)
for m in mounts:
    for f in cases:
        start = datetime.datetime.now()
        try:
            f(m)
            err = ""
        except Exception as e:
            err = f"{type(e).__name__}: {str(e)[:4000]}\n{traceback.format_exc(limit=-4)[-4000:]}"
        took = (datetime.datetime.now() - start).total_seconds()
        print(json.dumps({"case": f"{m.name} {f.__name__}", "error": err, "seconds": round(took, 1)}), flush=True)
spark.stop()
