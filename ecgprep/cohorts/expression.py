"""Criteria as text, such as `lvef < 50 and drop >= 10`: parsed, checked, and never executed.

The grammar is a small part of Python's: comparisons, `and`, `or`, `not`, the four operations,
numbers, and the names that the caller allows. What is missing does not meet a criterion, nor does
its negation meet one: a comparison with a missing value is neither true nor false (Kleene's
three-valued logic), and only what is true counts.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

MAX_LENGTH = 1000
"""Characters of an expression: more is a program, not a criterion."""

DECIMALS = 6
"""Results are rounded to 1e-6, so that 64.4 - 54.4 is 10 and not a little more."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Truth(NamedTuple):
    """A criterion for each of N observations: where it holds, and where it fails; else unknown."""

    holds: Flags
    fails: Flags


@dataclass(frozen=True)
class Expression:
    """A checked expression; `text` is its canonical form and `names` are what it refers to."""

    text: str
    names: frozenset[str]

    def met(self, values: Mapping[str, Numbers | Truth], n: int) -> Flags:
        """Say for which of `n` observations the expression holds.

        `values` has an array of `n` numbers (NaN where missing), or a `Truth`, for each name.
        """
        return _Evaluation(values, n).truth(_parsed(self.text)).holds


def parse_expression(text: str, numbers: Iterable[str], flags: Iterable[str]) -> Expression:
    """Check an expression over the names of `numbers` and `flags`.

    Raises ValueError that says what is allowed.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"must have at most {MAX_LENGTH:,} characters")
    tree = _parsed(text)
    checked = _Check(frozenset(numbers), frozenset(flags))
    checked.truth(tree)
    return Expression(ast.unparse(tree), frozenset(checked.used))


def round_off(values: Numbers) -> Numbers:
    """Round to 1e-6, so that decimal fractions compare as they are written."""
    return np.round(values, DECIMALS)


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("must be an expression such as lvef < 50 and drop >= 10") from None


class _Check:
    """Walks through an expression and refuses what is not in the grammar."""

    def __init__(self, numbers: frozenset[str], flags: frozenset[str]) -> None:
        self._numbers = numbers
        self._flags = flags
        self.used: set[str] = set()

    def truth(self, node: ast.expr) -> None:
        """Check what must be true or false."""
        match node:
            case ast.BoolOp():
                for part in node.values:
                    self.truth(part)
            case ast.UnaryOp(op=ast.Not()):
                self.truth(node.operand)
            case ast.Compare() if all(type(op) in _COMPARISONS for op in node.ops):
                for part in (node.left, *node.comparators):
                    self.number(part)
            case ast.Name() if node.id in self._flags:
                self.used.add(node.id)
            case _:
                listed = ", ".join(sorted(self._flags))
                raise ValueError(
                    "must be made of comparisons (<, <=, >, >=, ==, !=), and, or, not, and the "
                    f"names that are true or false: {listed}"
                )

    def number(self, node: ast.expr) -> None:
        """Check what must be a number."""
        match node:
            case ast.BinOp() if type(node.op) in _OPERATIONS:
                self.number(node.left)
                self.number(node.right)
            case ast.UnaryOp(op=ast.USub()):
                self.number(node.operand)
            case ast.Constant(value=value) if _is_finite_number(value):
                pass
            case ast.Name() if node.id in self._numbers:
                self.used.add(node.id)
            case _:
                listed = ", ".join(sorted(self._numbers))
                raise ValueError(
                    "must compare numbers, +, -, *, / and the names that are numbers: " + listed
                )


def _is_finite_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(float(str(value)))


class _Evaluation:
    """Evaluates a checked expression on `n` observations at once."""

    def __init__(self, values: Mapping[str, Numbers | Truth], n: int) -> None:
        self._values = values
        self._n = n

    def truth(self, node: ast.expr) -> Truth:
        match node:
            case ast.BoolOp():
                parts = [self.truth(part) for part in node.values]
                holds, fails = [part.holds for part in parts], [part.fails for part in parts]
                if isinstance(node.op, ast.And):
                    return Truth(np.logical_and.reduce(holds), np.logical_or.reduce(fails))
                return Truth(np.logical_or.reduce(holds), np.logical_and.reduce(fails))
            case ast.UnaryOp():
                inner = self.truth(node.operand)
                return Truth(inner.fails, inner.holds)
            case ast.Compare():
                return self._comparison(node)
            case ast.Name():
                flag = self._values[node.id]
                assert isinstance(flag, Truth)
                return flag
        raise AssertionError("the expression was not checked")

    def _comparison(self, node: ast.Compare) -> Truth:
        """Evaluate a chain such as `40 <= lvef < 50`: every link must hold."""
        sides = [self.number(part) for part in (node.left, *node.comparators)]
        holds, fails = np.ones(self._n, bool), np.zeros(self._n, bool)
        for op, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True):
            known = ~(np.isnan(left) | np.isnan(right))
            is_so = _COMPARISONS[type(op)](left, right)
            holds &= known & is_so
            fails |= known & ~is_so
        return Truth(holds, fails)

    def number(self, node: ast.expr) -> Numbers:
        match node:
            case ast.BinOp():
                operation = _OPERATIONS[type(node.op)]
                with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                    result = operation(self.number(node.left), self.number(node.right))
                return round_off(np.where(np.isfinite(result), result, np.nan))
            case ast.UnaryOp():
                return -self.number(node.operand)
            case ast.Constant():
                return np.full(self._n, float(str(node.value)))
            case ast.Name():
                values = self._values[node.id]
                assert not isinstance(values, Truth)
                return values
        raise AssertionError("the expression was not checked")
