"""The notebook's cells run in order, with few steps; what they show is what they promise."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "vader_in_a_notebook.ipynb"


class Display(ModuleType):
    """What of IPython's display is used, remembered."""

    def __init__(self):
        super().__init__("IPython.display")
        self.shown = []

    def HTML(self, text):
        return text

    def display(self, text, display_id=False):
        self.shown.append(text)
        return self

    def update(self, text):
        self.shown.append(text)


@pytest.fixture
def display(monkeypatch):
    module, made = ModuleType("IPython"), Display()
    module.display = made
    monkeypatch.setitem(sys.modules, "IPython", module)
    return made


def run_cells(folder):
    """Run every code cell as a notebook would; the value of each cell's last line."""
    import ast

    names, values = {"__name__": "__main__"}, []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if source.startswith("%%writefile "):
            first, body = source.split("\n", 1)
            (folder / first.split()[1]).write_text(body, encoding="utf-8")
            continue
        few = source.replace("STEPS = 12", "STEPS = 2")
        few = few.replace('run={"trackers": []},', 'run={"trackers": []}, sampler={"num_steps": 2},')
        tree = ast.parse(few)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        if last is not None:
            values.append(eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names))
    return values


@pytest.mark.slow
def test_the_cells_run_in_order(tmp_path, monkeypatch, display):
    monkeypatch.chdir(tmp_path)
    name, plan, outcome, clips, shape, page = run_cells(tmp_path)
    assert name == "warmth"
    assert plan["reward_queries"] == 4
    assert set(outcome) == {"base", "tuned", "difference", "ci95", "win_rate"}
    assert clips.count("<video") == 4
    assert tuple(shape[:1]) == (2,)
    assert "<iframe srcdoc=" in page
    told = "\n".join(map(str, display.shown))
    assert "step 2/2  warmth" in told
    assert "evaluating 0/4" in told


@pytest.mark.soak
def test_a_real_kernel_runs_it(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    done = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = [output["text"] for cell in done.cells for output in cell.get("outputs", ()) if "text" in output]
    assert not [text for text in told if "IPython" in text]  # it warns of what we show
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
