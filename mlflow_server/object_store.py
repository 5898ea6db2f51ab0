"""The bucket of a server that keeps its artifacts in an S3-compatible object store."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_server.errors import TrackingError

ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
"""Where the store is, if it is not Amazon's; MLflow reads it too. Keys: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""


def ensure_bucket(destination: str) -> None:
    """Make the bucket of `s3://BUCKET/PREFIX` unless it is there.

    Raises:
        TrackingError: boto3 is not installed, the store does not answer or refuses the keys.
    """
    with _connected(destination) as (client, bucket, _):
        if not _is_there(client, bucket):
            client.create_bucket(Bucket=bucket)


def names(destination: str) -> list[str]:
    """Return the objects below `s3://BUCKET/PREFIX`, by their names below it.

    Raises:
        TrackingError: the store cannot be used, or a name would lead elsewhere.
    """
    with _connected(destination) as (client, bucket, prefix):
        if not _is_there(client, bucket):
            return []
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])]
    if odd := [name for name in found if name.startswith("/") or ".." in name.split("/")]:
        raise TrackingError(f"artifacts: {destination} holds an object {odd[0]!r}, which is no path below it")
    return sorted(name for name in found if not name.endswith("/"))


def download(destination: str, folder: Path) -> None:
    """Copy all objects into a folder.

    Raises:
        TrackingError: the store cannot be used.
    """
    with _connected(destination) as (client, bucket, prefix):
        for name in names(destination):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, prefix + name, str(folder / name))


def upload(folder: Path, destination: str) -> None:
    """Copy all files of a folder into the bucket, which is made where it is missing.

    Raises:
        TrackingError: the store cannot be used.
    """
    ensure_bucket(destination)
    with _connected(destination) as (client, bucket, prefix):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix())


def hashes(destination: str) -> dict[str, str]:
    """Read all objects and return their sha256 by name.

    Raises:
        TrackingError: the store cannot be used.
    """
    found = {}
    with _connected(destination) as (client, bucket, prefix):
        for name in names(destination):
            total = hashlib.sha256()
            for chunk in client.get_object(Bucket=bucket, Key=prefix + name)["Body"].iter_chunks(1 << 20):
                total.update(chunk)
            found[name] = total.hexdigest()
    return found


def _is_there(client: Any, bucket: str) -> bool:
    return bucket in {found["Name"] for found in client.list_buckets()["Buckets"]}


@contextmanager
def _connected(destination: str) -> Iterator[tuple[Any, str, str]]:
    """Yield the client, the bucket and the prefix, with the slash at its end; tell the store's errors plainly."""
    try:
        import boto3
        from boto3.exceptions import Boto3Error
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise TrackingError(f"artifacts: {destination} needs boto3: pip install '.[server]'") from None
    parts, endpoint = urlsplit(destination), os.environ.get(ENDPOINT)
    prefix = parts.path.strip("/")
    patience = Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 2})
    try:
        yield (
            boto3.client("s3", endpoint_url=endpoint, config=patience),
            parts.netloc,
            f"{prefix}/" if prefix else "",
        )
    except (Boto3Error, BotoCoreError, ClientError, ValueError) as problem:
        raise TrackingError(f"artifacts: {destination} at {endpoint or 'Amazon S3'}: {problem}") from problem
