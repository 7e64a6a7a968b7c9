"""Labels into a bucket that speaks S3. Endpoint, region and keys are those of the AWS environment."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from distill.errors import FootfallError
from distill.shards.publish import File, PublishConfig, Published, stale_files
from distill.shards.remote import s3_client

MAX_OBJECT_BYTES: Final = 5_000_000_000
"""Of one PUT."""


def publish_s3(target: str, files: list[File], manifest: Mapping[str, Any], config: PublishConfig) -> Published:
    """Upload to `s3://BUCKET/PREFIX`; `publish.publish` has checked the labels.

    Every object carries its SHA-256 (`x-amz-meta-sha256`), and the store checks what arrives against it. What lies
    there with the same hash is not sent again. What the folder does not have any more is deleted last.

    Raises:
        FootfallError: no bucket, no right to write, other labels there, out of reach.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = target.removeprefix("s3://").rstrip("/").partition("/")
    if not bucket or "?" in target or "@" in bucket:
        raise FootfallError(f"push to {target}", got="no bucket", expected="s3://BUCKET/PREFIX", do="correct it")
    too_large = [file.name for file in files if file.bytes > MAX_OBJECT_BYTES]
    if too_large:
        raise FootfallError(
            f"push to {target}", got=f"{too_large[0]} of more than 5 GB", expected="smaller shards",
            do="pack again with a smaller pack.shard_mb and pack.append=false",
        )  # fmt: skip
    store = _Store(s3_client(os.getpid()), bucket, f"{prefix}/" if prefix else "")
    try:
        there = {name: store.sha256(name) for name in store.names()}
        gone = stale_files(target, there, files, manifest, config)
        send = [file for file in files if there.get(file.name) != file.sha256]
        for file in send:
            store.put(file)
        for name in gone:
            store.delete(name)
    except ClientError as error:
        code = error.response["Error"].get("Code", error.response["ResponseMetadata"].get("HTTPStatusCode"))
        raise FootfallError(
            f"push to {target}", got=f"S3 {code}", expected="a bucket that may be read and written",
            do="check its name, endpoint and credentials (environment of this process); the same command goes on",
        ) from None  # fmt: skip
    except (BotoCoreError, OSError) as error:
        raise FootfallError(
            f"push to {target}", got=type(error).__name__, expected="a store that answers",
            do="check endpoint and network; the same command goes on where this one stopped",
        ) from None  # fmt: skip
    where = f"s3://{bucket}/{prefix}".rstrip("/")
    return Published(url=where, where=where, sent=len(send), kept=len(files) - len(send), deleted=len(gone))


class _Store:
    """The objects below a prefix."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix

    def names(self) -> Iterator[str]:
        """Names below the prefix."""
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
            for row in page.get("Contents", []):
                yield row["Key"].removeprefix(self.prefix)

    def sha256(self, name: str) -> str:
        """Hash that an object was stored with; "" if it was stored by others."""
        answer = self.client.head_object(Bucket=self.bucket, Key=self.prefix + name)
        return str(answer.get("Metadata", {}).get("sha256", ""))

    def put(self, file: File) -> None:
        """Store a file; the store refuses it if it arrives damaged."""
        check = base64.b64encode(bytes.fromhex(file.sha256)).decode()
        facts = {
            "Bucket": self.bucket, "Key": self.prefix + file.name, "ContentLength": file.bytes, "ChecksumSHA256": check,
            "Metadata": {"sha256": file.sha256},
        }  # fmt: skip
        if file.path is None:
            self.client.put_object(Body=file.data, **facts)
            return
        with file.path.open("rb") as stream:
            self.client.put_object(Body=stream, **facts)

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)
