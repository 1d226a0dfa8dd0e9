"""Patterns in which ``*`` stands for any text, also for none."""


def fits(pattern: str, text: str) -> bool:
    """Whether the pattern fits the whole text, found out in time that grows with their lengths alone.

    Patterns come from operators and tokens, texts from anybody: a regular expression could be made to try for ever.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, last = rest
    position, end = len(first), len(text) - len(last)
    if position > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
