"""The bucket of a server that keeps its artifacts in an S3-compatible object store."""

import os
from urllib.parse import urlsplit

from mlflow_server.errors import TrackingError

ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
"""Where the store is, if it is not Amazon's; MLflow reads it too. Keys: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""


def ensure_bucket(destination: str) -> None:
    """Make the bucket of `s3://BUCKET/PREFIX` unless it is there.

    Raises:
        TrackingError: boto3 is not installed, the store does not answer or refuses the keys.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise TrackingError(f"artifacts: {destination} needs boto3: pip install '.[server]'") from None
    bucket, endpoint = urlsplit(destination).netloc, os.environ.get(ENDPOINT)
    patience = Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 2})
    try:
        client = boto3.client("s3", endpoint_url=endpoint, config=patience)
        if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError, ValueError) as problem:
        raise TrackingError(f"artifacts: {destination} at {endpoint or 'Amazon S3'}: {problem}") from problem
