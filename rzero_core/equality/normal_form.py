"""Turns a tree into a polynomial with rational coefficients over atoms (variables, pi, square
roots, functions).

Equal normal forms are equal expressions, shown exactly and without a computer algebra system.
"""

import math
from fractions import Fraction
from typing import Any

from rzero_core.equality.expressions import Tree, Unreadable

MAX_BITS = 1 << 17
"""Size of the largest exact number built here: 10000! fits, 9^9^9 does not."""
MAX_TERMS = 128

Atom = tuple[Any, ...]
Monomial = tuple[tuple[Atom, Fraction], ...]
Polynomial = dict[Monomial, Fraction]


class TooLarge(ValueError):
    """Its value has more digits than any answer should."""


def normal_form(tree: Tree) -> Polynomial:
    """The expanded polynomial of a tree; a constant has the single monomial `()`, zero has none.

    Raises `TooLarge` for towers of powers, large factorials and expansions past `MAX_TERMS` terms,
    and `Unreadable` where no value exists (division by zero).
    """
    match tree:
        case ("num", value):
            return _constant(value)
        case ("var", name):
            return {((("var", name), Fraction(1)),): Fraction(1)}
        case ("const", name):
            return {((("const", name), Fraction(1)),): Fraction(1)}
        case ("neg", inner):
            return {m: -c for m, c in normal_form(inner).items()}
        case ("add", a, b):
            return _add(normal_form(a), normal_form(b))
        case ("mul", a, b):
            return _multiply(normal_form(a), normal_form(b))
        case ("div", a, b):
            return _multiply(normal_form(a), _inverse(normal_form(b)))
        case ("pow", a, b):
            return _power(normal_form(a), normal_form(b))
        case ("fact", inner):
            return _factorial(normal_form(inner))
        case ("fn", name, *operands):
            return _function(name, [normal_form(operand) for operand in operands])
    raise AssertionError(f"no such tree: {tree[0]}")


def frozen(polynomial: Polynomial) -> tuple[tuple[Monomial, Fraction], ...]:
    """The polynomial as a hashable value, the same whatever the order of its terms."""
    return tuple(sorted(polynomial.items(), key=lambda item: _order(item[0])))


def constant_of(polynomial: Polynomial) -> Fraction | None:
    """Its rational value, None when it is not a rational constant."""
    if not polynomial:
        return Fraction(0)
    return polynomial.get(()) if len(polynomial) == 1 else None


def _order(value: Any) -> str:
    # Not repr: it refuses integers of more than 4300 digits.
    if isinstance(value, tuple):
        return "(" + ",".join(_order(part) for part in value) + ")"
    if isinstance(value, Fraction):
        return f"{value.numerator:x}/{value.denominator:x}"
    return str(value)


def _constant(value: Fraction) -> Polynomial:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise TooLarge("a number with too many digits")
    return {(): value} if value else {}


def _atom(*parts: Any) -> Polynomial:
    return {(((parts), Fraction(1)),): Fraction(1)}


def _add(a: Polynomial, b: Polynomial) -> Polynomial:
    total = dict(a)
    for monomial, coefficient in b.items():
        total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    return _checked(total)


def _multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    if len(a) * len(b) > MAX_TERMS:
        raise TooLarge("a product with too many terms")
    total: Polynomial = {}
    for left, x in a.items():
        for right, y in b.items():
            monomial, factor = _join(left, right)
            total[monomial] = total.get(monomial, Fraction(0)) + x * y * factor
    return _checked(total)


def _checked(polynomial: Polynomial) -> Polynomial:
    for value in polynomial.values():
        _constant(value)
    return {m: c for m, c in polynomial.items() if c}


def _join(left: Monomial, right: Monomial) -> tuple[Monomial, Fraction]:
    """The product of two monomials, with i^2 = -1 and roots of integers merged into one."""
    exponents: dict[Atom, Fraction] = {}
    radicand, factor = 1, Fraction(1)
    for atom, exponent in (*left, *right):
        if atom[0] == "root":
            shared = math.gcd(radicand, atom[1])
            factor *= shared
            radicand = radicand * atom[1] // shared**2
        else:
            exponents[atom] = exponents.get(atom, Fraction(0)) + exponent
    imaginary = exponents.pop(("const", "i"), Fraction(0))
    if imaginary.denominator == 1:
        factor *= -1 if imaginary % 4 in (2, 3) else 1
        imaginary %= 2
    if imaginary:
        exponents[("const", "i")] = imaginary
    if radicand > 1:
        exponents[("root", radicand)] = Fraction(1)
    kept = [(atom, exponent) for atom, exponent in exponents.items() if exponent]
    return tuple(sorted(kept, key=_order)), factor


def _inverse(polynomial: Polynomial) -> Polynomial:
    if not polynomial:
        raise Unreadable("division by zero")
    if len(polynomial) == 1:
        ((monomial, coefficient),) = polynomial.items()
        factor = 1 / coefficient
        turned: list[tuple[Atom, Fraction]] = []
        for atom, exponent in monomial:
            if atom[0] == "root":
                factor /= atom[1]
                turned.append((atom, exponent))
            else:
                turned.append((atom, -exponent))
        result, sign = _join(tuple(turned), ())
        return _checked({result: factor * sign})
    leading = frozen(polynomial)[0][1]
    monic = {m: c / leading for m, c in polynomial.items()}
    return {((("sum", frozen(monic)), Fraction(-1)),): 1 / leading}


def _power(base: Polynomial, exponent: Polynomial) -> Polynomial:
    n = constant_of(exponent)
    if n is None:
        if base == {(): Fraction(1)}:
            return base
        leading = frozen(exponent)[0][1]
        if leading < 0:  # e^{-x} and 1/e^{x} are one form
            return _inverse(_power(base, {m: -c for m, c in exponent.items()}))
        return _atom("power", frozen(base), frozen(exponent))
    value = constant_of(base)
    if value is not None:
        return _rational_power(value, n)
    if n.denominator == 1:
        return _integer_power(base, int(n))
    if len(base) == 1 and abs(n) < 100:
        ((monomial, coefficient),) = base.items()
        if (
            coefficient == 1
            and len(monomial) == 1
            and monomial[0][1] == 1
            and monomial[0][0][0] == "var"
        ):
            return {((monomial[0][0], n),): Fraction(1)}
    return _atom("power", frozen(base), frozen(exponent))


def _integer_power(base: Polynomial, n: int) -> Polynomial:
    if n < 0:
        return _inverse(_integer_power(base, -n))
    if len(base) > 1 and n > 16:
        # Not expanded; still one exact form.
        return {((("sum", frozen(base)), Fraction(n)),): Fraction(1)}
    if n > 1000:
        raise TooLarge("a power with a large exponent")
    result: Polynomial = {(): Fraction(1)}
    for _ in range(n):
        result = _multiply(result, base)
    return result


def _rational_power(value: Fraction, n: Fraction) -> Polynomial:
    if value == 0:
        if n <= 0:
            raise Unreadable("zero to a power that is not positive")
        return {}
    size = value.numerator.bit_length() + value.denominator.bit_length()
    if value not in (1, -1) and abs(n) * size > MAX_BITS:
        raise TooLarge("a power with too many digits")
    if n.denominator == 1:
        return _constant(value ** (int(n) if value not in (1, -1) else int(n) % 2))
    if n.denominator == 2:
        whole = _rational_power(value, Fraction(n.numerator - 1, 2))
        return _multiply(whole, _square_root(value))
    root = _exact_root(value, n.denominator)
    if root is not None:
        return _constant(root ** int(n.numerator))
    return {((("base", value), n),): Fraction(1)}


def _square_root(value: Fraction) -> Polynomial:
    """sqrt(p/q) = sqrt(p q)/q with the square factors taken out, so that sqrt(8) and 2 sqrt(2) are
    one form.
    """
    radicand = abs(value.numerator) * value.denominator
    outside = Fraction(1, value.denominator)
    if radicand.bit_length() > 64 and math.isqrt(radicand) ** 2 != radicand:
        raise TooLarge("the square root of a number with too many digits")
    whole = math.isqrt(radicand)
    if whole**2 == radicand:
        outside, radicand = outside * whole, 1
    for prime in _PRIMES:
        while radicand % prime**2 == 0:
            radicand //= prime**2
            outside *= prime
    whole = math.isqrt(radicand)
    if whole**2 == radicand:
        outside, radicand = outside * whole, 1
    monomial: Monomial = () if radicand == 1 else ((("root", radicand), Fraction(1)),)
    root: Polynomial = {monomial: outside}
    return _multiply(root, {((("const", "i"), Fraction(1)),): Fraction(1)}) if value < 0 else root


_PRIMES = [p for p in range(2, 1000) if all(p % d for d in range(2, math.isqrt(p) + 1))]


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if (value < 0 and degree % 2 == 0) or degree > 64:
        return None
    parts = []
    for part in (abs(value.numerator), value.denominator):
        if part.bit_length() > 256:
            return None
        guess = round(part ** (1 / degree))
        if guess**degree != part:
            return None
        parts.append(guess)
    # The principal cube root of -8 is complex; school answers mean -2.
    return Fraction(parts[0], parts[1]) * (-1 if value < 0 else 1)


def _factorial(polynomial: Polynomial) -> Polynomial:
    n = constant_of(polynomial)
    if n is None:
        return _atom("factorial", frozen(polynomial))
    if n.denominator != 1 or n < 0:
        raise Unreadable("the factorial of what is not a natural number")
    if n > 10_000:
        raise TooLarge("a factorial with too many digits")
    return _constant(Fraction(math.factorial(int(n))))


def _function(name: str, operands: list[Polynomial]) -> Polynomial:
    values = [constant_of(operand) for operand in operands]
    first = values[0]
    if name == "abs" and first is not None:
        return _constant(abs(first))
    if name in ("floor", "ceil") and first is not None:
        return _constant(Fraction(math.floor(first) if name == "floor" else math.ceil(first)))
    if name == "binom" and first is not None and values[1] is not None:
        return _binomial(first, values[1])
    if name == "log" and len(values) == 2 and first is not None and values[1] is not None:
        power = _exact_logarithm(first, values[1])
        if power is not None:
            return _constant(power)
    if name == "exp":
        return _power({((("const", "e"), Fraction(1)),): Fraction(1)}, operands[0])
    if name == "ln" and operands[0] == {((("const", "e"), Fraction(1)),): Fraction(1)}:
        return _constant(Fraction(1))
    if name in ("ln", "log") and values[-1] == 1:
        return {}
    return _atom("function", name, *(frozen(operand) for operand in operands))


def _binomial(n: Fraction, k: Fraction) -> Polynomial:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        raise Unreadable("a binomial of what are not natural numbers")
    if n > 10_000:
        raise TooLarge("a binomial with too many digits")
    return _constant(Fraction(math.comb(int(n), int(k))))


def _exact_logarithm(base: Fraction, value: Fraction) -> Fraction | None:
    if base <= 0 or base == 1 or value <= 0:
        raise Unreadable("a logarithm that does not exist")
    if max(value.numerator, value.denominator, base.numerator, base.denominator).bit_length() > 512:
        raise TooLarge("the logarithm of a number with too many digits")
    power = round(math.log(value) / math.log(base))
    return Fraction(power) if abs(power) <= 512 and base**power == value else None
