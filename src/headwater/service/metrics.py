"""Metrics: what the service counts, and how Prometheus reads it.

A request costs two additions and one search in a list; everything else happens when `/metrics` is asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from headwater.followers.invalidation import RelayStanding
from headwater.kernel.changes import Position
from headwater.kernel.followers import Standing
from headwater.kernel.postgres import PoolFigures
from headwater.service.admission import Admission

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache, Coherence

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Tally:
    """The requests of one operation: how many by status, and how long they took."""

    __slots__ = ("buckets", "by_status", "method", "route", "seconds")

    def __init__(self, method: str, route: str) -> None:
        self.method = method
        self.route = route
        self.by_status: dict[int, int] = {}
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def count(self, status: int, seconds: float) -> None:
        """One request answered."""
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """Where the change stream stands, as it was asked last."""

    position: Position
    followers: Sequence[Standing]
    relay: RelayStanding | None = None


class Metrics(Collector):
    """All figures of one app, in a registry of its own: two apps in one process do not mix."""

    def __init__(self, admission: Admission, pool: Callable[[], PoolFigures]) -> None:
        self._admission = admission
        self._pool = pool
        self._tallies: list[Tally] = []
        self.in_flight = 0
        self.idempotency_replays_total = 0
        self.stream: StreamFigures | None = None
        self.cache: Cache | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def tally(self, method: str, route: str) -> Tally:
        """The tally of one operation, made when the app starts."""
        made = Tally(method, route)
        self._tallies.append(made)
        return made

    def exposition(self) -> bytes:
        """What `/metrics` answers."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Any]:
        """Nothing: the registry would otherwise collect everything once to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        """The figures as they are now."""
        requests = CounterMetricFamily(
            "headwater_http_requests", "Requests answered.", labels=("method", "route", "status")
        )
        seconds = HistogramMetricFamily(
            "headwater_http_request_seconds", "Time from the request to its answer.", labels=("method", "route")
        )
        for tally in self._tallies:
            for status, count in tally.by_status.items():
                requests.add_metric((tally.method, tally.route, str(status)), count)
            if tally.by_status:
                total, buckets = 0, []
                for bound, count in zip((*map(str, BOUNDS), "+Inf"), tally.buckets, strict=True):
                    total += count
                    buckets.append((bound, total))
                seconds.add_metric((tally.method, tally.route), buckets, tally.seconds)
        if self.cache is not None:
            self.cache.count()
            happened = CounterMetricFamily(
                "headwater_cache", "What reads through the cache met.", labels=("kind", "what")
            )
            for kind, figures in self.cache.figures.items():
                for spec in fields(figures):
                    happened.add_metric((kind, spec.name), getattr(figures, spec.name))
            yield happened
            yield GaugeMetricFamily(
                "headwater_cache_believed", "1 while the relay's guard stands, 0 while reads pass the cache by.",
                float(self.cache.believes()),
            )  # fmt: skip
            if self.cache.coherence is not None:
                yield from _coherence_families(self.cache.coherence)
        yield requests
        yield seconds
        door = self._admission
        yield GaugeMetricFamily(
            "headwater_http_in_flight", "Requests that have come and are not answered.", self.in_flight
        )
        yield GaugeMetricFamily("headwater_http_at_work", "Requests that have a slot.", door.at_work)
        yield GaugeMetricFamily("headwater_http_waiting", "Requests that wait for a slot.", door.waiting)
        yield CounterMetricFamily(
            "headwater_http_shed", "Requests refused because the service was full.", door.shed_total
        )
        yield CounterMetricFamily(
            "headwater_idempotency_replays", "Requests answered from a stored answer.", self.idempotency_replays_total
        )
        pool = self._pool()
        for spec in fields(pool):
            value = float(getattr(pool, spec.name))
            said = f"The pool's {spec.name.replace('_', ' ')}."
            if spec.name.endswith("_total"):
                yield CounterMetricFamily(f"headwater_pool_{spec.name.removesuffix('_total')}", said, value)
            else:
                yield GaugeMetricFamily(f"headwater_pool_{spec.name}", said, value)
        if self.stream is not None:
            yield from _stream_families(self.stream)


def _coherence_families(found: Coherence) -> Iterator[Any]:
    """What `headwater cache verify` has found last."""
    yield GaugeMetricFamily(
        "headwater_cache_coherent_percent", "Sampled entries that said what PostgreSQL said.", found.percent
    )
    yield GaugeMetricFamily("headwater_cache_verified_entries", "How many entries were sampled.", found.entries)
    yield GaugeMetricFamily("headwater_cache_verified_at_seconds", "When, in Unix time.", found.at)


def _stream_families(stream: StreamFigures) -> Iterator[Any]:
    """The stream's position, and each follower's lag and parked changes."""
    yield GaugeMetricFamily("headwater_stream_epoch", "The epoch of the change stream.", stream.position.epoch)
    yield GaugeMetricFamily("headwater_stream_position", "The last position that was told.", stream.position.number)
    if stream.relay is not None:
        for what, told, value in (
            ("lag_changes", "Changes that were committed and not carried to the cache yet.", stream.relay.lag_changes),
            ("lag_seconds", "Seconds since the first of them was written.", stream.relay.lag_seconds),
            ("believed", "Whether this process believes the cache.", stream.relay.trusted),
        ):
            yield GaugeMetricFamily(f"headwater_cache_{what}", told, float(value))
    for name, said, of in (
        ("position", "The position a follower has applied.", "position"),
        ("lag_changes", "Changes that were told and that a follower has not applied.", "lag_changes"),
        ("lag_seconds", "Seconds since the first of them was told.", "lag_seconds"),
        ("parked_changes", "Changes that a follower has laid aside.", "parked_changes"),
        ("parked_keys", "Keys that a follower has laid aside.", "parked_keys"),
    ):
        family = GaugeMetricFamily(f"headwater_follower_{name}", said, labels=("follower",))
        for one in stream.followers:
            family.add_metric((one.name,), float(getattr(one, of)))
        yield family
