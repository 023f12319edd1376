"""boto3 against a bucket that lets nobody in: argv is endpoint, access key, secret key, bucket, and a key that is there."""
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, access, secret, bucket, key = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret, region_name="us-east-1",
                  config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}))


def refused(name, call, text="noAccess"):
    error = ""
    try:
        call()
        error = "it was answered"
    except ClientError as e:
        status = e.response["ResponseMetadata"]["HTTPStatusCode"]
        if status != 403 or text and (e.response["Error"]["Code"] != "AccessDenied" or text not in e.response["Error"]["Message"]):
            error = "it was refused with %s" % e.response["Error"]
    print(json.dumps({"case": name, "error": error}), flush=True)


refused("get", lambda: s3.get_object(Bucket=bucket, Key=key))
refused("head", lambda: s3.head_object(Bucket=bucket, Key=key), "")  # has no body
refused("put", lambda: s3.put_object(Bucket=bucket, Key="new", Body=b"x"))
refused("list", lambda: s3.list_objects_v2(Bucket=bucket))
refused("delete", lambda: s3.delete_object(Bucket=bucket, Key=key))
refused("copy", lambda: s3.copy_object(Bucket=bucket, Key="new", CopySource={"Bucket": bucket, "Key": key}))
