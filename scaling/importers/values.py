"""Numbers as foreign logs write them, and texts that must not leave them: secrets, file names, formula cells."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from scaling.errors import ForeignLogError

__all__ = ["ANSI", "digest", "head", "lookup", "number", "one_line", "printable", "redact", "safe_name"]

ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
# np.float64(0.5), numpy.int32(3), tensor(0.5, device='cuda:0'), array(0.5)
_WRAPPED = re.compile(r"^(?:(?:np|numpy|torch)\.)?\w+\(\s*(?:np\.\w+\()?([-+\w.]+)\)?(?:\s*,[^()]*)?\)$")
_LEADING = re.compile(r"^([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=$|[\s(\[\x1b,}])")
_SECRET_NAME = re.compile(
    r"(api[_-]?key|secret|passw(or)?d|credential|private[_-]?key|access[_-]?key|(^|[_.\-/])(auth|hf|wandb)?[_-]?token$)",
    re.I,
)
_SECRET_VALUE = re.compile(
    r"(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{12,}|wandb_v\d_\w{16,}"
    r"|(?<=api_key=)[^\s'\",]+|(?<=API_KEY=)[^\s'\",]+)"
)
_HEX40 = re.compile(r"^[0-9a-f]{40}$")
_COMMIT = re.compile(r"(commit|revision|sha|hash|ref)", re.I)


def number(value: Any) -> float | None:
    """``value`` as a float, NaN and infinities included, or None if it is no number.

    Example:
        >>> number("np.float64(0.5)"), number("Infinity"), number(True), number("0.25(WorkerDict pid=3)")
        (0.5, inf, 1.0, 0.25)
        >>> number("n/a") is None
        True
    """
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:  # a whole number of more than 308 digits
            return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        item = getattr(value, "item", None)
        return number(item()) if callable(item) and getattr(value, "size", 1) == 1 else None
    text = value.strip()
    try:
        return float(text)
    except ValueError:
        pass
    if text in ("True", "true", "False", "false"):
        return float(text in ("True", "true"))
    inner = _WRAPPED.match(text) or _LEADING.match(text)
    if inner:
        try:
            return float(inner[1])
        except ValueError:
            return None
    return None


def lookup(config: Mapping[str, Any], path: str) -> Any:
    """The entry of a nested or flat configuration at a dotted path, or None.

    Example:
        >>> lookup({"trainer": {"nnodes": 2}}, "trainer.nnodes"), lookup({"trainer/nnodes": "2"}, "trainer.nnodes")
        (2, '2')
    """
    here: Any = config
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            break
        here = here[part]
    else:
        return here
    for separator in (".", "/"):
        flat = path.replace(".", separator)
        if flat in config:
            return config[flat]
    return None


def redact(value: Any, name: str = "") -> Any:
    """``value`` without what looks like a secret, by the name it goes by or by its own form.

    Example:
        >>> redact({"lr": 1e-6, "wandb_api_key": "0123456789", "note": "uses hf_abcdefghijklmnopqrstuv"})
        {'lr': 1e-06, 'wandb_api_key': '(redacted)', 'note': 'uses (redacted)'}
    """
    if isinstance(value, Mapping):
        return {str(k): redact(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(v, name) for v in value]
    if isinstance(value, str):
        if _SECRET_NAME.search(name) or (_HEX40.match(value) and not _COMMIT.search(name)):
            return "(redacted)"
        return _SECRET_VALUE.sub("(redacted)", value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(str(value), name)


def safe_name(name: str) -> str:
    """``name`` as one harmless folder name: no separators, no leading dot or dash, no markup, no formula signs.

    Example:
        >>> safe_name("../../etc/passwd"), safe_name("=cmd|' /C calc'!A0"), safe_name("<b>run</b>")
        ('etc-passwd', 'cmd-C-calc-A0', 'b-run-b')
    """
    clean = re.sub(r"[^\w.+@]+", "-", name, flags=re.ASCII)
    clean = re.sub(r"\.{2,}", "-", clean)
    return re.sub(r"-{2,}", "-", clean).strip("-.+@_")[:80] or "run"


def one_line(text: str) -> str:
    r"""A foreign text without line breaks and control characters, at most 200 characters.

    Example:
        >>> one_line("a\nb\x1b[31m")
        'a b [31m'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def printable(text: str) -> str:
    r"""A foreign text without what a terminal would obey.

    Example:
        >>> printable("val/\x1b]0;x\x07math")
        'val/\ufffd]0;x\ufffdmath'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def digest(*parts: Any) -> str:
    """12 hexadecimal digits of a hash over plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def head(path: Any, size: int = 65536) -> bytes:
    """The first bytes of a file.

    Raises:
        ForeignLogError: it cannot be read, or is empty.
    """
    try:
        with open(path, "rb") as f:
            start = f.read(size)
    except OSError as error:
        raise ForeignLogError(f"{path} cannot be read: {error.strerror}; name an existing, readable file") from error
    if not start.strip(b"\x00 \t\r\n"):
        raise ForeignLogError(f"{path} must hold a log, it is empty")
    return start
