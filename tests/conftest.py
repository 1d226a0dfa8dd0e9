"""Fixtures that all tests share: the real servers."""

from tests.support.postgres import postgres as postgres
from tests.support.postgres import postgres_templates as postgres_templates
from tests.support.redis import redis_server as redis_server
from tests.support.stack import stack as stack
