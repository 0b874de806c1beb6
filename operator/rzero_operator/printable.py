"""Makes texts of models, users and clusters harmless to print in a terminal."""

from rich.markup import escape


def printable(text: str) -> str:
    """Text that anybody may have written, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def plain(text: str) -> str:
    """Printable text for markup, none of which it is."""
    return escape(printable(text))
