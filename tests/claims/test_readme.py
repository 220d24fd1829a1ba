"""The README's headline figures are those of the committed results; links of all pages lead somewhere."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def line(beginning):
    (found,) = [line for line in README.splitlines() if line.startswith(f"| {beginning}")]
    return found


def test_what_students_keep_is_what_the_rows_say():
    rows = pd.read_csv(ROOT / "results/teacher_student/zoo.csv")
    kept = rows.groupby("teacher")["return_ratio"].mean()
    assert all(f"{ratio:.2f} {teacher}" in line("what a 64x64 student keeps") for teacher, ratio in kept.items())
    assert len(kept) == 3


def test_speed_is_what_the_rows_say():
    for backbone in ("ddpg", "td3", "sac", "ppo"):
        rows = pd.read_csv(ROOT / f"results/speed/{backbone}.csv")
        compiled = rows[(rows["width"] == 64) & (rows["who"] == "2 learners, compiled")]
        assert f"{compiled['ratio'].median():.1f}x {backbone.upper()}" in line("environment steps per second")


def test_the_demo_is_what_its_rows_say():
    means = {}
    for method, phase in (("mutual_shared", "trained"), ("sb3", "final")):
        rows = pd.read_csv(ROOT / f"results/demo/HalfCheetah-v5/{method}.csv")
        means[method] = rows[rows.phase == phase]["return"].mean()
    said = f"they return {means['mutual_shared']:,.0f}, SB3 at its default rate {means['sb3']:,.0f}"
    assert said in line("four peers with different learning rates, one seed")


def test_the_benchmark_says_the_same():
    tables = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    chances = []
    for backbone, tasks in (("TD3", 3), ("DDPG", 1)):
        shown = line(f"DPD, {backbone} | independent peers | {tasks}, 100,000, 10 |")
        chances += re.findall(r"0\.\d\d \[0\.\d\d, 0\.\d\d\]", shown)
        assert "**no gain shown**" in shown
        generated = tables.split(f"#### {backbone}, all its tasks")[1].split("| dpd |")[1].split(" | ")
        assert generated[4].split(" |")[0] == chances[-1]
    assert f"| `dpd` | {' | '.join(chances)} |" in tables


FOLDERS = "docs", "examples", "experiments", "results", "envs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "BENCHMARK.md", *PAGES])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in link or (ROOT / page).parent.joinpath(link).exists(), link


def test_every_page_is_in_the_navigation_of_the_site():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(named) == sorted(page.removeprefix("docs/") for page in PAGES if page.startswith("docs/"))
