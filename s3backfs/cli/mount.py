"""The verb `mount`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.daemon import Link, launch
from s3backfs.cli.logs import log_path, start_logging
from s3backfs.cli.mountpoints import prepare_mountpoint, require_fuse
from s3backfs.cli.options import (
    COMPRESSION,
    DIRECTORY,
    DURATION,
    SIZE,
    URL_VARIABLE,
    split_mount_options,
    store_config,
    store_options,
)
from s3backfs.cli.passphrase import passphrase_reader, prompt_passphrase, take_passphrase
from s3backfs.cli.terminal import note
from s3backfs.config import (
    MountConfig,
    Secret,
    default_cache_dir,
    default_runtime_dir,
    default_state_dir,
)
from s3backfs.control import canonical_mountpoint
from s3backfs.errors import FuseUnavailableError
from s3backfs.service import notify_service
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.mount import OnReady

_LOG_LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command()
@click.argument("places", nargs=-1, metavar="[URL] MOUNTPOINT")
@click.option("-o", "words", multiple=True, metavar="OPT,..", help="Mount options, see above.")
@click.option("-f", "--foreground", is_flag=True, help="Stay, log to stderr, tell systemd.")
@click.option("--read-only", is_flag=True, help="Nothing can be written.")
@click.option("--keep-open", is_flag=True, help="Let umount leave open backups open.")
@click.option("--allow-forget", is_flag=True, help="Let rm -rf of a sealed backup forget it.")
@click.option("--take-over", is_flag=True, help="Go on with open backups of another machine.")
@click.option("--backup", metavar="NAME", help="Show only this backup.")
@click.option("--key-slot", metavar="ID", help="Open this key slot; nothing is listed.")
@click.option("--cache-dir", type=DIRECTORY, help="Disposable cache.  [default: ~/.cache/s3backfs]")
@click.option("--cache-size", type=SIZE, default="1GiB", show_default=True, help="Its bound.")
@click.option("--memory", type=SIZE, default="256MiB", show_default=True, help="Bound of buffers.")
@click.option("--compression", type=COMPRESSION, help="zstd[:LEVEL] or none, for this mount.")
@click.option(
    "--retry-for", type=DURATION, default="1d", show_default=True,
    help="How long to wait for an S3 that is away.",
)  # fmt: skip
@click.option(
    "--idle-checkpoint", type=DURATION, default="5s", show_default=True,
    help="Rest after which changes are made durable.",
)  # fmt: skip
@click.option(
    "--max-checkpoint", type=DURATION, default="5m", show_default=True,
    help="Longest time between two checkpoints.",
)  # fmt: skip
@click.option(
    "--lease", type=DURATION, default="10m", show_default=True,
    help="How long other machines wait before they take this one for gone.",
)  # fmt: skip
@click.option("--log-level", type=_LOG_LEVELS, default="info", show_default=True)
@click.option("--log-file", type=click.Path(dir_okay=False, resolve_path=True, path_type=Path))
@click.option("--syslog", is_flag=True, help="Log to syslog.")
@store_options
@click.pass_context
def mount(
    context: click.Context, /, places: tuple[str, ...], words: tuple[str, ...], **_: Any
) -> int:
    """Mount a repository; every directory in it is one backup.

    Returns 0 once the mount answers; the process goes to the background and logs below
    ~/.local/state/s3backfs/log (root: /var/lib/s3backfs/log).

    -o takes the options of this command by their long names (ro, keep-open, cache-size=4G) and
    those of FUSE: allow_other, default_permissions, nodev, nosuid, noexec, noatime...

    \b
    Examples:
      s3backfs mount s3://bucket/prefix /mnt/backups
      s3backfs mount file:///srv/nas /mnt/backups -o ro,allow_other
      S3BACKFS_REPOSITORY=s3://bucket s3backfs mount /mnt/backups --memory 512M
    """
    config = mount_config(context, places, words)
    require_fuse(config.fuse_options)
    if prepare_mountpoint(config.mountpoint):
        note(f"removed the dead mount on {config.mountpoint}")
    known = take_passphrase()
    config = replace(config, must_be_encrypted=known is not None)
    if config.foreground:
        return _serve_here(config, passphrase_reader(known))
    return _serve_in_background(config, known)


def mount_config(
    context: click.Context, places: tuple[str, ...], words: tuple[str, ...]
) -> MountConfig:
    """Build the frozen configuration from the command line; `-o` wins over nothing being said."""
    url, mountpoint = _url_and_mountpoint(places)
    fuse_options = _take_in_mount_options(context, words)
    params = {k: v for k, v in context.params.items() if k not in ("places", "words")}
    store = store_config(params)
    backup: str | None = params["backup"]
    is_read_only: bool = params["read_only"]
    return MountConfig(
        url=parse_url(url).url,
        mountpoint=canonical_mountpoint(mountpoint),
        cache_dir=params["cache_dir"] or default_cache_dir(),
        state_dir=default_state_dir(),
        runtime_dir=default_runtime_dir(),
        store=store,
        fuse_options=(*fuse_options, "ro") if is_read_only else fuse_options,
        is_read_only=is_read_only,
        keep_open=params["keep_open"],
        foreground=params["foreground"],
        allow_forget=params["allow_forget"],
        take_over=params["take_over"],
        backup=None if backup is None else os.fsencode(backup),
        key_slot=params["key_slot"],
        cache_bytes=params["cache_size"],
        memory_bytes=params["memory"],
        retry_for_s=params["retry_for"],
        idle_checkpoint_s=params["idle_checkpoint"],
        max_checkpoint_s=params["max_checkpoint"],
        lease_s=params["lease"],
        compression=params["compression"],
        log_level=params["log_level"],
        log_file=params["log_file"],
        log_to_syslog=params["syslog"],
    )


def _url_and_mountpoint(places: tuple[str, ...]) -> tuple[str, Path]:
    url = os.environ.get(URL_VARIABLE, "")
    match places:
        case (given_url, mountpoint):
            return given_url, Path(mountpoint)
        case (mountpoint,) if url:
            return url, Path(mountpoint)
        case (_,):
            raise click.UsageError(f"give URL and MOUNTPOINT, or set {URL_VARIABLE}")
    raise click.UsageError("give URL and MOUNTPOINT")


def _take_in_mount_options(context: click.Context, words: tuple[str, ...]) -> tuple[str, ...]:
    """Set the parameters that `-o` names as if their long options had been given."""
    options = {
        name.removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--") and name not in ("--help", "--foreground")
    }
    chosen = split_mount_options(words, options)
    for name, text in chosen.own:
        option = options[name]
        if option.is_flag == (text is not None):
            wanted = "takes no value" if option.is_flag else "needs a value"
            raise click.UsageError(f"-o {name} {wanted}")
        context.params[str(option.name)] = text is None or _converted(context, option, text)
    return chosen.fuse


def _converted(context: click.Context, option: click.Option, text: str) -> Any:
    try:
        return option.type_cast_value(context, text)
    except click.BadParameter as error:
        raise click.UsageError(f"-o {option.opts[0][2:]}: {error.message}", context) from error


def _serve_here(config: MountConfig, passphrase: Callable[[], bytes]) -> int:
    start_logging(config)
    try:
        return _run(config, passphrase, lambda _: notify_service("READY=1"))
    finally:
        notify_service("STOPPING=1")


def _serve_in_background(config: MountConfig, known: Secret | None) -> int:
    def work(link: Link) -> int:
        start_logging(config)
        reader = link.ask_passphrase if known is None else known.reveal
        return _run(config, reader, link.ready)

    log = None if config.log_to_syslog else log_path(config)
    return launch(work, prompt_passphrase, log)


def _run(config: MountConfig, passphrase: Callable[[], bytes], on_ready: OnReady) -> int:
    try:
        from s3backfs.mount import run_mount  # after the fork, and only for this verb
    except ImportError as error:
        if "fuse3" not in str(error):
            raise
        raise FuseUnavailableError(f"{error}; install the package libfuse3-3") from error
    return run_mount(config, passphrase, on_ready)
