"""Which sources the feed of a process has."""

from collections.abc import Callable
from functools import partial

from bridge.feed.delivery import Delivery
from bridge.feed.direct_source import DirectSource
from bridge.feed.feed import Feed
from bridge.feed.local_source import Listener, LocalSource, Tape
from bridge.feed.log_source import LogSource
from bridge.feed.pod_source import PodSource
from bridge.feed.source import FeedState, Source
from bridge.links.openers import Links
from bridge.links.pod import OpenPod
from bridge.settings import Settings
from bridge.telemetry import Metrics


def build_feed(
    settings: Settings,
    links: Links,
    local: tuple[Listener, Tape] | None,
    delivery: Delivery,
    on_change: Callable[[FeedState], None],
    metrics: Metrics,
    pod: OpenPod | None = None,
) -> Feed:
    """The log where Redis is used, and beside it the `local` listener, or else sessions of this process alone.

    With a local listener, `delivery` has to share its timeline. With a `pod`, its listener process comes before
    sessions of this process, which are the last resort. Without a database in the settings there is the log alone.
    """
    with_redis = settings.use_redis_notifier
    heard = settings.digest, settings.heartbeat_timeout_seconds, settings.channels
    log = LogSource(links, delivery, *heard) if with_redis else None
    direct: Source | None
    if local is not None:
        direct = LocalSource(*local, settings.digest, delivery, beside_log=with_redis)
    elif settings.embedded:
        direct = None
    else:
        open_session = partial(links.session, "fallback")
        beside = with_redis or pod is not None
        direct = own = DirectSource(open_session, delivery, settings.retry_seconds, metrics, beside_log=beside)
        if pod is not None:
            direct = PodSource(pod, settings.digest, delivery, own, beside_log=with_redis)
    return Feed(log, direct, settings.retry_seconds, settings.heartbeat_timeout_seconds, delivery, on_change, metrics)
