"""A fleet of workers that loses Redis at once: what PostgreSQL has to bear, measured."""

import time

from tests.support import redis as rd
from tests.support.fleet import LISTENER, WORKER, Servers, running_fleet
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers


def test_ten_workers_lose_redis_at_once(servers: Servers, redis: rd.RedisServer) -> None:
    workers = [f"worker {number}" for number in range(10)]
    with running_fleet(servers, "ten") as fleet:
        fleet.add("listener", LISTENER)
        for name in workers:
            fleet.add(name, WORKER)
        fleet.wait()
        own = set(fleet.sessions())
        with fleet.traffic(*workers) as traffic:
            killed = time.time()
            redis.kill()
            try:
                settled = fleet.wait_for_sessions("bridge listener", *["bridge fallback"] * 10) - killed
                traffic.flow(1.0)
                assert len(fleet.names()) == 11
            finally:
                redis.start()
            returned = time.time()
            back = fleet.wait_for_sessions("bridge listener") - returned
            print(f"ten workers: eleven sessions after {settled:.2f} s, one again {back:.2f} s after Redis's return")
            assert set(fleet.sessions()) == own
            traffic.settle(gaps=0)
