"""boto3 as its default configuration has it, while the servers restart one by one.

usage: rolling.py ENDPOINT ACCESS_KEY SECRET_KEY BUCKET

Several threads put, get, list, copy and delete objects until standard input ends. Prints one line of JSON:
{"requests": how many calls, "failed": [text…]}.
"""
import hashlib, json, sys, threading, time

import boto3

endpoint, access, secret, bucket = sys.argv[1:]
stop, lock, requests, failed = threading.Event(), threading.Lock(), 0, []


def call(f, **kw):
    global requests
    began = time.time()
    try:
        return f(Bucket=bucket, **kw)
    except Exception as e:
        with lock:
            failed.append(f"{f.__name__} {kw.get('Key', '')} after {time.time() - began:.1f} s: {e!r}"[:500])
    finally:
        with lock:
            requests += 1


def load(thread):
    s3 = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret, region_name="us-east-1")
    n = 0
    while not stop.is_set():
        key, n = f"boto3/{thread}/{n}", n + 1
        body = hashlib.sha256(key.encode()).digest() * (1 if n % 4 else 5000)
        if not call(s3.put_object, Key=key, Body=body):
            continue
        got = call(s3.get_object, Key=key)
        try:
            if got and got["Body"].read() != body:
                failed.append(f"get {key}: other bytes than were put")
        except Exception as e:  # a body that breaks off is not asked for again
            failed.append(f"get {key}: {e!r}")
        if n % 5 == 0:
            call(s3.copy_object, Key=key + "-copy", CopySource={"Bucket": bucket, "Key": key})
            call(s3.delete_object, Key=key + "-copy")
        if n % 10 == 0:
            seen = call(s3.list_objects_v2, Prefix=key)
            if seen and key not in [o["Key"] for o in seen.get("Contents", [])]:
                failed.append(f"list {key}: it is not there")


threads = [threading.Thread(target=load, args=(i,)) for i in range(4)]
for t in threads:
    t.start()
sys.stdin.read()
stop.set()
for t in threads:
    t.join()
print(json.dumps({"requests": requests, "failed": failed}))
