"""The command `s3backfs`: its verbs, and the only way out of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from s3backfs import __version__
from s3backfs.cli.check import check
from s3backfs.cli.diff import diff
from s3backfs.cli.doctor import doctor
from s3backfs.cli.entry import INTERRUPTED_EXIT_CODE
from s3backfs.cli.failures import InterruptedVerb, explain
from s3backfs.cli.find import find
from s3backfs.cli.forget import delete, forget, unforget
from s3backfs.cli.init import init
from s3backfs.cli.key import key
from s3backfs.cli.listing import list_command
from s3backfs.cli.mount import mount
from s3backfs.cli.policy import policy
from s3backfs.cli.prune import prune
from s3backfs.cli.repair import repair
from s3backfs.cli.seal import reopen, seal
from s3backfs.cli.stats import stats
from s3backfs.cli.status import status
from s3backfs.cli.sync import sync
from s3backfs.cli.tag import tag
from s3backfs.cli.terminal import note
from s3backfs.cli.umount import umount
from s3backfs.cli.versions import versions


class _Verbs(click.Group):
    """A group that does not let click print an empty line where somebody pressed Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise InterruptedVerb from error


@click.group(
    cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version", prog_name="s3backfs")
def cli() -> None:
    """Back up to S3 with plain tools, through a mounted file system.

    \b
    Every directory at the root of the mount is one backup:
      s3backfs init   s3://bucket/prefix
      s3backfs mount  s3://bucket/prefix /mnt/backups
      rsync -aHAX /home/ /mnt/backups/home-monday/
      s3backfs umount /mnt/backups

    URL is s3://BUCKET/PREFIX or file:///DIRECTORY; S3BACKFS_REPOSITORY stands in for it. The
    passphrase comes from S3BACKFS_PASSPHRASE_FILE, S3BACKFS_PASSPHRASE_COMMAND (run without a
    shell), S3BACKFS_PASSPHRASE, or a prompt. Credentials are those of boto3: AWS_ACCESS_KEY_ID,
    AWS_PROFILE, AWS_ENDPOINT_URL, instance roles; or those of S3BACKFS_CREDENTIALS_FILE.
    """


for _verb in (
    init,
    mount,
    umount,
    seal,
    reopen,
    sync,
    list_command,
    status,
    forget,
    unforget,
    delete,
    tag,
    diff,
    find,
    versions,
    stats,
    prune,
    check,
    repair,
    key,
    doctor,
    policy,
):
    cli.add_command(_verb)


def run(arguments: Sequence[str]) -> int:
    """Run one verb and say what the exit code is; whatever fails is told in one line."""
    try:
        code = cli.main(list(arguments), prog_name="s3backfs", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        failure = explain(error)
        if failure.exit_code == INTERRUPTED_EXIT_CODE and sys.stderr.isatty():
            click.echo(err=True)  # the terminal has written ^C
        note(failure.text)
        return failure.exit_code
    return code if isinstance(code, int) else 0
