"""What a WebSocket client reads from raw bytes, with wsproto as the judge."""

import json
from typing import Any

from wsproto.frame_protocol import FrameProtocol, Opcode

Message = dict[str, Any] | tuple[str, Any]


class FrameReader:
    """Feed it what arrives; it gives whole messages: JSON objects, and ("close", (code, reason)), ("ping", …)."""

    def __init__(self) -> None:
        self._protocol = FrameProtocol(client=True, extensions=[])
        self._parts: list[str] = []

    def feed(self, data: bytes) -> list[Message]:
        self._protocol.receive_bytes(data)
        messages: list[Message] = []
        for frame in self._protocol.received_frames():
            if frame.opcode is Opcode.TEXT:
                self._parts.append(str(frame.payload))
                if frame.message_finished:
                    messages.append(json.loads("".join(self._parts)))
                    self._parts.clear()
            else:
                messages.append((frame.opcode.name.lower(), frame.payload))
        return messages
