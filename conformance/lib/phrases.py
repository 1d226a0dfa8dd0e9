"""The log lines that are promised, most of them the predecessor's: level and beginning."""

LOST = ("WARNING", "Redis connection failed: ")
TO_DIRECT = ("INFO", "Switching to PostgreSQL direct LISTEN fallback mode")
IN_DIRECT = ("INFO", "Fallback to PostgreSQL direct LISTEN successful - realtime features recovered")
TO_REDIS = ("INFO", "Redis connectivity restored, switching back to Redis mode")
IN_REDIS = ("INFO", "Switch back to Redis mode successful")
SWITCH = (LOST, TO_DIRECT, IN_DIRECT, TO_REDIS, IN_REDIS)

ERROR = ("ERROR", "Connection error: ")
RECONNECTING = ("INFO", "Reconnecting in ")
REDIS_THERE = ("INFO", "Connected to Redis")
POSTGRES_THERE = ("INFO", "Connected to PostgreSQL")
