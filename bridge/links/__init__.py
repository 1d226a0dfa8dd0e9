"""The connections: one session each. Nothing outside this package sees what psycopg, hiredis or redis-py raise."""
