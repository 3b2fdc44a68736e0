"""jopt search: what it cannot do is said in one line."""


def test_a_budget_that_cannot_be_read_is_refused(app, refused, tmp_path):
    path = tmp_path / "search.py"
    path.write_text("from jopt.ablate.budget import Search\n\n\ndef get_config():\n    return Search()\n")
    done = app("search", f"--config={path}", "--budget=accuracy>98", f"--workdir={tmp_path / 'run'}")
    line = refused(done, 2)
    assert "budget must be limits joined by commas: 'accuracy_drop<0.5'" in line and "got 'accuracy>98'" in line
    assert not (tmp_path / "run").exists()
