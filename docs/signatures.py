"""Signatures as a caller sees them: types and defaults, and context managers as what they are entered for."""

import re
from collections.abc import Container, Iterable, Iterator

import griffe

_WIDTH = 100
_CONTEXTS = {"asynccontextmanager": "AbstractAsyncContextManager", "contextmanager": "AbstractContextManager"}
_STARS = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}


def find(package: griffe.Module, path: str) -> griffe.Object | None:
    """What is meant by a dotted path that begins with the package's name; None where that is nothing of its own."""
    try:
        found = package[path.removeprefix(f"{package.name}.")]
        if isinstance(found, griffe.Module) and found.name in found.members:  # of the same name as what it holds
            found = found[found.name]
        return found.final_target if isinstance(found, griffe.Alias) else found
    except (KeyError, griffe.AliasResolutionError):
        return None


def source(expression: "griffe.Expr | str | None") -> str:
    """An annotation or a value as the page writes it; empty where there is none."""
    text = "" if expression is None else str(expression)
    text = re.sub(r"'([^'\"]*)'", r'"\1"', text)
    return re.sub(r"\bstream\.(?=[A-Z])", "", text)


def call(function: griffe.Function, package: griffe.Module) -> str:
    """The line, or the lines, with which a function is defined."""
    returns = source(function.returns)
    prefix = "async def" if "async" in function.labels else "def"
    for decorator in function.decorators:
        context = _CONTEXTS.get(str(decorator.value))
        if context is not None:
            prefix, returns = "def", re.sub(r"^\w+(?=\[)", context, returns)
    return _laid_out(f"{prefix} {function.name}(", _parameters(function, package), f") -> {returns}")


def made(cls: griffe.Class, fields: Iterable[griffe.Attribute], package: griffe.Module) -> str:
    """How instances are made; for errors, and where the docstring says who makes them, the name and its bases alone."""
    constructor = cls.members.get("__init__")
    if isinstance(constructor, griffe.Function):
        arguments = _parameters(constructor, package)
    else:
        arguments = [
            f"{one.name}: {source(one.annotation)}" + ("" if one.value is None else f" = {source(one.value)}")
            for one in fields
            if "property" not in one.labels
        ]
    bases = ", ".join(map(str, cls.bases))
    is_error = any(str(base).endswith(("Exception", "Error", "Lost")) for base in cls.bases)
    if is_error or (cls.docstring is not None and re.search(r"\bMade\s+by\b", cls.docstring.value)):
        return f"class {cls.name}({bases})" if bases else f"class {cls.name}"
    return _laid_out(f"class {cls.name}(", arguments, ")")


def alias(one: griffe.Attribute) -> str:
    """The line, or the lines, that say what a name of a type stands for."""
    value = one.value
    if isinstance(value, griffe.ExprSubscript) and isinstance(value.slice, griffe.ExprTuple):
        elements = [source(element) for element in value.slice.elements]
        return _laid_out(f"{one.name} = {source(value.left)}[", elements, "]")
    return f"{one.name} = {source(value)}"


def kind(attribute: griffe.Attribute) -> str:
    """The type of an attribute: as it is written, or of the parameter or the class that it is made from."""
    if attribute.annotation is not None or attribute.parent is None:
        return source(attribute.annotation)
    if isinstance(attribute.value, griffe.ExprCall):
        return source(attribute.value.function)
    constructor = attribute.parent.members.get("__init__")
    if isinstance(constructor, griffe.Function) and str(attribute.value) in constructor.parameters:
        return source(constructor.parameters[str(attribute.value)].annotation)
    return ""


def meanings(expressions: Iterable[griffe.Expr], package: griffe.Module, known: Container[str]) -> dict[str, str]:
    """What the names of types in these annotations stand for, where they are the package's own and no classes."""
    found: dict[str, str] = {}
    waiting = list(expressions)
    while waiting:
        for part in waiting.pop(0).iterate(flat=True):
            if not isinstance(part, griffe.ExprName) or part.name in found or part.name in known:
                continue
            target = find(package, part.canonical_path)
            if isinstance(target, griffe.Attribute) and isinstance(target.value, griffe.Expr):
                found[part.name] = source(target.value)
                waiting.append(target.value)
    return found


def constants(text: str, one: griffe.Object) -> dict[str, str]:
    """The values of the module's constants that a docstring names."""
    found: dict[str, str] = {}
    for name in re.findall(r"`([A-Z][A-Z_]+)`", text):
        value = one.module.members.get(name)
        if isinstance(value, griffe.Attribute):
            found[name] = source(value.value)
    return found


def annotations(one: griffe.Object, members: Iterable[griffe.Attribute] = ()) -> Iterator[griffe.Expr]:
    """All annotations of a function, of a class with these members, or of a name for a type."""
    found: list[griffe.Expr | str | None] = [member.annotation for member in members]
    if isinstance(one, griffe.Function):
        found += [one.returns, *(parameter.annotation for parameter in one.parameters)]
    elif isinstance(one, griffe.Attribute):
        found.append(one.value)
    elif isinstance(constructor := one.members.get("__init__"), griffe.Function):
        found += [parameter.annotation for parameter in constructor.parameters]
    yield from (expression for expression in found if isinstance(expression, griffe.Expr))


def _parameters(function: griffe.Function, package: griffe.Module) -> list[str]:
    """Each as it is written, with the bare star before those that are given by name."""
    found: list[str] = []
    star = False
    for parameter in function.parameters:
        if parameter.name == "self":
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not star:
            found.append("*")
        star = star or parameter.kind in (griffe.ParameterKind.keyword_only, griffe.ParameterKind.var_positional)
        text = f"{_STARS.get(parameter.kind or griffe.ParameterKind.positional_only, '')}{parameter.name}"
        if parameter.annotation is not None:
            text += f": {source(parameter.annotation)}"
        if parameter.default is not None and parameter.kind not in _STARS:
            text += f" = {_default(parameter.default, package)}"
        found.append(text)
    return found


def _default(value: "griffe.Expr | str", package: griffe.Module) -> str:
    """A default as it is written, or the value of the constant that it is."""
    if isinstance(value, griffe.ExprName):
        constant = find(package, value.canonical_path)
        if isinstance(constant, griffe.Attribute):
            return source(constant.value)
    return source(value)


def _laid_out(begin: str, parts: list[str], end: str) -> str:
    line = f"{begin}{', '.join(parts)}{end}"
    return line if len(line) <= _WIDTH else f"{begin}\n" + "".join(f"    {part},\n" for part in parts) + end
