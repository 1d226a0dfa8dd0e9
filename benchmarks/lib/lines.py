"""A helper process that is told what to do by lines, and answers by lines."""

import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from benchmarks.lib.failure import BenchmarkFailed

ANSWER_SECONDS = 120.0


class LineProcess:
    """Starts the command; ends it, and only it, at the end of the block. A line that begins with `failed` raises."""

    def __init__(
        self,
        command: Sequence[str | Path],
        name: str,
        environment: dict[str, str] | None = None,
        sockets: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._partial = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            pass_fds=sockets,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.answer("failed", 5.0)
            raise

    def answer(self, word: str, seconds: float = ANSWER_SECONDS) -> list[str]:
        """The words after `word` of the next line; raises where it is another one, or none within the time."""
        line = self._line(seconds)
        if line is None:
            raise BenchmarkFailed(f"{self.name}: no answer ({word}) within {seconds:g} s")
        words = line.split()
        if not words or words[0] != word:
            raise BenchmarkFailed(f"{self.name}: {line.removeprefix('failed ') or self._last_error()}")
        return words[1:]

    def ask(self, line: str, word: str, seconds: float = ANSWER_SECONDS) -> list[str]:
        """`tell` and `answer`."""
        self.tell(line)
        return self.answer(word, seconds)

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended"

    def _line(self, seconds: float) -> str | None:
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._partial:
            if not select.select([number], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(number, 65536)
            if not data:
                return ""
            self._partial += data
        line, self._partial = self._partial.split(b"\n", 1)
        return line.decode()
