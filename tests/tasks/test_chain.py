"""The chain task: exclusion over whole streams, arithmetic checked by other means, the guess rate by enumeration."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scaling.errors import ConfigError
from sweeps.tasks import ChainConfig, ChainTask, build

CONF = Path(__file__).resolve().parents[2] / "conf"


def solve(prompt: str, modulus: int) -> list[int]:
    """Results of each step, by reading the text as a person would."""
    words = [w for w in prompt.split() if w not in ".?"]
    value, results = int(words[0]), []
    for operation, operand in zip(words[1::2], words[2::2], strict=True):
        value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[operation] % modulus
        results.append(value)
    return results


def prompts_of(task: ChainTask, input_ids: np.ndarray) -> set[str]:
    return {" ".join(task.tokens[i] for i in row) for row in input_ids[:, : task.prompt_width].tolist()}


def test_no_held_out_problem_in_the_whole_stream_of_the_demo_pretraining_nor_in_rl():
    task = ChainTask(ChainConfig(**yaml.safe_load((CONF / "task" / "chain.yaml").read_text())))
    pretrain = yaml.safe_load((CONF / "pretrain" / "default.yaml").read_text())
    held_out = set(task.benchmarks()["held_out"].prompts)
    assert len(held_out) == task.config.held_out
    seen = 0
    for input_ids, _ in task.pretraining_stream(seed=0, batch=pretrain["batch"], steps=pretrain["steps"]):
        assert not held_out & prompts_of(task, input_ids)
        seen += len(input_ids)
    assert seen == pretrain["batch"] * pretrain["steps"]
    rows = task.training_rows(n=10_000, seed=0)
    assert not held_out & {row["prompt"] for row in rows}


def test_exclusion_works_where_most_draws_would_hit_a_held_out_problem():
    task = ChainTask(
        ChainConfig(
            modulus=5, operands_min=2, operands_max=3, pretraining_operands_min=2, short_operands=3, held_out=80
        )
    )
    held_out = set(task.benchmarks()["held_out"].prompts)
    rng = np.random.default_rng(0)
    raw, _, _ = task._problems(rng, task._rl_operands(rng, 2000), exclude=False)
    assert len(held_out & prompts_of(task, raw)) > 40, "the test must be able to fail"
    for input_ids, _ in task.pretraining_stream(seed=1, batch=256, steps=40):
        assert not held_out & prompts_of(task, input_ids)
    assert not held_out & {row["prompt"] for row in task.training_rows(n=5000, seed=3)}


def test_too_many_held_out_problems_are_refused():
    with pytest.raises(ConfigError, match="held_out"):
        ChainTask(
            ChainConfig(
                modulus=2,
                operations="+",
                operands_min=2,
                operands_max=2,
                pretraining_operands_min=2,
                short_operands=2,
                held_out=9,
            )
        )
    everything = ChainConfig(
        modulus=3,
        operations="+",
        operands_min=2,
        operands_max=2,
        pretraining_operands_min=2,
        short_operands=2,
        held_out=4,
    )
    with pytest.raises(ConfigError, match="too few problems"):
        ChainTask(everything).training_rows(n=1, seed=0)


@settings(max_examples=25, deadline=None)
@given(
    modulus=st.integers(2, 30), most=st.integers(2, 9), fewest=st.integers(2, 9), values=st.integers(1, 4), zero=st.integers(0, 1),
    direct=st.sampled_from([0.0, 0.4]), seed=st.integers(0, 100),
)  # fmt: skip
def test_texts_are_right(modulus: int, most: int, fewest: int, values: int, zero: int, direct: float, seed: int):
    fewest = min(fewest, most)
    config = ChainConfig(
        modulus=modulus, operands_min=fewest, operands_max=most, pretraining_operands_min=2, short_operands=most, held_out=1,
        answer_values=values, smallest_operand=zero if modulus > 2 else 0, direct_share=direct, zipf=0.5,
    )  # fmt: skip
    task = ChainTask(config)
    tokenizer = task.tokenizer()
    input_ids, labels = task.pretraining_batch(np.random.default_rng(seed), 32)
    assert input_ids.shape == labels.shape == (32, task.prompt_width + task.max_completion_length)
    for ids, target in zip(input_ids, labels):
        prompt = tokenizer.decode(ids[: task.prompt_width])
        text = tokenizer.decode(ids[task.prompt_width :], skip_special_tokens=True)
        results = solve(prompt, modulus)
        answer = " ".join(map(str, results[-values:]))
        assert text in (f"= {answer}", " , ".join(map(str, results)) + f" = {answer}")
        assert task.verify([text], [answer]) == [1.0]
        wanted = [*ids[task.prompt_width :][: len(text.split()) + 1]]
        assert wanted[-1] == tokenizer.eos_token_id
        assert target[target != -100].tolist() == wanted and (target[: task.prompt_width] == -100).all()
    for row in task.training_rows(n=8, seed=seed):
        assert row["answer"] == " ".join(map(str, solve(row["prompt"], modulus)[-values:]))
        assert tokenizer(row["prompt"])["input_ids"] == [task.ids[w] for w in row["prompt"].split()]
        assert len(row["prompt"].split()) == task.prompt_width
    bench = task.benchmarks()["held_out"]
    assert [" ".join(map(str, solve(p, modulus)[-values:])) for p in bench.prompts] == list(bench.answers)


@pytest.mark.parametrize("values", [1, 2, 3])
@pytest.mark.parametrize("smallest", [0, 1])
def test_guess_rate_by_enumeration(values: int, smallest: int):
    config = ChainConfig(
        modulus=4,
        operands_min=2,
        operands_max=4,
        short_operands=4,
        held_out=1,
        zipf=1.3,
        answer_values=values,
        smallest_operand=smallest,
    )
    operands = range(smallest, 4)
    weights = {v: (1 + i) ** -1.3 for i, v in enumerate(operands)}
    norm = sum(weights.values())
    share: dict[str, float] = {}
    for count in (2, 3, 4):
        for chain in itertools.product(operands, repeat=count):
            for operations in itertools.product("+-*", repeat=count - 1):
                text = str(chain[0]) + "".join(f" {o} {x}" for o, x in zip(operations, chain[1:]))
                p = np.prod([weights[x] / norm for x in chain]) / 3 ** (count - 1) / 3
                answer = " ".join(map(str, solve(text, 4)[-values:]))
                share[answer] = share.get(answer, 0.0) + float(p)
    assert ChainTask(config).guess_rate == pytest.approx(max(share.values()), rel=1e-12)


def test_guess_rate_is_far_from_one_over_modulus_where_zero_is_a_frequent_operand():
    assert ChainTask(ChainConfig(modulus=20, smallest_operand=0)).guess_rate > 0.2
    assert ChainTask(ChainConfig(modulus=19, smallest_operand=1)).guess_rate < 0.06


def test_slips_are_continued_and_direct_answers_occur_at_their_rates():
    task = ChainTask(ChainConfig(slip_rate=0.3, direct_share=0.25))
    input_ids, _ = task.pretraining_batch(np.random.default_rng(0), 20_000)
    direct = input_ids[:, task.prompt_width] == task.ids["="]
    assert direct.mean() == pytest.approx(0.25, abs=0.02)
    first = input_ids[~direct, task.prompt_width] - task.ids["0"]
    right = [solve(" ".join(task.tokens[i] for i in row), 19)[0] for row in input_ids[~direct, :3].tolist()]
    # a slip draws any residue, the right one included
    assert (first != np.array(right)).mean() == pytest.approx(0.3 * 18 / 19, abs=0.02)


def test_long_share_and_lengths():
    config = ChainConfig(operands_min=3, operands_max=8, pretraining_operands_min=2, short_operands=3, long_share=0.1)
    task = ChainTask(config)
    input_ids, _ = task.pretraining_batch(np.random.default_rng(0), 20_000)
    filler = (input_ids[:, : task.prompt_width] == task.ids["."]).sum(axis=1)
    operands = (task.prompt_width - filler) // 2
    counts = np.bincount(operands, minlength=9) / len(operands)
    assert counts[2:4].sum() == pytest.approx(0.9, abs=0.01) and counts[4:].sum() == pytest.approx(0.1, abs=0.01)
    assert counts[4:9] == pytest.approx([0.02] * 5, abs=0.005)
    rl = np.bincount([row["operands"] for row in task.training_rows(n=6000, seed=0)], minlength=9)
    assert (rl[3:9] > 850).all() and rl[:3].sum() == 0


def test_rows_extend_and_differ_by_seed_and_streams_start_anywhere():
    task = ChainTask(ChainConfig())
    assert task.training_rows(n=3000, seed=5)[:100] == task.training_rows(n=100, seed=5)
    assert task.training_rows(n=50, seed=5) != task.training_rows(n=50, seed=6)
    whole = list(task.pretraining_stream(seed=2, batch=4, steps=6))
    tail = list(task.pretraining_stream(seed=2, batch=4, steps=6, first=4))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(whole[4:], tail, strict=True))


def test_verify_rejects_everything_but_one_answer_at_the_end():
    task = ChainTask(ChainConfig())
    texts = ["1 , 7 = 7", "= 7", "=7", "7", "= 7 = 7", "= 7 7", "", "= 17", "1 , = 7 ,"]
    assert task.verify(texts, ["7"] * len(texts)) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_reward_controls_carry_no_information():
    rows = ChainTask(ChainConfig()).training_rows(n=400, seed=0)
    columns = {"prompts": [r["prompt"] for r in rows], "answer": [r["answer"] for r in rows]}
    completions = [f"1 = {r['answer']}" if i % 2 else "1 = 3 3" for i, r in enumerate(rows)]
    by_kind = {}
    for kind in ("correct", "random", "format"):
        [reward] = ChainTask(ChainConfig(reward=kind)).reward_functions()
        assert reward.__name__ == kind
        by_kind[kind] = np.array(reward(completions=completions, operands=[3] * 400, **columns))
    assert by_kind["correct"].mean() == 0.5 and by_kind["format"].all()
    assert 0.4 < by_kind["random"].mean() < 0.6
    assert abs(np.corrcoef(by_kind["random"], by_kind["correct"])[0, 1]) < 0.15
    same = [columns["prompts"][0]] * 64
    [reward] = ChainTask(ChainConfig(reward="random")).reward_functions()
    drawn = reward(prompts=same, completions=["= 1"] * 64, answer=["1"] * 64)
    assert 0 < sum(drawn) < 64, "equal completions of a group must not share one draw"


def test_forced_trace_never_begins_with_the_answer():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    task = ChainTask(ChainConfig(held_out=512))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(task.tokens),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token equally likely
    ids = task.tokenizer()(list(task.benchmarks()["held_out"].prompts), return_tensors="pt")["input_ids"]
    kwargs = {"do_sample": True, "max_new_tokens": 2, "attention_mask": torch.ones_like(ids), "top_k": 0}
    free = model.generate(ids, **kwargs)[:, ids.shape[1]]
    forced = model.generate(ids, begin_suppress_tokens=task.banned_tokens_for_trace(), **kwargs)[:, ids.shape[1] :]
    assert (free == task.ids["="]).any() and not (forced[:, 0] == task.ids["="]).any()
    assert (forced[:, 1] == task.ids["="]).any(), "only the first token is banned"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"operations": "+/"}, "operations"),
        ({"operands_min": 7}, "operands_min"),
        ({"short_operands": 9}, "short_operands"),
        ({"long_share": 0.1}, "long_share"),
        ({"modulus": 19.0}, "modulus"),
        ({"moduls": 3}, "moduls"),
        ({"slip_rate": 1.0}, "slip_rate"),
    ],
)
def test_bad_settings_are_refused_by_name(change: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        ChainConfig(**change)


@pytest.mark.parametrize("path", sorted((CONF / "task").glob("chain*.yaml")), ids=lambda p: p.stem)
def test_every_chain_yaml_builds(path: Path):
    task = build(ChainConfig(**yaml.safe_load(path.read_text())))
    assert 0 < task.guess_rate < 0.5 and len(task.benchmarks()["held_out"].prompts) == task.config.held_out
