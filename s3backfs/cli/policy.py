"""The verb `policy`."""

from __future__ import annotations

import click

from s3backfs.cli.options import url_argument
from s3backfs.cli.terminal import note, print_json
from s3backfs.errors import ConfigurationError
from s3backfs.maintenance.access import Role, policy_for
from s3backfs.store.location import S3Location, parse_url

_CAVEAT = (
    "the statement CreateButNeverReplace works at AWS; elsewhere let versioning or Object Lock "
    "protect sealed backups, and remove it where it is refused"
)

_HOW_TO_RESTORE = "mount with: -o ro --backup NAME --key-slot ID (s3backfs key list --json)"


@click.command
@url_argument
@click.option(
    "--role", type=click.Choice([role.value for role in Role]), required=True,
    help="Who is to use the credentials.",
)  # fmt: skip
@click.option("--partition", default="aws", show_default=True, help="aws, aws-cn or aws-us-gov.")
def policy(url: str, role: str, partition: str) -> None:
    """Print the narrowest IAM policy for a role on the repository at URL, as JSON.

    \b
    restore-only  restores a backup whose name is known; lists nothing
    reader        lists, mounts, restores and checks all backups
    writer        makes and seals backups, and can neither replace nor delete what is sealed
    maintainer    init, keys, forget, prune

    \b
    Examples:
      s3backfs policy --role writer s3://bucket/prefix > writer.json
      aws iam put-user-policy --user-name web1 --policy-name s3backfs \\
          --policy-document file://writer.json
    """
    location = parse_url(url)
    if not isinstance(location, S3Location):
        raise ConfigurationError("policies are for s3:// URLs; a directory has permissions")
    print_json(policy_for(Role(role), location, partition=partition))
    if role == Role.WRITER:
        note(_CAVEAT)
    if role == Role.RESTORE_ONLY:
        note(_HOW_TO_RESTORE)
