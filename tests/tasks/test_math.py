"""Math, custom and mixed tasks on local files: formats, checking in processes, refusals, overlap, held-out splits."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scaling.errors import ConfigError, ScalingError
from sweeps.tasks import build
from sweeps.tasks.custom import CustomConfig, guarded, load_function
from sweeps.tasks.math import MathConfig
from sweeps.tasks.mix import MixConfig
from sweeps.tasks.overlap import ngram_overlap
from sweeps.tasks.preflight import preflight
from sweeps.tasks.rows import RowsConfig, last_boxed, load_problems
from sweeps.tasks.verifier import MathVerifier

ASK = [{"role": "user", "content": "What is 6 times 7?"}]
FORMATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # a row as that trainer writes it, and how it is read
    "verl": (
        {
            "data_source": "x",
            "prompt": ASK,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "42"},
            "extra_info": {"index": 0},
        },
        {"format": "verl"},
    ),
    "skyrl": (
        {"prompt": ASK, "env_class": "gsm8k", "reward_spec": {"method": "rule", "ground_truth": "42"}},
        {"format": "skyrl"},
    ),
    "open_instruct": (
        {"messages": [*ASK, {"role": "assistant", "content": "It is 42."}], "ground_truth": ["42"], "dataset": "gsm8k"},
        {"format": "open_instruct"},
    ),
    "openrlhf": ({"input": "What is 6 times 7?", "label": "42"}, {"prompt_column": "input", "answer_column": "label"}),
    "nemo_rl": ({"input": "What is 6 times 7?", "output": "42"}, {"prompt_column": "input", "answer_column": "output"}),
    "trl": ({"prompt": ASK, "solution": "42"}, {"prompt_column": "prompt", "answer_column": "solution"}),
    "gsm8k": (
        {"question": "What is 6 times 7?", "answer": "6*7=42\n#### 42"},
        {"prompt_column": "question", "answer_from": "after_hashes"},
    ),
    "MATH": (
        {"problem": "What is 6 times 7?", "solution": r"So $\boxed{42}$."},
        {"answer_column": "solution", "answer_from": "last_boxed"},
    ),
}


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(workers=1) as shared:
        yield shared


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(n: int) -> list[dict[str, Any]]:
    return [{"problem": f"Add {i} and {i + 1}.", "answer": str(2 * i + 1)} for i in range(n)]


def math_task(path: Path, verifier: MathVerifier, **more: Any) -> Any:
    task = build(MathConfig(name="math", train=RowsConfig(path=str(path)), **{"held_out": 4, **more}))
    task.verifier = verifier
    return task


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", FORMATS)
def test_row_formats_of_other_trainers(name: str, suffix: str, tmp_path: Path):
    row, reading = FORMATS[name]
    found, without = load_problems(RowsConfig(path=str(write(tmp_path / f"rows{suffix}", [row])), **reading))
    [(prompt, answer)] = found
    assert answer == "42" and without == 0
    assert (prompt if isinstance(prompt, str) else prompt[-1]["content"]) == "What is 6 times 7?"


def test_bad_files_are_one_line(tmp_path: Path):
    good = write(tmp_path / "a.jsonl", problems(3))
    with pytest.raises(ConfigError, match=r"must have the column 'question', it has answer, problem"):
        load_problems(RowsConfig(path=str(good), prompt_column="question"))
    with pytest.raises(ConfigError, match="no such file"):
        load_problems(RowsConfig(path=str(tmp_path / "absent.jsonl")))
    (tmp_path / "torn.jsonl").write_text('{"problem": "a", "answer": "1"}\n{"prob')
    with pytest.raises(ConfigError, match=r"torn.jsonl:2 must be a JSON object"):
        load_problems(RowsConfig(path=str(tmp_path / "torn.jsonl")))
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match="must be a parquet file"):
        load_problems(RowsConfig(path=str(tmp_path / "x.parquet")))
    with pytest.raises(ConfigError, match="path must be set"):
        load_problems(RowsConfig(path="???"))
    with pytest.raises(ConfigError, match="rows have none"):
        load_problems(RowsConfig(path=str(good), answer_from="last_boxed"))
    rows = [*problems(3), {"problem": "unanswered", "answer": None}]
    assert load_problems(RowsConfig(path=str(write(tmp_path / "b.jsonl", rows))))[1] == 1


def test_answers_are_checked_gold_first_and_by_value(verifier: MathVerifier):
    cases = [  # completion, gold, outcome
        (r"thus \boxed{0.5}", r"\frac{1}{2}", "correct"),
        (r"\boxed{\frac{2}{4}}", "1/2", "correct"),
        (r"first \boxed{3}, no: \boxed{4}", "4", "correct"),
        ("The answer is 1,234.", "1234", "correct"),
        (r"\boxed{x = 3}", "3", "correct"),
        (r"\boxed{(1,2)}", "(2,1)", "wrong"),
        (r"\boxed{43}", "42", "wrong"),
        ("no idea", "42", "unparsed"),
        ("", "42", "unparsed"),
    ]
    assert verifier.outcomes([c for c, _, _ in cases], [g for _, g, _ in cases]) == [o for _, _, o in cases]
    assert verifier.extract([r"\boxed{\frac{2}{4}}", r"\boxed{0.5}", "none"])[0] == "1/2"


def test_checking_works_off_the_main_thread(verifier: MathVerifier):
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.extend(verifier.outcomes([r"\boxed{42}"], ["42"])))
    thread.start()
    thread.join()
    assert got == ["correct"]


def test_a_check_that_hangs_is_ended_counted_and_does_not_stop_the_next():
    with MathVerifier(workers=1, limit=60.0) as verifier:
        assert verifier.outcomes([r"\boxed{1}"], ["1"]) == ["correct"]
        process = verifier._all[0].process
        import signal

        process.send_signal(signal.SIGSTOP)  # a process that does not answer
        verifier.limit = 0.3
        start = time.monotonic()
        assert verifier.outcomes([r"\boxed{1}"], ["1"]) == ["timeout"]
        assert time.monotonic() - start < 30 and process.poll() is not None
        verifier.limit = 60.0
        assert verifier.outcomes([r"\boxed{1}"], ["1"]) == ["correct"], "a fresh process takes over"
        verifier._all[-1].process.kill()
        verifier._all[-1].process.wait()
        assert verifier.outcomes([r"\boxed{1}"], ["1"]) == ["correct"], "a process that died is replaced"
        assert verifier.counts == {"correct": 3, "timeout": 1}


def test_math_task_splits_and_rewards(tmp_path: Path, verifier: MathVerifier):
    transfer = write(
        tmp_path / "t.jsonl", [{"problem": "ADD 3 and 4", "answer": "7"}, {"problem": "What is one?", "answer": "1"}]
    )
    rows = [*problems(20), problems(20)[5]]
    task = math_task(
        write(tmp_path / "a.jsonl", rows),
        verifier,
        format_weight=0.1,
        benchmarks={"other": RowsConfig(path=str(transfer))},
        ngram=3,
    )
    benches = task.benchmarks()
    assert list(benches) == ["held_out", "other"] and len(benches["held_out"].prompts) == 4
    train = task.training_rows(n=100, seed=0)
    prompts = {row["prompt"] for row in train}
    assert not prompts & {p for b in benches.values() for p in b.prompts}
    assert "Add 3 and 4." not in " ".join(prompts), (
        "a training prompt that is a benchmark prompt up to marks is dropped"
    )
    assert train[:30] == task.training_rows(n=30, seed=0) and train != task.training_rows(n=100, seed=1)
    notes = " | ".join(task.notes())
    assert "1 repeated prompts dropped" in notes and "1 training prompts that are benchmark prompts dropped" in notes
    assert "other: 2 problems, 0 share" in notes
    correct, form = task.reward_functions()
    columns = {"prompts": ["p"] * 3, "answer": ["7"] * 3, "completions": [r"\boxed{7}", "7", r"\boxed{8}"]}
    assert correct(**columns) == [1.0, 1.0, 0.0] and form(**columns) == [0.1, 0.0, 0.1]
    assert (correct.__name__, form.__name__) == ("correct", "format")
    logged: dict[str, float] = {}
    correct(prompts=["p"] * 4, answer=["7"] * 4, completions=["none", "7", "7", "8"], log_metric=logged.__setitem__)
    assert logged == {"verifier/unparsed": 0.25, "verifier/timeout": 0.0, "verifier/error": 0.0}
    assert benches["other"].guess_rate == 0.5, "the best constant guess of a benchmark's own answers"


def test_benchmarks_alone(tmp_path: Path, verifier: MathVerifier):
    rows = RowsConfig(path=str(write(tmp_path / "a.jsonl", problems(6))))
    task = build(MathConfig(name="math", benchmarks={"six": rows}))
    task.verifier = verifier
    assert list(task.benchmarks()) == ["six"]
    assert task.notes() == ["six: 6 problems, 0 share 13 words in a row with a training prompt"]
    with pytest.raises(ConfigError, match="benchmarks only"):
        task.training_rows(n=1, seed=0)
    with pytest.raises(ValueError, match="task.train or task.benchmarks"):
        MathConfig(name="math")


def test_chat_prompts(tmp_path: Path, verifier: MathVerifier):
    task = math_task(write(tmp_path / "a.jsonl", problems(12)), verifier, chat=True, system="Be brief.")
    [row] = task.training_rows(n=1, seed=0)
    assert [m["role"] for m in row["prompt"]] == ["system", "user"] and "boxed" in row["prompt"][1]["content"]
    assert task.reward_functions()[0](
        prompts=[row["prompt"]], completions=[[{"role": "assistant", "content": r"\boxed{1}"}]], answer=["1"]
    ) == [1.0]


def test_unreadable_gold_answers_are_counted_or_refused(tmp_path: Path, verifier: MathVerifier):
    rows = problems(40)
    rows[3]["answer"] = "{"
    path = write(tmp_path / "a.jsonl", rows)
    unread = verifier.unparsed_golds(["{", "7"])
    assert unread == ["{"]
    task = math_task(path, verifier)
    task.benchmarks()
    assert any("1 unreadable gold answers left out, e.g. ['{']" in line for line in task.notes())
    for row in rows[:10]:
        row["answer"] = "{"
    with pytest.raises(ConfigError, match=r"10 of 40 gold answers cannot be read"):
        math_task(write(path, rows), verifier).benchmarks()
    with pytest.raises(ConfigError, match="held_out must be at most half"):
        math_task(write(path, problems(6)), verifier).benchmarks()


def test_overlap_by_ngrams():
    training = ["Alice has five red apples and gives two of them to Bob before lunch today", "short one"]
    evaluation = [
        "Yesterday ALICE has five red apples, and gives two of them to Bob before lunch today!",
        "Alice has six red apples and gives two of them to Bob before lunch today",
        "Short one.",
        "short",
    ]
    assert ngram_overlap(training, evaluation, n=13) == [0, 2]
    assert ngram_overlap(training, evaluation, n=8) == [0, 1, 2]
    assert ngram_overlap([], evaluation) == []


def test_last_boxed_matches_braces():
    assert last_boxed(r"a \boxed{1} b \boxed{\frac{1}{2}} c") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{{1}") is None and last_boxed("none") is None


class TestCustomReward:
    def test_bad_functions_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "user_rewards_a.py").write_text(
            "def long(completions, **_):\n    return [float(len(c)) for c in completions]\n"
        )
        (tmp_path / "user_rewards_b.py").write_text("raise RuntimeError('broken')\n")
        assert load_function("user_rewards_a:long")(completions=["ab"]) == [2.0]
        for path, words in (
            ("nope", "module:function"),
            ("user_rewards_a:none", "it has long"),
            ("user_rewards_b:x", "RuntimeError: broken"),
            ("absent_mod:x", "importing absent_mod failed"),
        ):
            with pytest.raises(ConfigError, match=words):
                load_function(path)

    def test_raising_hanging_and_nonsense(self):
        def reward(completions, how, **_):
            if how == "hang":
                time.sleep(5)
            if how == "raise":
                raise KeyError("gold")
            return {"ok": [1, True], "short": [1.0], "nan": [1.0, float("nan")], "none": None}[how]

        safe = guarded(reward, seconds=0.3)
        assert safe(completions=["a", "b"], how="ok") == [1.0, 1.0] and safe.__name__ == "reward"
        for how, words in {
            "hang": "took more than 0.3 s",
            "raise": "raised KeyError: 'gold'; first completion: 'a'",
            "short": "one number a completion",
            "nan": "finite",
            "none": "list of numbers",
        }.items():
            with pytest.raises(ScalingError, match=words):
                safe(completions=["a", "b"], how=how)

    def test_task(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "user_rewards_c.py").write_text(
            "def ends(completions, answer, **_):\n    return [float(c.endswith(a)) for c, a in zip(completions, answer)]\n"
        )
        path = write(tmp_path / "a.jsonl", [{"problem": f"p{i}", "answer": "{"} for i in range(9)])
        task = build(CustomConfig(train=RowsConfig(path=str(path)), function="user_rewards_c:ends", held_out=2))
        assert task.verify(["x{", "x"], ["{", "{"]) == [1.0, 0.0] and task.reward_functions()[0].__name__ == "ends"
        assert len(task.training_rows(n=20, seed=0)) == 20 and len(task.benchmarks()["held_out"].prompts) == 2


def test_mixture(tmp_path: Path, verifier: MathVerifier):
    math = {"name": "math", "train": {"path": str(write(tmp_path / "a.jsonl", problems(40)))}, "held_out": 4}
    config = {
        "name": "mix",
        "tasks": {"sums": math, "count": {"name": "countdown", "held_out": 3}},
        "weights": {"sums": 3.0, "count": 1.0},
    }
    task = build(MixConfig.model_validate(config))
    task.tasks["sums"].verifier = verifier
    rows = task.training_rows(n=400, seed=0)
    assert sum(row["task"] == "sums" for row in rows) == pytest.approx(300, abs=30)
    assert list(task.benchmarks()) == ["sums/held_out", "count/held_out"]
    sums, count = task.reward_functions()
    assert (sums.__name__, count.__name__) == ("sums", "count")
    first = next(row for row in rows if row["task"] == "sums")
    batch = [first, next(row for row in rows if row["task"] == "count")]
    columns = {
        "prompts": [r["prompt"] for r in batch],
        "answer": [r["answer"] for r in batch],
        "task": ["sums", "count"],
    }
    completions = [f"\\boxed{{{first['answer'].split(chr(30))[1]}}}", "<answer>1</answer>"]
    assert sums(completions=completions, **columns) == [1.0, None] and count(completions=completions, **columns) == [
        None,
        0.0,
    ]
    assert task.verify(completions, columns["answer"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="weights"):
        MixConfig.model_validate({**config, "weights": {"sums": 1.0}})


def test_preflight(tmp_path: Path, verifier: MathVerifier):
    class Tokenizer:
        chat_template = None

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [0] * len(text.split())}

    plain = math_task(write(tmp_path / "a.jsonl", problems(12)), verifier, max_completion_length=50)
    rows = plain.training_rows(n=4, seed=0)
    longest = max(len(r["prompt"].split()) for r in rows)
    assert any(
        "held_out: 4 problems" in note for note in preflight(plain, Tokenizer(), rows=rows, positions=longest + 50)
    )
    with pytest.raises(ConfigError, match="set task.max_completion_length to at most 49"):
        preflight(plain, Tokenizer(), rows=rows, positions=longest + 49)
    with pytest.raises(ConfigError, match="prompts alone do not fit"):
        preflight(plain, Tokenizer(), rows=rows, positions=3)
    chat = math_task(tmp_path / "a.jsonl", verifier, chat=True)
    with pytest.raises(ConfigError, match="no chat template; set task.chat=false"):
        preflight(chat, Tokenizer(), rows=chat.training_rows(n=1, seed=0))
