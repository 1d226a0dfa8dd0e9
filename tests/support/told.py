"""What the library gives its readers, in the form that the oracle judges: that of the messages to clients elsewhere."""

from bridge import stream
from tests.support.oracle import Message


def message_of(event: stream.Event) -> Message | None:
    """The event as a client elsewhere would be told it; None for what only readers in the same process are told."""
    match event:
        case stream.Subscribed():
            return {"type": "subscribed", "position": event.cursor}
        case stream.Notification():
            message = {"type": "notification", "id": event.id, "channel": event.channel, "payload": event.payload}
            return {**message, "late": event.late, "cursor": event.cursor}
        case stream.Gap():
            bounds = {"after": event.after, "before": event.before}
            return {"type": "gap", **bounds, "reason": event.reason, "pending": event.pending, "cursor": event.cursor}
        case stream.Filled():
            return {"type": "filled", "after": event.after, "before": event.before, "cursor": event.cursor}
        case stream.ModeChange():
            return None
