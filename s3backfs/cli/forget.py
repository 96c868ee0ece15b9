"""The verbs `forget`, `delete` and `unforget`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.keeping import as_names, run_maintaining, run_on_store, split_url
from s3backfs.cli.options import store_config, store_options
from s3backfs.cli.progress import quiet_option
from s3backfs.cli.terminal import format_time, note, print_json, print_table, printable
from s3backfs.config import parse_duration
from s3backfs.control import wire_name
from s3backfs.errors import ConfigurationError

if TYPE_CHECKING:
    from s3backfs.format.keys import Keyring
    from s3backfs.maintenance.forgetting import ForgetPlan
    from s3backfs.maintenance.policy import Decision, Policy
    from s3backfs.maintenance.trash import Returned, Trashed
    from s3backfs.reporting import Report
    from s3backfs.repository.repository import Repository
    from s3backfs.store.base import Store

_RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_COUNT = click.IntRange(min=0)


def _keep_options(command: Any) -> Any:
    for rule in reversed(_RULES):
        what = "newest backups" if rule == "last" else f"newest {rule} backups"
        option = click.option(
            f"--keep-{rule}", type=_COUNT, default=0, metavar="N", help=f"Keep the N {what}."
        )
        command = option(command)
    return command


def _share(_context: click.Context, _option: click.Parameter, value: str) -> float:
    try:
        share = float(value.rstrip("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter("it is a share like 50%")
    return share


def _within(_context: click.Context, _option: click.Parameter, value: str) -> timedelta | None:
    if value.strip().lower().endswith("m"):
        raise click.BadParameter("minutes or months? write hours, days or weeks, like 180d")
    try:
        seconds = parse_duration(value)
    except ConfigurationError:
        text = f"{value!r} is not a duration; write for example 36h, 30d or 8w"
        raise click.BadParameter(text) from None
    longest = timedelta.max.total_seconds() // 2
    return timedelta(seconds=min(seconds, longest)) if seconds else None


def _group_keys(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    keys = () if value == "none" else tuple(value.split(","))
    if not set(keys) <= {"host", "prefix"}:
        raise click.BadParameter("it is host, prefix, both with a comma, or none")
    return keys


@click.command
@click.argument("words", nargs=-1, metavar="URL [PATTERN]...")
@_keep_options
@click.option(
    "--keep-within", callback=_within, default="0s", metavar="TIME",
    help="Keep what is at most so much older than the newest of its group, like 30d.",
)  # fmt: skip
@click.option(
    "--keep-tag", multiple=True, metavar="TAG", help="Keep what has this tag: NAME or NAME=VALUE."
)
@click.option(
    "--min-keep", type=_COUNT, default=1, show_default=True, metavar="N",
    help="Leave a group whole if fewer complete backups than this would remain.",
)  # fmt: skip
@click.option(
    "--group-by", callback=_group_keys, default="host,prefix", show_default=True, metavar="KEYS",
    help="Apply the policy to each of these: host, prefix of the name, or none.",
)  # fmt: skip
@click.option(
    "--max-share", callback=_share, default="50%", show_default=True, metavar="SHARE",
    help="Refuse to forget more than this share at once.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Forget more than --max-share.")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def forget(words: tuple[str, ...], **params: Any) -> int:
    """Move backups that no rule keeps to the trash.

    In each group the newest of every hour, day, ... that has backups is kept, as many as asked for;
    where there are fewer, the oldest backup is kept too. More than --max-share at once is refused,
    with exit code 2, by --dry-run as well.
    Never forgotten are the newest of a group, open and damaged backups, and those with the tag
    `locked`. Times are bounded by the server's clock. `s3backfs unforget` brings back what was
    forgotten until `s3backfs prune` removes it.

    The prefix of a name is what is in front of its date, weekday, or number behind a dot.

    \b
    Examples:
      s3backfs forget s3://bucket/prefix --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
      s3backfs forget s3://bucket/prefix 'web1-*' --keep-last 3 --keep-within 30d
      s3backfs forget s3://bucket/prefix --keep-daily 7 --keep-tag release --group-by host
    """
    url, patterns = split_url(words, "URL")
    store = store_config(params)
    act = partial(_forget, policy=_policy(params), patterns=patterns, params=params)
    plan, spared = run_on_store(url, store, act, may_write=not params["dry_run"])
    if params["as_json"]:
        print_json(_plan_as_json(plan, spared, is_dry_run=params["dry_run"]))
    else:
        _print_plan(plan, is_dry_run=params["dry_run"])
    if patterns and not plan.decisions:
        note("no sealed backup fits: " + " ".join(map(printable, patterns)))
    for name in spared:
        note(f"{printable(name)} was locked meanwhile and stays")
    if plan.is_refused:
        note(_refusal(plan, is_dry_run=params["dry_run"]))
        return ConfigurationError.exit_code
    return 0


def _policy(params: dict[str, Any]) -> Policy:
    from s3backfs.maintenance.policy import Policy

    policy = Policy(
        **{rule: params[f"keep_{rule}"] for rule in _RULES},
        within=params["keep_within"],
        tags=params["keep_tag"],
        min_keep=params["min_keep"],
    )
    if policy.is_empty:
        raise ConfigurationError(
            "nothing would be kept: give at least one --keep-... option above 0"
        )
    if not all(each.partition("=")[0] for each in policy.tags):
        raise ConfigurationError("--keep-tag needs a name: NAME or NAME=VALUE")
    return policy


async def _forget(
    store: Store,
    keyring: Keyring,
    report: Report,
    policy: Policy,
    patterns: Sequence[str],
    params: dict[str, Any],
) -> tuple[ForgetPlan, Sequence[bytes]]:
    from s3backfs.maintenance.forgetting import forget, plan_forget
    from s3backfs.maintenance.shelf import load_shelf

    report("reading roots")
    shelf = await load_shelf(store, keyring)
    max_share = 1.0 if params["force"] else params["max_share"]
    plan = plan_forget(shelf, patterns, policy, params["group_by"], max_share)
    if params["dry_run"] or plan.is_refused:
        return plan, ()
    return plan, await forget(store, keyring, shelf, plan.going, report)


def _refusal(plan: ForgetPlan, *, is_dry_run: bool) -> str:
    verb = "would be" if is_dry_run else "was"
    return (
        f"nothing {verb} forgotten: {len(plan.going)} of {len(plan.decisions)} backups would go at "
        "once; --force, or a larger --max-share, allows that"
    )


def _print_plan(plan: ForgetPlan, *, is_dry_run: bool) -> None:
    rows = [_plan_row(decision) for decision in plan.decisions]
    rows += [(printable(name), "-", "-", "stays", why) for name, why in plan.left_out.items()]
    print_table(("backup", "sealed", "group", "what", "why"), rows)
    if not plan.is_refused:
        verb = "would be forgotten" if is_dry_run else "forgotten"
        click.echo(f"{len(plan.going)} of {len(plan.decisions)} backups {verb}")


def _plan_row(decision: Decision) -> tuple[str, ...]:
    candidate = decision.candidate
    return (
        printable(candidate.name),
        candidate.sealed.strftime("%Y-%m-%d %H:%M:%S"),
        printable(" ".join(decision.group)),
        "goes" if decision.goes else "stays",
        ", ".join(decision.reasons),
    )


def _plan_as_json(plan: ForgetPlan, spared: Sequence[bytes], *, is_dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": is_dry_run,
        "refused": plan.is_refused,
        "backups": [
            {
                "name": wire_name(decision.candidate.name),
                "sealed_ns": int(decision.candidate.sealed.timestamp() * 10**6) * 1000,
                "group": list(decision.group),
                "goes": decision.goes and decision.candidate.name not in spared,
                "reasons": list(decision.reasons),
            }
            for decision in plan.decisions
        ],
        "left_out": {wire_name(name): why for name, why in plan.left_out.items()},
    }


# -- delete ----------------------------------------------------------------------------------


@click.command
@click.argument("words", nargs=-1, metavar="URL NAME...")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def delete(words: tuple[str, ...], as_json: bool, dry_run: bool, **params: Any) -> int:
    """Move single sealed backups to the trash.

    All names are looked at first: if one is unknown, open or locked, none goes. `s3backfs unforget`
    brings them back until `s3backfs prune` removes them.

    \b
    Examples:
      s3backfs delete s3://bucket/prefix web1-monday
      s3backfs delete s3://bucket/prefix web1-monday web1-tuesday --dry-run
    """
    url, names = split_url(words, "URL and NAME")
    if not names:
        raise click.UsageError("give the NAME of a backup")

    async def act(store: Store, keyring: Keyring, report: Report) -> Sequence[bytes]:
        from s3backfs.maintenance.forgetting import choose_named, forget
        from s3backfs.maintenance.shelf import load_shelf

        shelf = await load_shelf(store, keyring)
        going = choose_named(shelf, as_names(names))
        spared = [] if dry_run else await forget(store, keyring, shelf, going, report)
        return [each.name for each in going if each.name not in spared]

    gone = run_on_store(url, store_config(params), act, may_write=not dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "forgotten": [wire_name(name) for name in gone]})
    else:
        for name in gone:
            click.echo(f"{printable(name)} {'would be ' if dry_run else ''}forgotten")
    return 0


# -- unforget --------------------------------------------------------------------------------


@click.command
@click.argument("words", nargs=-1, metavar="URL [NAME]...")
@click.option("--list", "only_list", is_flag=True, help="Show what is in the trash.")
@click.option(
    "--id", "ids", multiple=True, metavar="ID",
    help="Bring this one back, of several with one name; --list shows the ids.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def unforget(
    words: tuple[str, ...], only_list: bool, ids: tuple[str, ...], as_json: bool, **params: Any
) -> int:
    """Bring forgotten backups back from the trash: those named, or all.

    Of several with one name, the one that was forgotten last comes back; --id chooses another. A
    backup of which the name is taken, or that cannot be read any more, stays in the trash, and the
    exit code says so. While a prune is at work it is refused.

    \b
    Examples:
      s3backfs unforget s3://bucket/prefix --list
      s3backfs unforget s3://bucket/prefix web1-monday
      s3backfs unforget s3://bucket/prefix --id 3fa9c2d1
      s3backfs unforget s3://bucket/prefix
    """
    url, names = split_url(words, "URL")
    config = store_config(params)
    if only_list:
        trash = run_on_store(url, config, _list_trash, may_write=False)
        print_json([_trashed_as_json(each) for each in trash]) if as_json else _print_trash(trash)
        return 0
    act = partial(_unforget, names=as_names(names), ids=ids)
    result = run_maintaining(url, config, act)
    if as_json:
        print_json(
            {
                "back": [wire_name(name) for name in result.back],
                "failed": {wire_name(name): str(error) for name, error in result.failed.items()},
                "others": {wire_name(name): count for name, count in result.others.items()},
            }
        )
    else:
        for name in result.back:
            click.echo(f"{printable(name)} is back")
        for name, count in result.others.items():
            click.echo(f"{count} more that bore the name {printable(name)} in the trash (--list)")
    for name, error in result.failed.items():
        note(f"{printable(name)} stays in the trash: {error}")
    return next((error.exit_code for error in result.failed.values()), 0)


async def _list_trash(store: Store, keyring: Keyring, _report: Report) -> list[Trashed]:
    from s3backfs.maintenance.trash import list_trash

    return await list_trash(store, keyring)


async def _unforget(
    repository: Repository, report: Report, names: Sequence[bytes], ids: Sequence[str]
) -> Returned:
    from s3backfs.maintenance.trash import unforget

    return await unforget(repository, names, report, ids)


def _trashed_as_json(trashed: Trashed) -> dict[str, Any]:
    return {
        "name": wire_name(trashed.name),
        "id": trashed.id,
        "forgotten_ns": trashed.forgotten_ns,
        "sealed_ns": trashed.root.sealed_ns if trashed.root else None,
        "error": str(trashed.error) if trashed.error else None,
    }


def _print_trash(trash: Sequence[Trashed]) -> None:
    rows = [
        (
            printable(each.name),
            each.id,
            format_time(each.forgotten_ns),
            format_time(each.root.sealed_ns) if each.root else "damaged",
        )
        for each in trash
    ]
    print_table(("backup", "id", "forgotten", "sealed"), rows)
