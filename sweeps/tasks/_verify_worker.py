"""A process that checks mathematical answers: JSON lines in, JSON lines out. Ends when its input ends.

It runs in a process of its own because math-verify's time limits need the main thread, and because sympy can hang in ways
that only ending the process stops; `sweeps.tasks.verifier` does that.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from typing import Any

from sweeps.tasks.rows import last_boxed

__all__ = ["main"]


@lru_cache(maxsize=4096)
def _gold(text: str) -> tuple[Any, ...]:
    from math_verify import parse

    for shown in (f"\\boxed{{{text}}}", text):
        parsed = parse(shown, parsing_timeout=3)
        if any(not isinstance(form, str) for form in parsed):  # a bare string means: not understood as mathematics
            return tuple(parsed)
    return ()


def _completion(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    final = last_boxed(text)
    if final is not None:  # math-verify would take the first box; the last is the final answer
        text = f"\\boxed{{{final}}}"
    return parse(
        text,
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        parsing_timeout=3,
    )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """One request: ``gold`` alone asks whether it parses, with ``text`` whether they agree, ``text`` alone what it says."""
    from math_verify import verify

    if "text" not in request:
        return {"outcome": "parsed" if _gold(request["gold"]) else "unparsed"}
    parsed = _completion(request["text"])
    if "gold" not in request:
        return {"outcome": "parsed" if parsed else "unparsed", "answer": str(parsed[0]) if parsed else None}
    gold = _gold(request["gold"])
    if not gold or not parsed:
        return {"outcome": "unparsed"}
    return {
        "outcome": "correct" if verify(list(gold), parsed, timeout_seconds=3) else "wrong"
    }  # gold first: not symmetric


def main() -> None:
    """Serve requests until the input ends."""
    import logging

    logging.disable(logging.CRITICAL)  # math-verify logs every failed parse
    _gold("1")  # pay the imports before the first request
    out = sys.stdout
    sys.stdout = sys.stderr  # nothing below may write into the answers
    print(json.dumps({"outcome": "ready"}), file=out, flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # sympy raises anything; the caller counts it
            reply = {"outcome": "error", "reason": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
