"""What is optional ends as a gap with its reason, what the list names ends a stage, and notebooks ask for nothing that
was made in what may fail."""

import ast
import errno
import json
from pathlib import Path

import pytest

from emosafe_lib.study import errors, optional, style

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("0[1-9]*.ipynb"))


def make(kind):
    """An error of a class, the package's own with their three parts."""
    own = isinstance(kind, type) and issubclass(kind, errors.EmosafeError)
    return kind("nano-1", "is wrong", "mend it") if own else kind("it is wrong")


ENDING = [make(kind) for kind in optional.ENDS_A_STAGE]
ENDING += [OSError(number, text, "rows.csv") for number, text in optional.FULL_DISK.items()]
ENDING += [RuntimeError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
PASSING = [RuntimeError("no font"), AssertionError("N must be divisible by block_n"), ImportError("no libcudart")]
PASSING += [OSError(errno.ENOENT, "no such file"), KeyError("glyph"), ValueError(), make(errors.ModelError)]


@pytest.fixture(autouse=True)
def nothing_missing():
    optional.missing.clear()
    yield
    optional.missing.clear()


def test_a_reason_names_no_folder_of_this_machine():
    error = ImportError("/home/somebody/env/lib/libstdc++.so.6: version not found; see https://x.org/a/b")
    assert optional.reason(error) == "ImportError: …/libstdc++.so.6: version not found; see https://x.org/a/b"


@pytest.mark.parametrize("kind", optional.KINDS)
@pytest.mark.parametrize("error", ENDING, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_what_the_list_names_ends_a_stage_whatever_it_comes_from(error, kind):
    with pytest.raises(type(error)), optional.optional(kind, "it"):
        raise error
    assert optional.not_measured() == []


@pytest.mark.parametrize("kind", optional.KINDS)
@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_all_else_is_a_gap_with_its_reason_in_one_line(capsys, error, kind):
    with optional.optional(kind, "it"):
        raise error
    (gap,) = optional.not_measured()
    assert (gap["kind"], gap["name"]) == (kind, "it") and gap["reason"].startswith(type(error).__name__)
    assert capsys.readouterr().out == f"{kind} it: not measured ({gap['reason']})\n"


def test_every_error_of_the_package_but_a_models_ends_a_stage():
    own = set(errors.EmosafeError.__subclasses__())
    assert own - set(optional.ENDS_A_STAGE) == {errors.ModelError}


@pytest.mark.parametrize(
    ("kind", "told"), [("figure", False), ("runtime", False), ("precision", True), ("peer", False)]
)
def test_an_error_of_code_that_sees_messages_is_not_quoted(kind, told):
    with optional.optional(kind, "it"):
        raise ValueError("could not convert string to float: 'a message'")
    assert ("a message" in optional.not_measured()[0]["reason"]) == told


def test_what_works_the_second_time_is_missing_no_longer():
    for fails in (True, False):
        with optional.optional("figure", "lengths"):
            assert not fails
    assert optional.not_measured() == []


def test_a_figure_that_cannot_be_drawn_is_found_out_in_time_closed_and_costs_no_numbers(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt
    import pandas as pd
    from matplotlib.backends import backend_agg

    def no_font(*_, **__):
        raise RuntimeError("no font")

    monkeypatch.setattr(backend_agg.RendererAgg, "draw_text", no_font)
    with optional.optional("figure", "shown"):
        plt.subplots()
    with optional.optional("figure", "saved"):
        style.save_figure(plt.figure().gca().figure, pd.DataFrame({"n": [1]}), tmp_path / "saved.png", "One.")
    assert [gap["name"] for gap in optional.not_measured()] == ["shown", "saved"] and not plt.get_fignums()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved.csv", "saved.txt"]


def names(nodes, kind):
    """The names that statements bind (`ast.Store`) or read (`ast.Load`)."""
    found = [node for top in nodes for node in ast.walk(top) if isinstance(node, ast.Name)]
    return {node.id for node in found if isinstance(node.ctx, kind)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_rests_on_what_is_made_in_an_optional_block(path):
    """Such a name must have had a value before: then the gap leaves that. No `assert` may stand inside either."""
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and ast.unparse(node.items[0]).startswith("run.optional(")
    ]
    assert blocks
    for block in blocks:
        assert not [node for node in ast.walk(block) if isinstance(node, ast.Assert)]
        made = names(block.body, ast.Store)
        outside = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in made]
        inside = {id(node) for other in blocks for node in ast.walk(other)}
        loose = [node for node in outside if id(node) not in inside]
        before = {node.id for node in loose if isinstance(node.ctx, ast.Store) and node.lineno < block.lineno}
        assert {node.id for node in loose if isinstance(node.ctx, ast.Load)} <= before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_of_a_notebook_is_optional(path):
    for cell in json.loads(path.read_text())["cells"]:
        tree = ast.parse("".join(cell["source"])) if cell["cell_type"] == "code" else ast.Module([], [])
        inside = {id(node) for block in ast.walk(tree) if isinstance(block, ast.With) for node in ast.walk(block)}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in inside]
        drawing = {ast.unparse(call.func) for call in calls}
        assert not {
            name for name in drawing if name.startswith("figures.") or name in ("style.save_figure", "style.show")
        }
