"""Arithmetic over names, as mappings use it: parsed, never executed as code."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from scaling.errors import ConfigError
from scaling.importers.values import lookup, number

__all__ = ["Expression", "from_config"]


class Expression:
    """Arithmetic over names: ``+ - * /``, parentheses, numbers, dotted names. Parsed, never executed as code.

    Example:
        >>> float(Expression("1 - pass_rate / 100")({"pass_rate": 25.0}.get))
        0.75
    """

    def __init__(self, text: str, where: str = "expression") -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f"{where} must be arithmetic over names, got {text!r}") from error
        self.names: list[str] = []
        self._check(self._tree, where)

    def __call__(self, get: Callable[[str], Any]) -> Any:
        """The value, with names looked up by ``get``; None if one is missing."""
        return self._value(self._tree, get)

    def _check(self, node: ast.AST, where: str) -> None:
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            self._check(node.left, where)
            self._check(node.right, where)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            self._check(node.operand, where)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            pass
        elif (name := _dotted(node)) is not None:
            self.names.append(name)
        else:
            raise ConfigError(f"{where} must be + - * / over names and numbers, got {self.text!r}")

    def _value(self, node: ast.AST, get: Callable[[str], Any]) -> Any:
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left, get), self._value(node.right, get)
            if left is None or right is None:
                return None
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                if isinstance(node.op, ast.Add):
                    return left + right
                if isinstance(node.op, ast.Sub):
                    return left - right
                if isinstance(node.op, ast.Mult):
                    return left * right
                return np.divide(left, right)
        if isinstance(node, ast.UnaryOp):
            inner = self._value(node.operand, get)
            return None if inner is None else -inner if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.Constant):
            return node.value
        return get(_dotted(node) or "")


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    return None


def from_config(expressions: Iterable[str], config: Mapping[str, Any]) -> tuple[float, str] | None:
    """The first expression over a configuration that has a value, and its text."""
    for text in expressions:
        value = Expression(text)(lambda name: number(lookup(config, name)))
        if value is not None and np.isfinite(value):
            return float(value), text
    return None
