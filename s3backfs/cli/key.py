"""The verbs `key list`, `add`, `remove`, `passwd` and `rotate`: who can open a repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from s3backfs.cli.key_files import export_keys, import_keys
from s3backfs.cli.keyed import run_keyed
from s3backfs.cli.new_key import KeyChoice, make_new_key
from s3backfs.cli.options import SIZE, store_config, store_options, url_argument
from s3backfs.cli.passphrase import prompt_new_passphrase, take_new_passphrase
from s3backfs.cli.qr import check_can_draw, draw
from s3backfs.cli.terminal import (
    format_bytes,
    format_time,
    note,
    print_json,
    print_table,
    printable,
)
from s3backfs.config import KIB, Secret
from s3backfs.errors import ConfigurationError

if TYPE_CHECKING:
    from s3backfs.format.slots import Cost
    from s3backfs.repository.keyslots import KeyedRepository, KeySlot, Replaced
    from s3backfs.repository.new_keys import NewKey

T = TypeVar("T")
Change = Callable[["KeyedRepository", "NewKey"], Awaitable[T]]

_cost_options = (
    click.option("--argon2-memory", type=SIZE, help="What stretching costs.  [default: 64MiB]"),
    click.option("--argon2-passes", type=click.IntRange(1, 16), help="[default: 3]"),
)


def cost_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what stretching a passphrase costs."""
    for option in reversed(_cost_options):
        command = option(command)
    return command


@click.group
def key() -> None:
    """Say who can open a repository: every passphrase, file or service has a slot of its own.

    All of them open the same master key. What opens the repository comes from where all verbs take
    it: S3BACKFS_PASSPHRASE_FILE, S3BACKFS_PASSPHRASE_COMMAND, S3BACKFS_PASSPHRASE,
    S3BACKFS_IDENTITY_FILE, S3BACKFS_KMS_KEY (the key of AWS KMS that this machine trusts), or a
    prompt. Recovery keys and raw keys are given like passphrases. A new passphrase comes from
    S3BACKFS_NEW_PASSPHRASE_FILE, S3BACKFS_NEW_PASSPHRASE_COMMAND, S3BACKFS_NEW_PASSPHRASE, or a
    prompt.

    \b
    Examples:
      s3backfs key add s3://bucket/prefix --recovery --label safe
      s3backfs key list s3://bucket/prefix
    """


@key.command("list")
@url_argument
@click.option("--json", "as_json", is_flag=True, help="Print the slots as JSON.")
@store_options
def list_keys(url: str, as_json: bool, **params: Any) -> None:
    """List the key slots.

    A slot that is not sound is damaged, foreign, left over, or a forgery: it opens nothing here.
    The star marks the slot that has just opened.

    \b
    Examples:
      s3backfs key list s3://bucket/prefix
      s3backfs key list --json
    """
    from s3backfs.repository.keyslots import list_slots

    slots = run_keyed(url, store_config(params), list_slots, may_write=False)
    if as_json:
        print_json([_describe(slot) for slot in slots])
        return
    headers = ("slot", "kind", "label", "made", ">epoch", "argon2id", "sound")
    print_table(headers, [_row(slot) for slot in slots])


def _describe(slot: KeySlot) -> dict[str, Any]:
    holder = slot.holder
    cost = None if holder is None else holder.argon2id
    return {
        "slot": slot.slot_id,
        "kind": slot.kind,
        "label": slot.label,
        "created_s": None if holder is None else holder.created_s,
        "epoch": slot.epoch,
        "argon2id": cost
        and {"lanes": cost.lanes, "memory_kib": cost.memory_kib, "passes": cost.passes},
        "kms_key": None if holder is None or holder.kms is None else holder.kms.key,
        "is_sound": slot.is_proven,
        "is_open": slot.is_open,
    }


def _row(slot: KeySlot) -> tuple[str, ...]:
    said = _describe(slot)
    cost = said["argon2id"]
    return (
        slot.slot_id[:8] + (" *" if slot.is_open else ""),
        slot.kind,
        printable(slot.label),
        format_time((said["created_s"] or 0) * 10**9),
        "-" if slot.epoch is None else str(slot.epoch),
        f"{format_bytes(cost['memory_kib'] * KIB)}, {cost['passes']} passes" if cost else "-",
        "yes" if slot.is_proven else "no",
    )


# -- changing ---------------------------------------------------------------------------------


@key.command
@url_argument
@click.option("--label", default="", help="Whose it is, or where it is kept.")
@click.option("--recovery", is_flag=True, help="Make a recovery key, to be printed and locked up.")
@click.option("--qr", "as_qr", is_flag=True, help="Draw it as a QR code too, on a terminal only.")
@click.option(
    "--identity", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="An identity as age-keygen makes it (X25519).",
)  # fmt: skip
@click.option("--generate", is_flag=True, help="Make the file of --identity.")
@click.option("--raw-key", is_flag=True, help="What is given is a key: 64 hexadecimal digits.")
@click.option("--kms-key", metavar="ARN", help="A key of AWS KMS.")
@cost_options
@store_options
def add(url: str, **params: Any) -> None:
    """Let something else open the repository too: a passphrase, unless an option says what.

    A recovery key is shown once, and stands in for a passphrase wherever one is asked for.

    \b
    Examples:
      s3backfs key add s3://bucket/prefix --label alice
      s3backfs key add --recovery --qr --label safe
      s3backfs key add --identity ~/backup.key --generate
      s3backfs key add --kms-key arn:aws:kms:eu-west-1:111122223333:key/KEY
    """
    from s3backfs.repository.keyslots import add_slot

    store, as_qr = store_config(params), params["as_qr"]
    if as_qr:
        if not params["recovery"]:
            raise ConfigurationError("--qr draws a recovery key: add --recovery")
        check_can_draw()
    choice = KeyChoice(
        label=params["label"],
        is_recovery=params["recovery"],
        is_raw=params["raw_key"],
        identity=params["identity"],
        generate_identity=params["generate"],
        kms_key=params["kms_key"],
        cost=_cost(params),
    )

    async def change(keys: KeyedRepository) -> tuple[KeySlot, NewKey]:
        new = await make_new_key(choice, store, _new_passphrase)
        return await add_slot(keys, new), new

    slot, new = run_keyed(url, store, change)
    if new.kind == "recovery":
        _print_recovery(new, as_qr=as_qr)
    note(f"added key slot {slot}")


def _print_recovery(new: NewKey, *, as_qr: bool) -> None:
    from s3backfs.format.words import write_recovery

    note("the recovery key opens the repository without any passphrase; it is not shown again:")
    words = write_recovery(new.secret)
    click.echo(words)
    if as_qr:
        draw(words)


def _new_passphrase() -> Secret:
    return take_new_passphrase() or prompt_new_passphrase()


def _cost(params: dict[str, Any]) -> Cost | None:
    from s3backfs.format.slots import DEFAULT_COST, MAX_MEMORY_KIB, Cost

    memory_bytes, passes = params["argon2_memory"], params["argon2_passes"]
    if memory_bytes is None and passes is None:
        return None
    memory_kib = DEFAULT_COST.memory_kib if memory_bytes is None else memory_bytes // KIB
    if not 8 * DEFAULT_COST.lanes <= memory_kib <= MAX_MEMORY_KIB:
        raise ConfigurationError("--argon2-memory must be from 32KiB to 1GiB")
    return Cost(DEFAULT_COST.lanes, memory_kib, passes or DEFAULT_COST.passes)


@key.command
@url_argument
@click.option("--slot", required=True, metavar="SLOT", help="Its label, or how its id begins.")
@store_options
def remove(url: str, slot: str, **params: Any) -> None:
    """Take a slot away; the last one cannot be removed.

    Whoever has opened the repository by it may have copied the master key, and goes on reading.
    After `key rotate --remove SLOT` they read nothing that is written later.

    \b
    Examples:
      s3backfs key remove s3://bucket/prefix --slot alice
      s3backfs key remove --slot 3fa9c2d1
    """
    from s3backfs.repository.keyslots import remove_slot

    gone = run_keyed(url, store_config(params), lambda keys: remove_slot(keys, slot))
    note(f"removed key slot {gone.slot}")
    if gone.same is not None:
        _warn_of_same(gone.slot, gone.same)


def _warn_of_same(gone: KeySlot, kept: KeySlot) -> None:
    note(f"what opened {gone} still opens {kept}: remove that too, or rotate with --remove")


@key.command
@url_argument
@click.option("--slot", metavar="SLOT", help="Another one than that which opens.")
@cost_options
@store_options
def passwd(url: str, slot: str | None, **params: Any) -> None:
    """Put a new passphrase in the place of the one that opens the repository.

    Who has forgotten a passphrase opens with a recovery key and names the slot. What was
    interrupted is ended by the same command with the same new passphrase.

    \b
    Examples:
      s3backfs key passwd s3://bucket/prefix
      s3backfs key passwd --slot alice
    """
    from s3backfs.repository.keyslots import replace_passphrase

    store, choice = store_config(params), KeyChoice(cost=_cost(params))

    async def change(keys: KeyedRepository) -> Replaced:
        new = await make_new_key(choice, store, _new_passphrase)
        return await replace_passphrase(keys, slot, new)

    done = run_keyed(url, store, change)
    note(f"key slot {done.old} is replaced by {done.made}")
    for alike in done.alike:
        note(
            f"key slot {alike}, made {alike.made}, has the same label: if an interrupted `key "
            "passwd` has left it, it still opens with the old passphrase: remove it by its id"
        )


@key.command
@url_argument
@click.option("--remove", "removed", multiple=True, metavar="SLOT", help="Revoke a slot with it.")
@store_options
def rotate(url: str, removed: Sequence[str], **params: Any) -> None:
    """Begin a new master key for everything that is written from now on.

    Nothing is uploaded again: what is there stays readable by the old key, which the new one opens.
    No other slot's secret is needed. Mounts that are at work go on with the old key until they are
    mounted anew; so does whoever has copied it, with what was written by it.

    \b
    Examples:
      s3backfs key rotate s3://bucket/prefix
      s3backfs key rotate --remove alice --remove 3fa9c2d1
    """
    from s3backfs.repository.rotation import rotate as begin

    done = run_keyed(url, store_config(params), lambda keys: begin(keys, removed))
    click.echo(f"key epoch {done.epoch}: mount anew whatever is mounted")
    note(f"kept: {', '.join(map(str, done.kept))}")
    if done.dropped:
        note(f"revoked: {', '.join(map(str, done.dropped))}")
    for gone, kept in done.same:
        _warn_of_same(gone, kept)
    if done.late:
        note(f"added meanwhile, and to be added again: {', '.join(map(str, done.late))}")


for _verb in (export_keys, import_keys):
    key.add_command(_verb)
