"""Reading a verl console log in bulk gives the rows that reading it line by line gives, whatever stands in it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaling.errors import ForeignLogError
from scaling.importers import console, verl
from scaling.importers.mapping_file import load_mapping
from scaling.importers.verl_bulk import BulkReader

from .verl_logs import CONFIG, dump, ray, reprs, step_data, three_decimals

MAPPING = load_mapping("verl")
KEYS = [
    b"critic/rewards/mean", b"actor/entropy", b"perf/throughput", b"timing_s/step", b"perf/time_per_step", b"a/b", b"x",
    b"val-core/gsm8k/acc/mean@1", b"val-core/a b/c[0]/acc/mean@1", b"extra/x - y", b"extra/x:y", b"cl\xc3\xa9/z", b"\xff\xfe/z",
    b"global_step",
]  # fmt: skip
ODD = [b"nan", b"inf", b"None", b"", b"True", b"+1.5", b"1_0", b" 5", b"5 ", b"nan(1)", b"9" * 30, b"1e400", b"x - y", b"x - y:z",
       b"0.5)", b"0.5(WorkerDict pid=3)", b"\t5", b"5\r", b"5\x1b[0m", b"\x00", b"\xa05", b"tensor(0.5, device='cuda:0')"]  # fmt: skip
PLAIN = st.one_of(
    st.floats(-1e4, 1e4).map(lambda v: b"%.3f" % v),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda v: repr(v).encode()),
    st.integers(-(10**20), 10**20).map(lambda v: b"%d" % v),
)
WRAPS = [(b"", b""), (b"", b""), (b"np.float64(", b")"), (b"tensor(", b", device='cuda:0')"), (b"torch.tensor(", b")")]
PREFIXES = [b"", b"(TaskRunner pid=7) ", b"\x1b[36m(TaskRunner pid=7)\x1b[0m "]
STRANGE = [
    b"(WorkerDict pid=9) ",
    b"(TaskRunner pid=8) ",
    b"2025-06-18 16:49:37 ",
    b"Progress: 5%|#  | 1/20\r",
    b"x",
    b"\xff ",
]
ENDS = [
    b"",
    b"",
    b"\r",
    b"\r\r",
    b" ",
    b"\x1b[0m",
    b"\x1b[32m [repeated 3x across cluster]\x1b[0m",
    b"(WorkerDict pid=9) done",
]
NOISE = [
    b"", b"step:3 - then we go", b"Step 3: prose", b"step:", b"step:5", b"step:-1 - a/b:1", b"step:1e2 - a/b:1", b"step:007 - a/b:1",
    b"Setting global step to 2", b"x actor_rollout_ref.rollout.n=4 y", b"actor_rollout_ref:", b"actor_rollout_ref: step:3 - a/b:1",
    b"{'actor_rollout_ref': {'a': 1}, 'trainer': {'nnodes': 1}}", b"{'actor_rollout_ref': {'a': [1,", b"b: 3", b"2]}}",
    b"timing_s/step:0.5", b"global_step:3 - a/b:1", b"step:" + b"9" * 40 + b" - a/b:1", b"\xff\xfe\xfd step:4 - a/b:2", b"http://x:80",
    b"Model config after override: {", b"step:3 - a/b:1(TaskRunner pid=7) step:4 - a/b:2", b"critic/rewards/mean:1 - step:9 - a/b:3",
]  # fmt: skip


@st.composite
def logs(draw):
    """A log of few layouts in long runs of lines, so that most lines have a known one, with anything in between."""
    layouts = []
    for _ in range(draw(st.integers(1, 4))):
        keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=5))
        layouts.append([(key, *draw(st.sampled_from(WRAPS))) for key in keys])
    prefix, step, out = draw(st.sampled_from(PREFIXES)), 0, []
    end = draw(st.sampled_from([b"", b"\r"]))
    for _ in range(draw(st.integers(3, 40))):
        kind = draw(st.integers(0, 19))
        if kind < 2:
            out.append(draw(st.sampled_from(PREFIXES)) + draw(st.sampled_from(NOISE)))
            continue
        step = max(0, step + (draw(st.integers(-3, 0)) if kind == 2 else 1))
        pairs = []
        for key, before, after in draw(st.sampled_from(layouts)):
            odd = kind == 3 and draw(st.booleans())
            value = draw(st.sampled_from(ODD)) if odd else draw(PLAIN)
            pairs.append(key + b":" + before + value + after)
        line = b" - ".join([b"step:%d" % step, *pairs])
        before = draw(st.sampled_from(STRANGE)) if kind == 4 else prefix
        out += [before + line + (draw(st.sampled_from(ENDS)) if kind == 5 else end)] * (2 if kind == 6 else 1)
    return b"\n".join(out) + draw(st.sampled_from([b"\n", b"\n", b"", b"\n\n"]))


def everything(path):
    """All that reading a log gives, or the error."""
    try:
        run = verl.read(path, MAPPING)
    except ForeignLogError as error:
        return str(error)
    blocks = [
        (b.segment.tolist(), b.step.tolist(), [(k, c.tobytes()) for k, c in b.columns.items()])
        for b in run.rows.blocks()
    ]
    rows = {k: v for k, v in vars(run.rows).items() if not k.startswith("_")}
    kept = {name: list(value.items()) if isinstance(value, dict) else value for name, value in rows.items()}
    return blocks, repr(kept), list(run.unused.items()), run.skipped, run.config, run.model_config, run.name


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(log=logs(), size=st.sampled_from([64, 300, 1000, 1 << 20]), block=st.sampled_from([3, 2048]))
def test_bulk_equals_line_by_line_on_any_mix(tmp_path, monkeypatch, log, size, block):
    path = tmp_path / "train.log"
    path.write_bytes(log)
    monkeypatch.setattr(console, "CHUNK", size)
    monkeypatch.setattr("scaling.importers.rows.BLOCK_ROWS", block)
    monkeypatch.setattr(verl, "BULK_FROM", 1 << 40)
    slow = everything(path)
    monkeypatch.setattr(verl, "BULK_FROM", 0)
    assert everything(path) == slow


@pytest.mark.parametrize("form", [three_decimals, reprs])
@pytest.mark.parametrize("end", ["", "\r"])
def test_nearly_every_line_of_a_usual_log_is_read_in_bulk(tmp_path, monkeypatch, form, end):
    lines = [*dump(CONFIG)]
    for step in range(1, 401):
        data = step_data(step, evaluated=step % 5 == 0, numpy=form is reprs) | {"actor/unused": float("nan")}
        lines += [ray(form(step, data)) + end, ray("some sample: 1 + 1 = 2", actor="WorkerDict", pid=step)]
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(console, "CHUNK", 16 << 10)
    slow = everything(path)
    monkeypatch.setattr(verl, "BULK_FROM", 64 << 10)
    taken = []
    find = BulkReader.find

    def counted(self, chunk, layouts, lead):
        found = find(self, chunk, layouts, lead)
        taken.append((len(found.start), chunk.count(b" step:")))
        return found

    monkeypatch.setattr(BulkReader, "find", counted)
    assert everything(path) == slow
    assert sum(bulk for bulk, _ in taken) >= sum(all_ for _, all_ in taken) - len(taken) > 250
