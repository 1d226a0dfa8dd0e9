"""Fixtures that all tests share: the real servers, and a quiet log."""

from tests.support.logs import quiet_log as quiet_log
from tests.support.postgres import postgres as postgres
from tests.support.postgres import postgres_templates as postgres_templates
from tests.support.redis import redis_server as redis_server
from tests.support.stack import stack as stack
