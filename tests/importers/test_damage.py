"""Whatever happens to a file, an import gives a table or one line: never another exception, never a negative or infinite cost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError
from scaling.importers import load

from .test_sources import event, state
from .verl_logs import CONFIG, dump, ray, reprs, step_data, three_decimals

CONSOLE = "\n".join(
    [*dump(CONFIG, noise=False), *(ray(three_decimals(s, step_data(s, evaluated=s % 2 == 0))) for s in range(1, 9)),
     *(reprs(s, step_data(s, numpy=True)) for s in range(6, 9))]
).encode()  # fmt: skip
JSONL = "".join(json.dumps({"step": s, "data": step_data(s)}) + "\n" for s in range(1, 9)).encode()
OPENRLHF = "".join(
    f"✨ Global step {s}: {{'reward': 0.5, 'response_length': 9.0, 'policy_loss': 0.1}}\n" for s in range(1, 9)
).encode()
STATE = state([{"step": s, "reward": 0.5, "num_tokens": 10.0 * s, "step_time": 2.0} for s in range(1, 9)], 8).encode()
CSV = ("step,reward,step_seconds,total_tokens\n" + "".join(f"{s},0.5,2,{s}0\n" for s in range(1, 9))).encode()
EVENTS = b"".join(event(s, step_data(s)) for s in range(1, 9))
FILES = {
    "verl console": ("verl", "a.log", CONSOLE), "verl jsonl": ("verl", "a.jsonl", JSONL), "trl": ("trl", "trainer_state.json", STATE),
    "openrlhf": ("openrlhf", "a.log", OPENRLHF), "table": ("table", "a.csv", CSV), "tensorboard": ("tensorboard", "a.tfevents.1", EVENTS),
}  # fmt: skip
SPLICES = [
    b"",
    b"\x00",
    b"\n",
    b"{",
    b"}}",
    b"step:",
    b"nan",
    b"1e999",
    b"-5",
    b" - ",
    b"'",
    b"\xff\xfe",
    b"9" * 400,
    b"np.float64(",
    b"\r",
]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_a_table_or_one_line(tmp_path, name, data):
    source, file, content = FILES[name]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        drop = data.draw(st.sampled_from([0, 1, 3, 40, 400]))
        content = content[:at] + data.draw(st.sampled_from(SPLICES)) + content[at + drop :]
    (tmp_path / file).write_bytes(content)
    try:
        table = load(tmp_path / file, source, gpus=8)
    except ScalingError as error:
        assert "\n" not in str(error)
        return
    costs = [
        c for c in table.steps if c.endswith(("_seconds", "_tokens", "_flops", "rollouts")) and not c.startswith("cum")
    ]
    held = table.steps[costs].to_numpy(float)
    assert (np.nan_to_num(held) >= 0).all() and not np.isinf(held).any()
