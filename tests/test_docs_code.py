"""The code on the first pages, and on that for users of other libraries, runs as it stands there."""

import ast
import builtins
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
FIRST_PAGES = ("quickstart", "peers", "groups", "memory")
PAGE = ROOT / "docs" / "coming_from.md"
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCKS = re.findall(r"## (\w+).*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", [code for _, code in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_the_ten_lines_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"learn\((\d_\d{3})\)", "learn(300)", code).replace("fine_tune(2_000", "fine_tune(100")
    exec(compile(few.replace("2 * 32 * 32", "2 * 32 * 16"), str(PAGE), "exec"), {"__name__": "page"})


def test_every_library_has_its_lines():
    assert [name for name, _ in BLOCKS] == ["Stable", "imitation", "CleanRL", "rsl_rl"]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in FIRST_PAGES)])
def test_the_first_pages_use_no_name_that_they_do_not_make(page):
    made = set(dir(builtins))
    for code in PYTHON.findall((ROOT / page).read_text(encoding="utf-8")):
        nodes = list(ast.walk(ast.parse(code)))
        made |= {(name.asname or name.name).split(".")[0] for node in nodes for name in getattr(node, "names", [])}
        names = [node for node in nodes if isinstance(node, ast.Name)]
        made |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        assert {node.id for node in names} <= made


def test_the_quickstarts_lines_in_python_run_after_its_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for folder in re.findall(r"--run-dir (\S+)", page):  # what the commands above left
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").touch()
    code = PYTHON.findall(page)[0].replace("learn(20_000", "learn(300").replace("evaluate(20", "evaluate(1")
    exec(code.replace('config="quick"', 'config={"net_arch": (8,), "n_eval_episodes": 1}'), {"__name__": "page"})


def test_the_controller_of_the_page_on_teachers_keeps_its_pole_up():
    page = (ROOT / "docs" / "extending" / "teacher.md").read_text(encoding="utf-8")
    made = {}
    exec(PYTHON.findall(page)[0], made)
    assert made["students"].panel.score(made["students"].full_factory, 1, 0).mean == 1_000


def test_the_site_has_no_link_to_a_page_that_only_the_repository_has():
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    on_page_markdown = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["on_page_markdown"]
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.relative_to(ROOT / "docs")
        shown = on_page_markdown(
            path.read_text(encoding="utf-8"), SimpleNamespace(file=SimpleNamespace(src_uri=str(page)))
        )
        up = "../" * len(page.parts)
        assert not re.findall(rf"\]\({re.escape(up)}[^)]*", shown), page
