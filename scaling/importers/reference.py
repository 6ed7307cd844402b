"""The tables of docs/importing.md, from the shipped mappings themselves: ``python -m scaling.importers.reference``."""

from __future__ import annotations

from scaling.importers.mapping import TrainerMapping
from scaling.importers.mapping_file import load_mapping, shipped
from scaling.importers.names import METRICS, QUANTITIES

__all__ = ["metric_table", "semantics_table"]


def metric_table() -> str:
    """A row a metric and quantity: our name, unit, definition, and each trainer's keys."""
    mappings = [load_mapping(name) for name in shipped() if name != "table"]
    rows = [["name", "unit", "definition", *(m.trainer for m in mappings)]]
    for name, (unit, definition) in (METRICS | QUANTITIES).items():
        rows.append([f"`{name}`", unit, definition, *(_cell(m, name) for m in mappings)])
    return _markdown(rows)


def semantics_table() -> str:
    """A row a trainer: what its numbers mean, and what the mapping is from."""
    rows = [["trainer", "mapping is", "pass@k", "evaluation in the step time", "phases overlap", "rollouts counted"]]
    for name in shipped():
        mapping = load_mapping(name)
        said = mapping.semantics
        if name != "table":
            inside, overlap = said.get("evaluation_in_step_time"), said.get("phases_overlap")
            words = {True: "yes", False: "no", None: "–"}
            rows.append(
                [f"`{name}`", mapping.evidence, str(said.get("pass_at_k", "–")).replace("_", " "),
                 words.get(inside, str(inside)), words[overlap], str(said.get("rollouts_kept", "–"))]
            )  # fmt: skip
    return _markdown(rows)


def _cell(mapping: TrainerMapping, name: str) -> str:
    choice = mapping.metrics.get(name) or mapping.quantities.get(name)
    if choice is not None:
        scale = "" if choice.scale == 1 else f" x {choice.scale:g}"
        return ", ".join(f"`{key}`" for key in choice.keys) + scale
    derived = mapping.derive.get(name)
    return f"= {derived}" if derived else "–"


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


if __name__ == "__main__":
    print(metric_table(), semantics_table(), sep="\n\n")
