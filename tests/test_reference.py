"""References to callables: what they name, what they refuse, and that strangers' configs import nothing."""

import dataclasses
import functools
import sys

import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jopt import keys, prune, quantize
from jopt.config import ConfigError
from jopt.method import Method
from jopt.prune.patterns import Pattern
from jopt.quantize.ranges import Calibration
from jopt.reference import is_reference, name_of, resolve


class Outer:
    class Inner:
        pass

    @classmethod
    def make(cls):
        return cls()


def top_level():
    return 1


renamed, top_level_copy = top_level, top_level


def local():
    def inner():
        pass

    return inner


@pytest.mark.parametrize(
    "target", [top_level, Outer, Outer.Inner, Outer.make, keys.stream, optax.sgd, prune.one_shot]
)
def test_resolve_undoes_name_of(target):
    assert resolve(name_of(target), "field") == target


def test_references_are_told_by_their_form():
    good = ["a:b", "a.b:c", "a.b:C.d", "_x1.y:z_2", "__main__:f"]
    bad = [
        "adam",
        "a.b",
        "a:",
        ":b",
        "a:b:c",
        "a b:c",
        "a:1",
        "a..b:c",
        "cifar10:3.0.2",
        "a:b()",
        "a:b\n",
        "",
        None,
        3,
    ]
    assert [is_reference(text) for text in good] == [True] * len(good)
    assert [is_reference(text) for text in bad] == [False] * len(bad)


BAD = {
    "lambda": lambda x: x,
    "local": local(),
    "partial": functools.partial(top_level),
    "instance": Outer(),
    "jitted twice": functools.wraps(top_level)(lambda: 2),  # says that it is top_level, and is not
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_name_is_refused(name):
    with pytest.raises(ConfigError) as error:
        name_of(BAD[name], "optimizer.name")
    assert error.value.field == "optimizer.name"
    assert error.value.value is BAD[name]


@pytest.mark.parametrize(
    "reference",
    ["no_such_module:f", "jopt.no_such_module:f", "jopt.keys:no_such_name", "jopt.keys:stream.nothing", "not one"],
)
def test_what_does_not_resolve_is_a_config_error(reference):
    with pytest.raises(ConfigError) as error:
        resolve(reference, "optimizer.name")
    assert (error.value.field, error.value.value) == ("optimizer.name", reference)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module that fails once, and one that leaves a mark when it is imported."""
    (tmp_path / "hers_broken.py").write_text("1 / 0\n")
    (tmp_path / "hers_marked.py").write_text("import sys\nsys.hers_ran = True\ndef make(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("hers_broken", "hers_marked"):
        sys.modules.pop(name, None)
    vars(sys).pop("hers_ran", None)


def test_a_module_that_fails_to_import_names_the_field(package):
    with pytest.raises(ConfigError) as error:
        resolve("hers_broken:make", "score")
    assert error.value.field == "score"
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_an_untrusted_config_runs_no_code(package):
    with pytest.raises(ConfigError) as error:
        resolve("hers_marked:make", "score", trusted=False)
    assert error.value.field == "score"
    assert "hers_marked" not in sys.modules and not hasattr(sys, "hers_ran")
    # Our own methods are trusted; what is imported already is not, or a file could name `os:system`.
    assert resolve("jopt.prune:one_shot", "score", trusted=False) is prune.one_shot
    imported = resolve("hers_marked:make", "score")
    assert resolve("hers_marked:make", "score", trusted={"hers_marked"}) is imported
    for text in ("hers_marked:make", "os:system", "jopt.files:os.remove", "jopt.prune.patterns:np.save"):
        with pytest.raises(ConfigError):
            resolve(text, "score", trusted=False)


@pytest.mark.parametrize(
    "text",
    [
        *("jopt.files:sweep", "jopt.data.prepare:main", "jopt.train.packed:load", "jopt.keys:stream"),
        *("jopt.prune_evil:f", "jopt:prune.one_shot", "jopt.train:optim.adam", "jopt.measure.columns:resolve"),
    ],
)
def test_an_untrusted_config_names_methods_and_nothing_else_of_jopt(text):
    with pytest.raises(ConfigError) as error:
        resolve(text, "optimizer.name", trusted=False)
    assert (error.value.field, error.value.value) == ("optimizer.name", text)
    assert "not trusted" in error.value.accepted


def test_a_module_of_jopt_that_the_user_s_own_config_names_is_trusted():
    assert resolve("jopt.keys:stream", "score", trusted={"jopt.keys"}) is keys.stream
    with pytest.raises(ConfigError):
        resolve("jopt.files:sweep", "score", trusted={"jopt.keys"})


def test_every_class_that_a_config_can_name_is_of_a_package_that_is_trusted():
    classes: set[type] = set()
    pending: list[type] = [Method, Pattern, Calibration]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls.__module__.startswith("jopt.") and dataclasses.is_dataclass(cls) and cls.__name__[0] != "_":
            classes.add(cls)
    classes -= {Method}
    assert {prune.Gradual, prune.Block, quantize.Percentile} <= classes
    assert all(resolve(name_of(cls), "method", trusted=False) is cls for cls in classes)


def test_a_package_whose_name_begins_like_ours_is_not_ours():
    with pytest.raises(ConfigError) as error:
        resolve("jopt_evil.module:f", "score", trusted=False)
    assert "not trusted" in error.value.accepted


@given(st.text(st.sampled_from("ab.:_1 ()"), max_size=8))
def test_no_text_is_evaluated(text):
    """A text resolves, or is a ConfigError: nothing else comes out of any text."""
    try:
        resolve(text, "field", trusted=False)
    except ConfigError as error:
        assert error.field == "field"
