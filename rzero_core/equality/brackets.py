"""Finds how deep the brackets of a text go, where one closes, and what stands outside them."""

import re


def nesting(text: str) -> int:
    """The deepest level of brackets in a text."""
    depth = deepest = 0
    for character in text:
        if character in "{[(":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def closes_at(text: str, start: int) -> int:
    """Where the bracket opened at `start` closes, -1 if nowhere. Kinds may mix, as in [0, 1)."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
            if depth == 0:
                return index
    return -1


def split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces of a text between separators that stand outside all brackets."""
    pieces, depth, start, index = [], 0, 0, 0
    while index < len(text):
        character = text[index]
        match = separator.match(text, index) if depth == 0 else None
        if match:
            pieces.append(text[start:index])
            start = index = match.end()
            continue
        if character in "([{«" or text.startswith(r"\langle", index):
            depth += 1
        elif character in ")]}»" or text.startswith(r"\rangle", index):
            depth -= 1
        index += 1
    return [*pieces, text[start:]]
