"""Counts the frames in what a client sends, without reading them: the cost of a client is its frames, not its bytes.

A frame may be empty, and a message may have any number of frames. Who only looks at whole messages and their sizes
does not see ten thousand pings, or a message that never ends.
"""


class FrameMeter:
    """Follows one client's bytes from the first frame on, however they are divided.

    What breaks RFC 6455 is counted as something; whoever reads the frames ends the connection for it.
    """

    __slots__ = ("_head", "_skip", "fragments")

    def __init__(self) -> None:
        self.fragments = 0
        """Frames so far of the message under way; 0 when its last frame has begun."""
        self._head = b""
        self._skip = 0

    def feed(self, data: bytes) -> int:
        """The number of frames that begin in these bytes (where their head is complete)."""
        data, at, begun = self._head + data, 0, 0
        while True:
            if self._skip:
                skipped = min(self._skip, len(data) - at)
                self._skip -= skipped
                at += skipped
            if len(data) - at < 2:
                break
            first, second = data[at], data[at + 1]
            size = second & 0x7F
            more = 2 if size == 126 else 8 if size == 127 else 0
            end = at + 2 + more + (4 if second & 0x80 else 0)
            if len(data) < end:
                break
            self._skip = int.from_bytes(data[at + 2 : at + 2 + more], "big") if more else size
            begun += 1
            if not first & 0x08:
                self.fragments = 0 if first & 0x80 else self.fragments + 1
            at = end
        self._head = data[at:]
        return begun
