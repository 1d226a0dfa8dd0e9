"""What type checkers are told: nothing of the package is unknown to them, and the programs of the guide are sound."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.render_api import MARK, PAGE

WAIT_SECONDS = 600.0


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A checker's verdict. It goes by the settings of the project, in whose directory tests run."""
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )


def test_no_type_is_unknown_to_those_who_install_the_package() -> None:
    told = json.loads(run("pyright", "--outputjson", "--verifytypes", "bridge", "--ignoreexternal").stdout)
    found = told["typeCompleteness"]
    assert found["pyTypedPath"], "py.typed is not found: types are taken for unknown"
    assert found["exportedSymbolCounts"]["withKnownType"] > 1000
    assert found["exportedSymbolCounts"]["withUnknownType"] == 0
    assert found["otherSymbolCounts"]["withUnknownType"] == 0


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_programs_of_the_guide_are_typed(tmp_path: Path, checker: str) -> None:
    guide = PAGE.read_text().partition(MARK)[0]
    files = [tmp_path / f"program{number}.py" for number, _ in enumerate(re.findall("```python", guide))]
    for file, text in zip(files, re.findall(r"```python\n(.*?)```", guide, re.DOTALL), strict=True):
        file.write_text(text)
    assert len(files) == 5
    verdict = run(checker, *map(str, files))
    assert verdict.returncode == 0, verdict.stdout
