"""The code on the page for users of other libraries runs as it stands there."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "coming_from.md"
BLOCKS = re.findall(r"## (\w+).*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("code", [code for _, code in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_the_ten_lines_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"learn\((\d_\d{3})\)", "learn(300)", code).replace("fine_tune(2_000", "fine_tune(100")
    exec(compile(few.replace("2 * 32 * 32", "2 * 32 * 16"), str(PAGE), "exec"), {"__name__": "page"})


def test_every_library_has_its_lines():
    assert [name for name, _ in BLOCKS] == ["Stable", "imitation", "CleanRL", "rsl_rl"]
