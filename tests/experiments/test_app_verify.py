"""jopt verify: a run is the same or it is not, and what is not is named."""

import json
import shutil

import pytest

from jopt.train.workdir import FieldError, Workdir


def copy_of(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_verified(app, runs):
    done = app("verify", runs / "a", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "VERIFIED: the run is the same, bit for bit"


def test_what_was_changed_is_named(forked, runs, tmp_path):
    run = copy_of(runs, tmp_path)
    result = json.loads((run / "result.json").read_text())
    mixed = [{"name": "jax", "then": "0.0.1", "now": "0.0.2", "step": 6}]
    changed = {**result, "digest": "0" * 64, "accuracy": 1.5, "changes": mixed}
    (run / "result.json").write_text(json.dumps(changed))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[2] |= {"loss": 0.125, "steps_per_second": 1.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed = (run / "model.jopt").read_bytes()
    (run / "model.jopt").write_bytes(packed[:-1] + bytes([packed[-1] ^ 1]))

    done = forked("verify", run, "--quiet", f"--again={tmp_path / 'again'}")
    assert done.returncode == 1
    different = [line for line in done.stdout.splitlines() if line.startswith("different: ")]
    edits, different = different[:2], different[2:]
    assert [name in edit for name, edit in zip(("result.json", "metrics.jsonl, line"), edits, strict=True)]
    assert len(different) == 4
    assert different[0].startswith(f"different: accuracy of result.json: 1.5 then, {result['accuracy']} now")
    assert different[1] == f"different: digest of result.json: {'0' * 64} then, {result['digest']} now"
    assert different[2].startswith("different: metrics.jsonl, line 3: loss 0.125 then, ")
    size = f"{len(packed):,} bytes"
    last = f"the first of them that differs is byte {len(packed) - 1:,}"
    assert different[3] == f"different: model.jopt: {size} then, {len(packed):,} now, {last}"
    assert f"{run}: This mixes different surroundings: jax 0.0.1, then 0.0.2 from step 6 on. " in done.stdout
    assert "what differs in the environment" not in done.stdout
    assert done.stdout.splitlines()[-1] == "NOT VERIFIED: the run is not the same"
    assert json.loads((tmp_path / "again" / "result.json").read_text())["digest"] == result["digest"]


def test_what_was_given_must_be_names(forked, refused, runs, tmp_path):
    run = copy_of(runs, tmp_path)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "given": 5}))
    for app in (("verify", run), ("export", run, "--format=safetensors")):
        assert "manifest.json is damaged" in (line := refused(forked(*app), 1)) and "'given' is '5'" in line


def test_the_changes_of_a_result_must_be_changes(runs, tmp_path):
    files = Workdir(copy_of(runs, tmp_path))
    for changes, field in ((5, "changes"), ([5], "changes[0].name"), ([{"name": "jax"}], "changes[0].now")):
        files.result.write_text(json.dumps({"digest": "0", "changes": changes}))
        with pytest.raises(FieldError) as caught:
            files.load_edited()
        assert caught.value.field == field


def test_a_run_is_never_its_own_witness(forked, refused, runs):
    done = forked("verify", runs / "a", f"--again={runs / 'a'}")
    assert "is not empty: a run that is there would not be run again" in refused(done, 1)


def test_an_unfinished_run_cannot_be_verified(forked, refused, runs, tmp_path):
    (copy_of(runs, tmp_path) / "result.json").unlink()
    assert "holds no finished run: there is no result.json" in refused(forked("verify", tmp_path / "run"), 1)


def test_one_run_must_be_given(forked, refused):
    assert "RUN must be one run directory, got ''" in refused(forked("verify"), 2)
