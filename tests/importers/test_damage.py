"""Whatever happens to a file, an import gives a table or one line: never another exception, never a negative or infinite cost."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaling.errors import ForeignLogError, ScalingError
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
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


PICKLE = b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."
READERS = [("verl", "a.log"), ("verl", "a.jsonl"), ("openrlhf", "a.log"), ("trl", "trainer_state.json"), ("wandb", "a.wandb"), ("wandb", "a.csv"),
           ("tensorboard", "events.out.tfevents.1.x"), ("mlflow", "m.db"), ("table", "a.csv"), ("table", "a.parquet"), ("table", "a.jsonl")]  # fmt: skip


@pytest.mark.parametrize(("source", "file"), READERS)
@pytest.mark.parametrize(
    "content",
    [b"", b" \n\n", b"\x00" * 100, bytes(range(256)) * 40, PICKLE, "step,reward\n1,2\n".encode("utf-16"), b"[" * 100_000,
     b'{"a":' * 100_000, gzip.compress(CONSOLE)[:400], gzip.compress(CONSOLE)[:200] + b"\xff" * 90 + gzip.compress(CONSOLE)[260:]],
    ids=["empty", "blank", "zeros", "binary", "pickle", "utf-16", "brackets", "objects", "torn gzip", "damaged gzip"],
)  # fmt: skip
def test_what_is_no_log_at_all_is_one_line_from_every_reader(tmp_path, monkeypatch, source, file, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ForeignLogError) as caught:
        load(tmp_path / file, source, **({"cache": False} if source == "wandb" else {}))
    assert str(caught.value).isprintable() or "\ufffd" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert [f.name for f in tmp_path.iterdir()] == [file]


HUGE = 10**30


@pytest.mark.parametrize(
    ("source", "file", "content", "skipped"),
    [
        ("verl", "a.log", f"step:{HUGE} - critic/rewards/mean:0.5\n{three_decimals(1, step_data(1))}\n", 1),
        ("verl", "a.log", f"step:{'9' * 5000} - critic/rewards/mean:0.5\n{three_decimals(1, step_data(1))}\n", 0),
        ("verl", "a.jsonl", "".join(json.dumps({"step": s, "data": step_data(1)}) + "\n" for s in (HUGE, -3, True, 1.5, 1)), 4),
        ("openrlhf", "a.log", "".join(f"Global step {s}: {{'reward': 0.5}}\n" for s in (HUGE, 1)), 1),
        ("trl", "trainer_state.json", state([{"step": s, "reward": 0.5, "step_time": 1.0} for s in (1, HUGE, -1, 1.5, float("nan"))], HUGE), 4),
        ("trl", "trainer_state.json", state([{"step": 1, "reward": 0.5}, 5, {"step": None, "reward": 1}], float("nan")), 1),
        ("table", "a.csv", f"step,reward\n1,0.5\n{HUGE},0.5\n-1,1\n2.5,1\nx,1\nNaN,1\nInfinity,1\n", 6),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_are_counted(tmp_path, source, file, content, skipped):
    (tmp_path / file).write_text(content)
    table = load(tmp_path / file, source, gpus=1)
    assert table.steps["step"].tolist() == [1]
    counts = [int(s.reason.split()[0]) if s.reason[0].isdigit() else 1 for s in table.skipped if "step" in s.reason]
    assert sum(counts) == skipped


def test_an_open_quote_or_a_packed_table_is_refused_not_half_read(tmp_path):
    (tmp_path / "a.csv").write_text('step,reward\n1,"0.5\n2,0.5\n')
    with pytest.raises(ForeignLogError, match="must be CSV"):
        load(tmp_path / "a.csv", "table")
    (tmp_path / "b.csv").write_bytes(gzip.compress(CSV))
    with pytest.raises(ForeignLogError, match="unpack it"):
        load(tmp_path / "b.csv", "table")


@pytest.mark.parametrize("gpus", [float("inf"), float("nan"), 0, -1, 1e300])
def test_devices_are_a_number_of_devices(tmp_path, gpus):
    (tmp_path / "a.csv").write_bytes(CSV)
    with pytest.raises(ForeignLogError, match="--gpus"):
        load(tmp_path / "a.csv", "table", gpus=gpus)
