"""`serve` and `listen`: settings, the embedded servers where no database is named, then the service until a signal."""

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from bridge.announcement import announced
from bridge.cli.options import Flags
from bridge.cli.signals import run_trio
from bridge.embedded import Servers, started
from bridge.errors import BridgeError
from bridge.garbage import collect_garbage_rarely
from bridge.settings import Settings, load, variable
from bridge.signals import block_hangup
from bridge.telemetry import error_text, log, setup_logging

LISTEN_PORT = 8001
MAX_WORKERS = 64

OnListening = Callable[[str], None]
Service = Callable[[Settings, Servers | None, OnListening], Awaitable[None]]
"""The embedded servers, where there are any, are those that the settings lead to."""


def run_serve(flags: Flags, *, with_listener: bool, workers: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT: in this process, or as the supervisor of a listener and so many workers."""
    settings = load(flags, serves_clients=True)
    from bridge.service import check_files, serve

    check_files(settings, serves_clients=True)
    serve_this = partial(serve, with_listener=with_listener)
    if workers is not None:
        from bridge.pod.supervisor import for_workers, supervise

        for_workers(settings, workers)
        serve_this = partial(supervise, with_listener=with_listener, workers=workers)

    async def service(settings: Settings, servers: Servers | None, on_listening: OnListening) -> None:
        await serve_this(settings, embedded=servers is not None, on_listening=on_listening)

    _run(settings, service, serves_clients=True)


def run_listen(flags: Flags) -> None:
    """Carry notifications from PostgreSQL to Redis until SIGTERM or SIGINT."""
    settings = load(flags, default_port=LISTEN_PORT)
    from bridge.service import check_files, listen

    check_files(settings, serves_clients=False)

    async def service(settings: Settings, servers: Servers | None, on_listening: OnListening) -> None:
        await listen(settings, embedded=servers is not None, on_listening=on_listening)

    _run(settings, service, serves_clients=False)


def _run(settings: Settings, service: Service, *, serves_clients: bool) -> None:
    setup_logging(settings.log_format, settings.log_level, channel_set=settings.digest)
    block_hangup()
    with contextlib.ExitStack() as stack:
        servers: Servers | None = None
        if settings.embedded:
            servers = stack.enter_context(started())
            settings = _on_embedded(settings, servers)

        def on_listening(url: str) -> None:
            if servers is not None:
                try:
                    stack.enter_context(announced(servers, url if serves_clients else None))
                except (BridgeError, OSError) as error:
                    log.warning("notify and tail will not find this bridge by themselves: %s", error_text(error))
            with contextlib.suppress(OSError):
                print(f"Listening on {url}", flush=True)

        collect_garbage_rarely()
        run_trio(partial(service, settings, servers, on_listening))


def _on_embedded(settings: Settings, servers: Servers) -> Settings:
    """The settings for the embedded servers: Redis mode, unless it was turned off explicitly."""
    log.info("Embedded PostgreSQL: %s", servers.database_url)
    log.info("Embedded Valkey: %s", servers.redis_url)
    given = settings.model_fields_set
    if ignored := sorted(given & {"redis_url", "db_port", "db_user", "db_password", "db_name"}):
        names = ", ".join(map(variable, ignored))
        log.warning("Without DATABASE_URL and DB_HOST the embedded servers are used; ignored: %s", names)
    use_redis = settings.use_redis_notifier if "use_redis_notifier" in given else True
    return settings.model_copy(
        update={
            "database_url": servers.database_url,
            "redis_url": servers.redis_url,
            "use_redis_notifier": use_redis,
        }
    )
