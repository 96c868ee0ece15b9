"""A mount from beginning to end: builds the parts, owns the root nursery, shuts down in order.

store -> keys -> repository -> catalogue -> file system -> door -> kernel

the kernel lets go -> open files settle -> checkpoint, seal -> repository closes
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import pyfuse3
import trio

from s3backfs.backup.catalogue import Catalogue
from s3backfs.backup.finding import RootObjects, list_root_objects, newest_named
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.config import MountConfig, make_private_dir
from s3backfs.configured_store import bare_store
from s3backfs.control import Progress, serve_control, socket_path
from s3backfs.errors import (
    MountpointError,
    NewerKeyError,
    OldKeysError,
    RepositoryError,
    S3backfsError,
)
from s3backfs.fs.control_files import ControlFiles
from s3backfs.fs.files import Files
from s3backfs.fs.filesystem import FileSystem
from s3backfs.fs.root import RootDirectory
from s3backfs.fs.timer import run_checkpoints
from s3backfs.fs.verbs import Condition, Finish, Verbs, describe_open, finish_backups
from s3backfs.fuse.mountpoint import Mountpoint
from s3backfs.fuse.polling import poll_before_sleeping
from s3backfs.fuse.unmounting import note_helper
from s3backfs.key_service import unwrapper
from s3backfs.memory import bound_allocator, calm_collector
from s3backfs.mount_parts import reading_policies, repository_options
from s3backfs.repository.opening import OpenedRepository, open_repository
from s3backfs.repository.pins import check_place
from s3backfs.repository.repository import Repository, open_for_mount
from s3backfs.service import notify_service
from s3backfs.store.around import WrappedStore
from s3backfs.store.base import Store
from s3backfs.store.counting import Counting
from s3backfs.store.location import parse_url
from s3backfs.store.retrying import Impatient, Outage, Retrying
from s3backfs.store.together import both

log = logging.getLogger(__name__)

OnReady: TypeAlias = Callable[[Sequence[str]], None]
"""Called with what a person is to be told once the mount answers."""

SWITCH_INTERVAL_S = 0.0005
"""Worker threads that run Python must not hold up requests for long."""

TASKS_MAX_COUNT = 1024
"""So many requests may wait for S3 at once before the next one is not even read."""

LETTING_GO_S = 5.0
"""How long the kernel may take to end the connection after the mount is gone."""

PATIENCE_S = 15.0
"""How long mounting waits for an S3 that is away."""


def run_mount(
    config: MountConfig, passphrase: Callable[[], bytes] | None, on_ready: OnReady
) -> int:
    """Mount, serve until the mount is gone or a signal comes, finish, and return the exit code.

    Raises:
        S3backfsError: it could not be mounted; nothing was changed.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    bound_allocator()
    calm_collector()
    return trio.run(partial(_Mount(config).run, passphrase, on_ready))


class _Mount:
    """One run of a mount."""

    def __init__(self, config: MountConfig) -> None:
        self._config = config
        self._counting = Counting()
        self._keep_open = config.keep_open
        self._is_signalled = False
        self._mountpoint = Mountpoint(config.mountpoint, config.url)
        self._torn: set[bytes] = set()
        self._roots: RootObjects | None = None
        self._finished = trio.Event()
        self._finish = Finish()
        self._ended = trio.Event()

    async def run(self, passphrase: Callable[[], bytes] | None, on_ready: OnReady) -> int:
        """Build, serve, shut down."""
        passphrase = passphrase and functools.cache(passphrase)
        location = parse_url(self._config.url)
        self._condition = Condition(location.url)
        async with bare_store(self._config.url, self._config.store) as raw:
            counted = WrappedStore(raw, self._counting)
            # A person looks on: they hear soon that S3 is away. Later, writers wait for it.
            patience_s = min(PATIENCE_S, self._config.retry_for_s)
            asking = WrappedStore(
                counted, Retrying(patience_s), Impatient(PATIENCE_S, location.url)
            )
            # Roots can be listed without a key; who may not do that is told so when it matters.
            opened, roots = await both(
                lambda: self._open_repository(asking, passphrase),
                lambda: list_root_objects(asking),
            )
            if isinstance(opened, S3backfsError):
                raise opened
            self._roots = roots if isinstance(roots, RootObjects) else None
            patience = Retrying(patience_s, on_change=self._note_outage)
            store = WrappedStore(counted, patience, *reading_policies(self._config))
            newer = await self._run_on(store, opened, patience, on_ready, is_sure=False)
            if newer is not None:
                # Another machine may have rotated the key after it was read here.
                opened = await self._open_repository(asking, passphrase)
                newer = await self._run_on(store, opened, patience, on_ready, is_sure=True)
            if newer is not None:
                raise OldKeysError(newer)
        return self._finish.exit_code

    async def _run_on(
        self,
        store: Store,
        opened: OpenedRepository,
        patience: Retrying,
        on_ready: OnReady,
        *,
        is_sure: bool,
    ) -> NewerKeyError | None:
        """Serve what was opened, unless a root names a newer key, which is returned.

        Where it `is_sure` that there is no newer one to be had, reading goes on without it.
        """
        options = repository_options(self._config, opened.parameters)
        async with open_for_mount(store, opened, options) as repository:
            filesystem = await self._build(repository)
            newer = newest_named(filesystem.catalogue.damaged.values())
            if newer is not None and not (is_sure and self._config.is_read_only):
                self._roots = None
                repository.retire_writer()
                await repository.end_lease()
                return newer
            if newer is not None:
                self._condition.warning = str(OldKeysError(newer))
                log.warning("%s", self._condition.warning)
            await self._take_over(filesystem)
            patience.retry_for_s = self._config.retry_for_s
            await self._serve(filesystem, on_ready)
        return None

    async def _take_over(self, filesystem: FileSystem) -> None:
        """Go on with what dead mounts of this machine have left."""
        await filesystem.catalogue.take_over_own(is_forced=self._config.take_over)
        if self._config.backup is None:
            filesystem.repository.retire_dead_writers()

    async def _open_repository(
        self, store: Store, passphrase: Callable[[], bytes] | None
    ) -> OpenedRepository:
        opened = await open_repository(
            store,
            passphrase,
            must_be_encrypted=self._config.must_be_encrypted,
            unwrap=unwrapper(self._config.store),
            slot_id=self._config.key_slot,
        )
        check_place(self._config.state_dir, store, opened.keyring)
        return opened

    def _note_outage(self, outage: Outage | None) -> None:
        self._condition.outage = outage
        if outage is not None:
            self._condition.last_error = outage.last_error

    async def _build(self, repository: Repository) -> FileSystem:
        config = self._config
        live = LiveNodes(repository.keyring)
        nodes = RepositoryNodes(repository)
        catalogue = Catalogue(
            nodes,
            live,
            is_read_only=config.is_read_only,
            may_forget=config.allow_forget,
            only=config.backup,
            is_away=lambda: self._condition.outage is not None,
        )
        await catalogue.refresh(is_forced=True, listed=self._roots)
        files = Files(repository, is_synchronous="sync" in config.fuse_options)
        self._filesystem = FileSystem(
            repository=repository,
            live=live,
            catalogue=catalogue,
            files=files,
            root=RootDirectory(catalogue),
            control=ControlFiles(lambda: self._verbs.status_json()),
            is_read_only=config.is_read_only,
        )
        self._verbs = Verbs(self._filesystem, self._condition, self._counting.snapshot)
        return self._filesystem

    # -- serving -----------------------------------------------------------------------------

    async def _serve(self, filesystem: FileSystem, on_ready: OnReady) -> None:
        config = self._config
        control = socket_path(config.mountpoint, make_private_dir(config.runtime_dir))
        with self._mountpoint.held(filesystem, config.fuse_options):
            poll_before_sleeping()
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, control, self._handle)
                timer = trio.CancelScope()
                nursery.start_soon(self._run_timer, timer)
                if not config.is_read_only:
                    nursery.start_soon(
                        filesystem.catalogue.standing.keep,
                        config.lease_s / 3,
                        filesystem.files.open_nodes,
                    )
                await nursery.start(self._watch_signals)
                nursery.start_soon(self._run_loop)
                await self._mountpoint.wait_until_it_answers()
                await trio.to_thread.run_sync(note_helper, config.url, config.mountpoint)
                log.info("%s is mounted on %s", config.url, config.mountpoint)
                on_ready(self._notes(filesystem))
                await self._ended.wait()
                timer.cancel()
                await self._shut_down()
                nursery.cancel_scope.cancel()

    def _notes(self, filesystem: FileSystem) -> list[str]:
        """What whoever mounts is told."""
        notes = [str(error) for error in filesystem.catalogue.rolled_back.values()]
        found = "" if self._config.is_read_only else describe_open(filesystem.catalogue)
        if found:
            log.info("%s", found)
            notes.append(found)
        return notes

    async def _run_timer(self, scope: trio.CancelScope) -> None:
        with scope:
            await run_checkpoints(
                self._filesystem.catalogue,
                idle_s=self._config.idle_checkpoint_s,
                longest_s=self._config.max_checkpoint_s,
            )

    async def _run_loop(self) -> None:
        try:
            await pyfuse3.main(max_tasks=TASKS_MAX_COUNT)
        finally:
            self._ended.set()

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP and not self._config.foreground:
                    continue
                log.info("got %s: finishing", signal.Signals(number).name)
                self._is_signalled = True
                self._end()

    def _end(self) -> None:
        if not self._ended.is_set():
            self._note_torn()
            pyfuse3.terminate()
            self._ended.set()

    def _note_torn(self) -> None:
        writing = self._filesystem.files.open_for_writing()
        self._torn |= {node.backup.id for node in writing}

    # -- control -----------------------------------------------------------------------------

    async def _handle(self, verb: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if verb != "umount":
            return await self._verbs.handle(verb, args, progress)
        if not self._ended.is_set():
            await self._store_all(progress)
            await self._let_go(keep_open=bool(args.get("keep_open")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._verbs.tell_progress, progress)
            await self._finished.wait()
            nursery.cancel_scope.cancel()
        return self._finish.as_json()

    async def _store_all(self, progress: Progress) -> None:
        """Store what can be stored while the mount is still there for another try.

        Raises:
            RepositoryError: something cannot be stored; nothing was unmounted.
        """
        try:
            await self._verbs.handle("sync", {}, progress)
        except S3backfsError as error:
            refusal = RepositoryError(
                f"not unmounted: {error}; mend that and try again, or give up what is not stored "
                f"with: umount {self._config.mountpoint}"
            )
            refusal.exit_code = error.exit_code
            raise refusal from error

    async def _let_go(self, *, keep_open: bool) -> None:
        """Unmount; refused while anything is open, so afterwards no file is half written.

        Raises:
            MountpointError: it is busy; nothing was changed.
        """
        keep_open_before, self._keep_open = self._keep_open, self._keep_open or keep_open
        try:
            await trio.to_thread.run_sync(self._mountpoint.unmount)
        except MountpointError:
            self._keep_open = keep_open_before
            raise
        with trio.move_on_after(LETTING_GO_S):
            await self._ended.wait()
        # Another mount namespace, or files open in a mount that was detached, may still hold it.
        self._end()

    # -- the end -----------------------------------------------------------------------------

    async def _shut_down(self) -> None:
        """Make everything durable; a second signal does not stop it."""
        self._condition.state = "finishing"
        self._filesystem.repository.note_finishing()
        notify_service("STOPPING=1")
        log.info("finishing: %s", self._verbs.progress_line())
        if self._is_signalled and self._mountpoint.is_on_top():
            await trio.to_thread.run_sync(self._mountpoint.unmount_lazily)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._verbs.tell_progress, self._log_progress)
            self._finish = await finish_backups(
                self._filesystem,
                keep_open=self._keep_open or self._is_signalled,
                torn=self._torn,
            )
            nursery.cancel_scope.cancel()
        await self._filesystem.repository.end_lease()
        if not self._filesystem.catalogue.own_open():
            self._filesystem.repository.retire_writer()
        for warning in self._finish.warnings:
            log.warning("%s", warning)
        end = "ended, but not all is complete" if self._finish.exit_code else "finished"
        log.info("%s: %s", end, self._verbs.progress_line())
        self._finished.set()
        # The command that waits for the answer gets it before the socket goes.
        await trio.lowlevel.checkpoint()

    async def _log_progress(self, text: str) -> None:
        log.info("finishing: %s", text)


__all__ = ["S3backfsError", "run_mount"]
