"""The narrowest policies of IAM that let somebody do a job on a repository: pure values."""

from __future__ import annotations

import enum
import re
from typing import Any

from s3backfs.store.location import S3Location

CREATE_ONLY = ("backups", "data", "meta", "index")
"""Areas where a writer makes objects and never replaces or deletes one."""

REPLACEABLE = ("open", "leases")
"""Areas whose objects writers replace and remove."""

RESTORED = ("keys", "backups", "open", "data", "meta", "moved")
"""Areas that a restore reads, beside repository.json."""

CREATE_ONLY_SID = "CreateButNeverReplace"


class Role(enum.StrEnum):
    """Who asks."""

    RESTORE_ONLY = "restore-only"
    READER = "reader"
    WRITER = "writer"
    MAINTAINER = "maintainer"


def policy_for(role: Role, location: S3Location, *, partition: str = "aws") -> dict[str, Any]:
    """Write the policy of a role."""
    bucket = f"arn:{partition}:s3:::{location.bucket}"
    prefix = f"{_literal(location.prefix)}/" if location.prefix else ""
    if role is Role.RESTORE_ONLY:
        names = ["repository.json", *(f"{area}/*" for area in RESTORED)]
        resources = [f"{bucket}/{prefix}{name}" for name in names]
        return _document([_allow("ReadObjects", ["s3:GetObject"], resources)])
    statements = [
        _allow("ReadObjects", ["s3:GetObject"], [f"{bucket}/{prefix}*"]),
        _list_statement(bucket, prefix),
    ]
    if role is Role.WRITER:
        statements += _writer_statements(f"{bucket}/{prefix}", bucket)
    if role is Role.MAINTAINER:
        statements += _maintainer_statements(f"{bucket}/{prefix}", bucket)
    return _document(statements)


def _literal(text: str) -> str:
    """Write a text in which no sign means another to IAM."""
    return re.sub(r"[*?$]", r"${\g<0>}", text)


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}


def _list_statement(bucket: str, prefix: str) -> dict[str, Any]:
    statement = _allow("ListPrefix", ["s3:ListBucket"], [bucket])
    if prefix:
        statement["Condition"] = {"StringLike": {"s3:prefix": [f"{prefix}*"]}}
    return statement


def _writer_statements(base: str, bucket: str) -> list[dict[str, Any]]:
    created = [f"{base}{area}/*" for area in CREATE_ONLY]
    replaced = [f"{base}{area}/*" for area in REPLACEABLE]
    return [
        _allow("Write", ["s3:PutObject"], created + replaced),
        _allow("GiveUploadsUp", ["s3:AbortMultipartUpload"], created),
        _allow("ListUploads", ["s3:ListBucketMultipartUploads"], [bucket]),
        _allow("RemoveOwnState", ["s3:DeleteObject"], replaced),
        {
            "Sid": CREATE_ONLY_SID,
            "Effect": "Deny",
            "Action": ["s3:PutObject"],
            "Resource": created,
            # Parts of uploads carry no condition; the request that completes them does.
            "Condition": {
                "Null": {"s3:if-none-match": "true"},
                "Bool": {"s3:ObjectCreationOperation": "true"},
            },
        },
    ]


def _maintainer_statements(base: str, bucket: str) -> list[dict[str, Any]]:
    actions = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return [
        _allow("WriteAndDelete", actions, [f"{base}*"]),
        _allow("ListUploads", ["s3:ListBucketMultipartUploads"], [bucket]),
    ]
