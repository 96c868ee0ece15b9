"""Policies of IAM, as values."""

from __future__ import annotations

import json

import pytest

from s3backfs.maintenance.access import Role, policy_for
from s3backfs.store.location import S3Location


@pytest.mark.parametrize("role", Role)
def test_signs_of_a_prefix_mean_themselves(role: Role) -> None:
    """A star or a dollar in a prefix does not widen what a policy allows."""
    text = json.dumps(policy_for(role, S3Location("bucket", "we*rd/${aws:username}")))
    assert "bucket/we${*}rd/${$}{aws:username}/" in text
    assert "we*rd" not in text
    assert "${aws" not in text.replace("${$}{aws", "")
