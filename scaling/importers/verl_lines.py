"""Step lines of verl's console logger, ``step:7 - critic/rewards/mean:0.433 - ...``: which keys, which numbers.

A run prints a handful of layouts (the keys of a plain step, of one with an evaluation, of one with a checkpoint). A layout
that was seen twice gets an expression that fits lines of exactly its keys and gives the texts of the wanted values; `Rows`
turns those into numbers, thousands at a time. Any other line is taken apart pair by pair.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from scaling.importers.mapping import TrainerMapping
from scaling.importers.values import number

__all__ = ["Layout", "Layouts"]

MAX_FITTED, MAX_KNOWN = 24, 1000
# np.float64(0.5), tensor(0.5, device='cuda:0'): what stands around the number is part of the layout
_WRAPPED = re.compile(r"([A-Za-z_][\w.]*\()([-+\w.]+)(\)|,[^()\n]*\))")
_TAIL = r"[\r \t]*+(?:\x1b\[[0-9;]*m)*+\r*+"


@dataclass(eq=False)
class Layout:
    """The keys of a step line.

    Attributes:
        keys: names of the wanted values, in their order.
        unused: the other names.
        trained: whether one of them is of an optimiser step.
        slashed: whether a name has a slash, as every metric of verl has and prose has not.
        used: lines that had it.
        fit: an expression for its lines, once it was seen twice.
        literals: what stands between the values of its lines, and after the last; none if colons do not tell where they are,
            or no value is wanted.
        slots: which of the values are the wanted ones; the step is the 0th.
    """

    keys: tuple[str, ...]
    unused: tuple[str, ...]
    trained: bool
    slashed: bool
    used: int = 0
    fit: re.Pattern[str] | None = field(default=None, repr=False)
    literals: tuple[bytes, ...] = field(default=(), repr=False)
    slots: tuple[int, ...] = field(default=(), repr=False)


class Layouts:
    """The layouts of one log. Texts are Latin-1, a character a byte; names are decoded as the UTF-8 that they are."""

    def __init__(self, mapping: TrainerMapping) -> None:
        self.mapping = mapping
        self.known: dict[tuple[str, ...], Layout] = {}
        self.fitted: list[Layout] = []
        self._names: dict[str, tuple[str, bool, bool]] = {}

    def match(self, text: str, at: int, end: int) -> tuple[Layout, re.Match[str]] | None:
        """The layout of ``step:...`` from ``at`` to ``end``, and its match: group 1 is the step, the others the values."""
        fitted = self.fitted
        for i, layout in enumerate(fitted):
            if found := layout.fit.fullmatch(text, at, end):  # type: ignore[union-attr]
                if i and layout.used > fitted[i - 1].used:  # the layout of most lines is tried first
                    fitted[i - 1 : i + 1] = layout, fitted[i - 1]
                return layout, found
        return None

    def parse(self, body: str, *, learn: bool) -> tuple[Layout, list[float], int]:
        """Take a line apart: its layout, the wanted values, and how many parts are no pair of a name and a number.

        Args:
            body: what follows ``step:N - ``.
            learn: whether other lines may have this layout (not if the line is torn).
        """
        read: list[tuple[str, str, float]] = []
        bad, held = 0, ""
        pairs = body.split(" - ")
        for i, pair in enumerate(pairs):
            key, colon, raw = (held + pair).rpartition(":")
            if raw.endswith(")") and (outer := _unwrapped(held + pair)):  # a colon inside tensor(0.5, device='cuda:0')
                key, raw = outer
            value = number(raw) if colon else None
            if value is None:
                # a name may contain the separator: join with what follows before giving up
                held = held + pair + " - " if not colon and i + 1 < len(pairs) else ""
                bad += not held
                continue
            held = ""
            read.append((key, raw, value))
        layout = self._layout(tuple(key for key, _, _ in read))
        if learn and not bad and layout.fit is None and layout.used and len(self.fitted) < MAX_FITTED:
            self._fit(layout, read)
            self.fitted.append(layout)
        values: dict[str, float] = {}
        for key, _, value in read:
            name, wanted, _ = self._name(key)
            if wanted:
                values.setdefault(name, value)
        return layout, list(values.values()), bad

    def _layout(self, raw_keys: tuple[str, ...]) -> Layout:
        layout = self.known.get(raw_keys)
        if layout is None:
            names = [self._name(key) for key in raw_keys]
            kept = tuple(dict.fromkeys(name for name, wanted, _ in names if wanted))
            layout = Layout(
                keys=kept,
                unused=tuple(dict.fromkeys(name for name, wanted, _ in names if not wanted)),
                trained=any(trained for _, _, trained in names),
                slashed=any("/" in name for name, _, _ in names),
            )
            if len(self.known) < MAX_KNOWN:
                self.known[raw_keys] = layout
        return layout

    def _name(self, raw: str) -> tuple[str, bool, bool]:
        """A key's name, whether the mapping wants it, whether it is of an optimiser step."""
        found = self._names.get(raw)
        if found is None:
            name = self.mapping.clean(raw.encode("latin-1").decode("utf-8", "replace").strip())
            found = name, self.mapping.wants(name), self.mapping.trains(name)
            if len(self._names) < 10 * MAX_KNOWN:
                self._names[raw] = found
        return found

    def _fit(self, layout: Layout, read: list[tuple[str, str, float]]) -> None:
        parts, literals, slots, seen, closing = [], [], [], set(), ""
        for i, (key, raw, _) in enumerate(read):
            name, wanted, _ = self._name(key)
            wanted = wanted and name not in seen
            seen.add(name)
            around = _WRAPPED.fullmatch(raw)
            before, after = (around[1], around[3]) if around else ("", "")
            literals.append(f"{closing} - {key}:{before}")
            closing = after
            slots += [i + 1] * wanted
            value = r"[^ ,)]++" if around else r"[^ ]++" if i + 1 < len(read) else r"[^ \r\x1b]++"
            parts.append(f"{re.escape(key)}:{re.escape(before)}{f'({value})' if wanted else value}{re.escape(after)}")
        layout.fit = re.compile(r"step:(\d{1,4000}) - " + " - ".join(parts) + _TAIL)
        literals.append(closing)
        if slots and sum(text.count(":") for text in literals) == len(read):
            layout.literals = tuple(text.encode("latin-1") for text in literals)
            layout.slots = tuple(slots)


def _unwrapped(pair: str) -> tuple[str, str] | None:
    """Key and value of a pair whose value is a call, such as ``tensor(0.5, device='cuda:0')``."""
    key, colon, raw = pair.partition("(")[0].rpartition(":")
    value = raw + pair[len(key) + len(colon) + len(raw) :]
    return (key, value) if colon and _WRAPPED.fullmatch(value) else None
