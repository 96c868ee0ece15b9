"""Tell the service manager (systemd) how far the mount is."""

from __future__ import annotations

import os


def notify_service(state: str) -> None:
    """Send one sd_notify line such as `READY=1`; nothing happens outside of systemd."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    import sdnotify  # only a service needs it

    notifier = sdnotify.SystemdNotifier()
    notifier.notify(state)
    # The library leaves that to the garbage collector, which warns.
    if notifier.socket is not None:
        notifier.socket.close()
