"""What all tests share: real servers, a quiet log, and no deadline for examples, which a busy machine would miss."""

import hypothesis

from tests.support.logs import quiet_log as quiet_log
from tests.support.postgres import postgres as postgres
from tests.support.postgres import postgres_templates as postgres_templates
from tests.support.redis import redis_server as redis_server
from tests.support.stack import stack as stack

hypothesis.settings.register_profile("bridge", deadline=None)
hypothesis.settings.load_profile("bridge")
