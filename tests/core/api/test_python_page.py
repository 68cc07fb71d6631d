"""Every block of docs/python.md runs, in order, in one process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "python.md"


@pytest.mark.slow
def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 8
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 4"
    assert printed.pop(1) == "text"
    assert printed[1].startswith("torch.Size([1, ")
    assert printed[2].startswith("torch.Size([2, ")
    base, tuned, low, high, rate = map(float, re.sub(r"[\[\],]", "", printed[4]).split())
    assert low <= tuned - base <= high
    assert 0 <= rate <= 1
    assert float(printed[5]) > 0
    assert (tmp_path / "runs" / "from_python" / "report.html").is_file()
    assert len(list((tmp_path / "clips").glob("00-a-red-square-*-seed*.mp4"))) == 2


def test_the_api_is_listed_without_torch():
    code = (
        "import sys; from vader_core import api; assert 'train' in api.__all__; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
