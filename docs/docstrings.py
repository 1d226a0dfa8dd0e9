"""Docstrings as Markdown: fenced examples, lists of parameters, and links to the names that the page has."""

import ast
import re
from collections.abc import Iterator

_QUOTED = re.compile(r"(?<!`)`(?P<module>bridge\.(?:\w+\.(?=\w))?)?(?P<name>[A-Za-z_][\w.]*)(?:\(\))?`(?!`)")
_CLASS = re.compile(
    r"(?<![`\w.\[])([A-Z][a-z]+(?:[A-Z][a-z]+)+|(?<=Raises )[A-Z]\w+|(?<= or )[A-Z]\w+)(?![`\w(\]]|\.\w)"
)
_FIELD = re.compile(r":(param|raises) (\w+): ")
_SENTENCE = re.compile(r"(.+?\.)(?:\s|$)", re.DOTALL)


class Names:
    """What has a heading on the page, and where that is."""

    def __init__(self) -> None:
        self._anchors: dict[str, str] = {}
        self._headings: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._anchors

    def add(self, name: str, heading: str) -> None:
        """A name, and its heading. Raises ValueError where another one has that already."""
        if heading in self._headings:
            raise ValueError(f"two things are called {heading}")
        self._headings.add(heading)
        self._anchors[name] = slug(heading)

    def link(self, name: str, text: str | None = None) -> str:
        """A link to what the page has under this name."""
        return f"[{text or f'`{name}`'}](#{self._anchors[name]})"


def slug(heading: str) -> str:
    """The anchor that Markdown viewers give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def first_sentence(text: str) -> str:
    """What a docstring begins with, on one line."""
    found = _SENTENCE.match(text)
    return " ".join((found[1] if found else text).split())


def prose(text: str, names: Names, *, scope: str = "", own: frozenset[str] = frozenset()) -> str:
    """A docstring as Markdown, ending with a line break where it is not empty.

    `scope` is the class in which names are looked up first; names of `own` parameters are no links.
    """
    return "\n".join(_block(block, names, scope, own) for block in _blocks(text))


def _block(block: str, names: Names, scope: str, own: frozenset[str]) -> str:
    if block.startswith(" "):
        lines = block.splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines if line)
        code = "\n".join(line[indent:] for line in lines)
        return f"```{'python' if _is_python(code) else 'text'}\n{code}\n```\n"
    if _FIELD.match(block):
        items = (_FIELD.sub(_field, " ".join(item.split())) for item in re.split(r"\n(?=:)", block))
        block = "\n".join(items)
    return _linked(block, names, scope, own) + "\n"


def _field(found: re.Match[str]) -> str:
    return f"- `{found[2]}`: " if found[1] == "param" else f"- Raises {found[2]} "


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs, and indented blocks with the blank lines inside of them."""
    code: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.startswith(" "):
            code.append(paragraph)
            continue
        if code:
            yield "\n\n".join(code)
            code = []
        if paragraph:
            yield paragraph
    if code:
        yield "\n\n".join(code)


def _linked(text: str, names: Names, scope: str, own: frozenset[str]) -> str:
    def quoted(found: re.Match[str]) -> str:
        name, inner = found["name"], f"{scope}.{found['name']}"
        if name in own or name == scope:
            return found[0]
        target = inner if inner in names and not found["module"] else name
        return names.link(target, found[0]) if target in names else found[0]

    def bare(found: re.Match[str]) -> str:
        return names.link(found[1]) if found[1] in names and found[1] != scope else found[0]

    return _CLASS.sub(bare, _QUOTED.sub(quoted, text))


def _is_python(code: str) -> bool:
    try:
        compile(code, "docstring", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    except SyntaxError:
        return False
    return True
