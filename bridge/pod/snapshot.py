"""What one process of a pod says of itself to the supervisor: its /status and its metrics, as plain values."""

from collections.abc import Iterable

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

Json = dict[str, object]


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """One series and its value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, array_like=True, frozen=True):
    """The series of one metric. `name` as prometheus_client has it: a counter's without ``_total``."""

    name: str
    kind: str
    text: str
    samples: list[Sample]


class Snapshot(msgspec.Struct, frozen=True):
    """Of one process at one time."""

    status: Json
    families: list[Family]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(data)


def families(registry: CollectorRegistry) -> list[Family]:
    """All that is registered."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [Sample(sample.name, tuple(sorted(sample.labels.items())), sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class _Collected(CollectorRegistry):
    """What was collected elsewhere, for `generate_latest`."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        super().__init__()
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def text(collected: Iterable[Family]) -> bytes:
    """In Prometheus' text format."""
    metrics = []
    for family in collected:
        metric = Metric(family.name, family.text, family.kind)
        for sample in family.samples:
            metric.add_sample(sample.name, dict(sample.labels), sample.value)
        metrics.append(metric)
    return generate_latest(_Collected(metrics))
