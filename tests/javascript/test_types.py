"""The client's types: TypeScript takes what users write, refuses what is wrong, and finds what the file has. Both files
are in the wheel."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.cli import ROOT

PAGE = ROOT / "bridge" / "server" / "page"
USE = Path(__file__).parent / "use.ts"
STRICT = ("--strict", "--noEmit", "--exactOptionalPropertyTypes", "--target", "es2022", "--lib", "es2022,dom")

NAMES = """
import * as module from "./client.js";
class WebSocket { close() {} }
const stream = module.connect("http://bridge", { WebSocket });
const members = new Set([...Object.keys(stream), ...Object.getOwnPropertyNames(Object.getPrototypeOf(stream))]);
members.delete("constructor");
let options;
try {
  module.connect("http://bridge", { nothing: 1 });
} catch ({ message }) {
  options = message.split("there are ")[1].split(", ");
}
console.log(JSON.stringify({ "typeof module": Object.keys(module), EventStream: [...members], Options: options }));
stream.close();
"""


@pytest.fixture
def project(tmp_path: Path, node_modules: Path) -> Path:
    """A project with a copy of the client."""
    for path in (PAGE / "client.js", PAGE / "client.d.ts", USE):
        shutil.copy(path, tmp_path)
    (tmp_path / "node_modules").symlink_to(node_modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600, check=False)


def check(project: Path, *paths: str) -> str:
    """What TypeScript has to say against them; nothing where all is well."""
    done = run(project, "node_modules/.bin/tsc", *STRICT, "--module", "nodenext", *paths)
    assert bool(done.stdout) == bool(done.returncode), done.stderr
    return done.stdout


def test_what_users_write_has_the_right_types(project: Path) -> None:
    assert check(project, "use.ts", "client.d.ts") == ""


def test_the_file_has_exactly_what_is_declared(project: Path) -> None:
    """A record of all keys of a type, and no others, is what TypeScript takes."""
    (project / "names.mjs").write_text(NAMES)
    found = json.loads(run(project, "node", "names.mjs").stdout)
    assert sorted(found["typeof module"]) == ["BridgeError", "connect"]
    lines = ['import * as module from "./client.js";', 'import type { EventStream, Options } from "./client.js";']
    for place, names in found.items():
        record = ", ".join(f"{name}: 1" for name in names)
        lines.append(f"const of{len(lines)}: Record<Exclude<keyof ({place}), symbol>, 1> = {{ {record} }};")
    (project / "names.ts").write_text("\n".join(lines))
    assert check(project, "names.ts") == ""
    for wrong in (lines[-1].replace("where: 1, ", ""), lines[-1].replace("where: 1", "where: 1, more: 1")):
        (project / "names.ts").write_text("\n".join([*lines[:-1], wrong]))
        assert "error TS" in check(project, "names.ts")


def test_the_wheel_has_both_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "bridge", source / "bridge", ignore=shutil.ignore_patterns("__pycache__"))
    done = run(source, "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), ".")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as contents:
        for name in ("client.js", "client.d.ts"):
            assert contents.read(f"bridge/server/page/{name}") == (PAGE / name).read_bytes()
