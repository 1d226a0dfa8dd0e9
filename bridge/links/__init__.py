"""The connections: one session each. Nothing outside this package sees psycopg, hiredis or redis-py, nor their errors."""
