"""`rl-scaling import` as a user meets it, and what hostile input must never do."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from scaling.cli import cli
from scaling.errors import RecordError
from scaling.importers import read_runs, write
from scaling.importers.values import number, redact, safe_name
from scaling.runs import load_runs

from .verl_logs import CONFIG, dump, step_data, three_decimals


def call(*arguments):
    return CliRunner().invoke(cli, ["import", *map(str, arguments)])


def make(tmp_path, config=CONFIG, name="train.log"):
    path = tmp_path / name
    rows = [three_decimals(s, step_data(s, evaluated=s % 2 == 0)) for s in range(1, 7)]
    path.write_text("\n".join([*dump(config, noise=False), *rows]) + "\n")
    return path


def test_import_then_load_then_refuse_then_force(tmp_path):
    log, out = make(tmp_path), tmp_path / "runs"
    done = call("verl", log, "--out", out)
    assert done.exit_code == 0, done.output
    assert "6 steps, 3 evaluations" in done.output and "measured" in done.output
    table = load_runs(out)
    assert table.runs["gpu_hours"].item() == pytest.approx(6 * 8 * 42 / 3600, rel=1e-3)
    assert list(table.curves(benchmark="openai/gsm8k")) == table.runs["run_id"].tolist()
    again = call("verl", log, "--out", out)
    assert again.exit_code == 1 and "--force" in again.output
    assert call("verl", log, "--out", out, "--force").exit_code == 0
    assert len(list(out.iterdir())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["train.log", "runs"] or len(list(tmp_path.iterdir())) == 2


def test_explain_writes_nothing_and_out_is_asked_for(tmp_path):
    log = make(tmp_path)
    shown = call("verl", log, "--explain")
    assert shown.exit_code == 0 and "matched (" in shown.output and "unmatched (" in shown.output
    assert list(tmp_path.iterdir()) == [log]
    assert "--out" in call("verl", log).output
    assert "prime-rl" in call("verl", log, "--mapping", "list").output


@pytest.mark.parametrize(
    ("arguments", "say"),
    [
        (("nothing", "x"), "source must be one of"),
        (("verl", "absent.log"), "must exist"),
        (("verl", "{log}", "--mapping", "absent.yaml"), "mapping must be a YAML file"),
        (("verl", "{log}", "--gpus", "-1"), "must be > 0"),
        (("table", "{log}"), "step column"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, say):
    log = make(tmp_path)
    done = call(*(a.format(log=log) for a in arguments), "--out", tmp_path / "runs")
    assert done.exit_code == 1 and say in done.output
    assert done.output.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_only_what_an_import_wrote_is_ever_replaced(tmp_path):
    run = read_runs(make(tmp_path), "verl")[0]
    target = write(run, tmp_path / "runs").path
    record = json.loads((target / "run.json").read_text())
    del record["provenance"]["importer"]
    (target / "run.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match="left alone"):
        write(run, tmp_path / "runs", force=True)


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "/etc/passwd",
        "..",
        "a\x00b",
        "<img src=x onerror=1>",
        "=HYPERLINK(1)",
        "-rf",
        "x" * 500,
        "\u202e evil\nline",
    ],
)
def test_hostile_names_stay_inside_the_output(tmp_path, name):
    config = CONFIG | {"trainer": CONFIG["trainer"] | {"experiment_name": name}}
    out = tmp_path / "deep" / "runs"
    done = call("verl", make(tmp_path, config), "--out", out)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "train.log"]
    (folder,) = out.iterdir()
    assert folder.parent == out and len(folder.name) < 120 and folder.name[0].isalnum()
    assert not set(folder.name) & set("/\\<>=\n\x00 ")
    assert "\n" not in load_runs(out).runs["name"].item()


SECRETS = {
    "wandb_api_key": "0123456789abcdef0123456789abcdef01234567",
    "plain": "fedcba9876543210fedcba9876543210fedcba98",
    "openai": "sk-proj-abcdefghijklmnop1234",
    "nested": {"hf_token": "secret-token-value", "command": "export WANDB_API_KEY=0f0f0f0f0f; run"},
    "list": ["hf_abcdefghijklmnopqrstuvwx"],
}


def test_keys_of_accounts_reach_neither_records_nor_output(tmp_path):
    config = CONFIG | {"secrets": SECRETS, "commit": "aaaabbbbccccddddeeeeffff0000111122223333"}
    done = call("verl", make(tmp_path, config), "--out", tmp_path / "runs", "--explain")
    written = b"".join(p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()) + done.output.encode()
    for secret in (
        b"0123456789abcdef0123",
        b"fedcba98765432",
        b"sk-proj-abc",
        b"secret-token",
        b"0f0f0f0f0f",
        b"hf_abcdef",
    ):
        assert secret not in written
    assert b"aaaabbbbccccdddd" in written  # a commit is not a secret
    assert redact({"max_tokens": 5, "token_count": "7"}) == {"max_tokens": 5, "token_count": "7"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("np.float64(0.5)", 0.5), ("numpy.int32(-3)", -3.0), ("tensor(0.25, device='cuda:0')", 0.25), ("1e-06", 1e-6), ("True", 1.0),
     (b"0.125\x1b[0m", 0.125), ("array(2.5)", 2.5), ("<b>", None), ("", None), ("os.system(1)(2)", None), (10**400, None)],
)  # fmt: skip
def test_numbers_as_logs_write_them(text, value):
    assert number(text) == value


def test_a_folder_name_is_never_empty():
    assert safe_name("///") == "run" == safe_name("")
