"""Fixtures that all tests share: the real servers."""
from tests.support.postgres import postgres as postgres, postgres_templates as postgres_templates
