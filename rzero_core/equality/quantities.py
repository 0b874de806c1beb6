"""Reads values with a unit, a currency or a percent sign."""

import re
from collections.abc import Callable
from fractions import Fraction

from rzero_core.equality.keys import Key

# Units: (dimension, factor to its base unit). Only exact factors.
_UNITS: dict[str, tuple[str, Fraction]] = {}
for _dimension, _members in {
    "length": {
        "mm": "0.001",
        "cm": "0.01",
        "dm": "0.1",
        "m": "1",
        "km": "1000",
        "millimeter": "0.001",
        "centimeter": "0.01",
        "meter": "1",
        "metre": "1",
        "kilometer": "1000",
        "in": "0.0254",
        "inch": "0.0254",
        "ft": "0.3048",
        "foot": "0.3048",
        "yard": "0.9144",
        "yd": "0.9144",
        "mile": "1609.344",
        "mi": "1609.344",
        "feet": "0.3048",
    },
    "mass": {
        "mg": "0.000001",
        "g": "0.001",
        "kg": "1",
        "gram": "0.001",
        "kilogram": "1",
        "ton": "1000",
    },
    "time": {
        "ms": "0.001",
        "s": "1",
        "sec": "1",
        "second": "1",
        "min": "60",
        "minute": "60",
        "h": "3600",
        "hr": "3600",
        "hour": "3600",
        "day": "86400",
        "week": "604800",
    },
    "volume": {"ml": "0.001", "l": "1", "mL": "0.001", "L": "1", "liter": "1", "litre": "1"},
    "money": {"¤": "1", "dollar": "1", "cent": "0.01", "usd": "1"},
    "angle": {"°": "1", "degree": "1", "deg": "1"},
    "speed": {"m/s": "1", "km/s": "1000"},
    "road speed": {"km/h": "1", "kmh": "1", "kph": "1"},
    "mph": {"mph": "1"},
    "temperature C": {"°C": "1"},
    "temperature F": {"°F": "1"},
}.items():
    _UNITS.update({unit: (_dimension, Fraction(factor)) for unit, factor in _members.items()})
_IN_MARKS = r"«[^»]*»(?:\^\{?[23]\}?)?"
_UNIT_WORDS = (
    r"(?:sq(?:uare|\.)? |cubic )?[A-Za-z]{2,}(?:[ /][A-Za-z]{1,}){0,2}\.?(?:\^\{?[23]\}?)?"
)
_SHORT_UNITS = r"[mgslhL](?:\^\{?[23]\}?)?|[km]?m/[sh]"
_QUANTITY = re.compile(
    r"(.*?[0-9})!\]i])\s*("
    + _IN_MARKS
    + r"|°[CF]?|(?<=[0-9}) ])(?:"
    + _UNIT_WORDS
    + "|"
    + _SHORT_UNITS
    + "))"
)
_NO_UNIT = re.compile(
    r"\b(?:and|or|of|to|mod|modulo|times|plus|minus|over|than|per cent|percent|more|less|if|for|is"
    r"|when|with|where|only|but|not|base)\b"
)


def quantity(text: str, read: Callable[[str], Key]) -> Key | None:
    """A value with a unit, a currency or a percent sign. A percentage is its number: 50% is 1/2."""
    percent = re.fullmatch(r"(.*[0-9})])\s*(?:%|«?\s*per ?cent\.?\s*»?|«%»)", text)
    if percent:
        inner = read(percent.group(1))
        if inner.kind == "number":
            return Key("number", inner.parts / 100, f"({inner.text})/100")
        return None
    if text.startswith(("¤", "-¤")):
        return _with_unit(read(text.replace("¤", "", 1)), "¤", text)
    if text.endswith("¤"):
        return _with_unit(read(text[:-1]), "¤", text)
    match = _QUANTITY.fullmatch(text)
    if not match or _NO_UNIT.search(match.group(2)):
        return None
    unit = match.group(2).replace("«", "").replace("»", "").strip(" .")
    return _with_unit(read(match.group(1)), unit, text) if unit else None


def _with_unit(value: Key, unit: str, text: str) -> Key | None:
    if value.kind not in ("number", "expr") or (unit == "°" and value.kind != "number"):
        return None
    unit = re.sub(r"\s*/\s*", "/", unit).replace("{", "").replace("}", "")
    unit = re.sub(r"^(?:square|sq\.?) (.*)$", r"\1^2", re.sub(r"^cubic (.*)$", r"\1^3", unit))
    base, _, power = unit.partition("^")
    for spelling in (
        base,
        base.casefold(),
        base.casefold().removesuffix("s"),
        base.casefold().removesuffix("es"),
    ):
        if spelling in _UNITS:
            dimension, factor = _UNITS[spelling]
            return Key("quantity", (value, f"{dimension}^{power}", factor ** int(power or 1)), text)
    name = base.casefold() if base.casefold().endswith("ss") else base.casefold().removesuffix("s")
    return Key("quantity", (value, f"{name}^{power}", Fraction(1)), text)
