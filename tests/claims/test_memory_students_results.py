"""The table of docs/memory.md is that of the rows, and its sentences hold."""

from pathlib import Path

from experiments.measurements import Measurements
from experiments.memory_students.report import table
from experiments.memory_students.run import KEYS, VALUES

ROOT = Path(__file__).parents[2]
ROWS = Measurements(ROOT / "results" / "memory_students" / "rows.csv", KEYS, VALUES)
PAGE = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_shows_the_table_of_the_rows():
    assert table(ROWS) in PAGE


def kept(task, protocol, student):
    return ROWS.where(task=task, protocol=protocol, student=student)["retention"]


def test_what_memories_keep():
    def cost(student, task="HalfCheetah-v5"):
        return ROWS.where(task=task, protocol="full", student=student)["cpu_seconds"].iloc[0]

    def mean(task, student, protocol="full"):
        return f"{kept(task, protocol, student).mean():.2f}"

    half = "HalfCheetah-v5"
    gru, history, one = (mean(half, student) for student in ("gru of 64", "history of 4", "feed-forward"))
    assert f"it then keeps {history} of its teacher's return on HalfCheetah, and {one} without a memory" in TEXT
    ratio = cost("gru of 64") / cost("history of 4")
    said = f"a history of four observations keeps {history} of the teacher's return, a GRU of 64 units {gru}, in"
    assert f"{said} {ratio:.1f} times its" in TEXT
    assert f"and one observation {one}. A history of eight" in TEXT
    eight, seeing = mean(half, "history of 8"), mean(half, "feed-forward, all observations")
    assert f"no better there than one of four ({eight}). A student that sees the velocities keeps {seeing}." in TEXT
    assert float(eight) < float(history) < float(gru) < float(seeing)
    short = [mean(half, student, "short") for student in ("history of 4", "feed-forward")]
    assert f"the history keeps {short[0]} and one observation {short[1]}." in TEXT
    assert f"{gru} with a GRU, {history} with a history of four observations, {one} with one" in README
    one, four, eight = (mean("Hopper-v5", student) for student in ("feed-forward", "history of 4", "history of 8"))
    worst = kept("Hopper-v5", "full", "history of 8").min()
    said = (
        f"One observation keeps {one}, a history of four {four}, a history of eight {eight} (one of its five students"
    )
    assert f"{said} no more than {worst:.2f})" in TEXT
    memory = mean("Hopper-v5", "gru of 64")
    ratio = cost("gru of 64", "Hopper-v5") / cost("history of 8", "Hopper-v5")
    assert f"The GRU keeps {memory}, no more than either history, in {ratio:.1f} times the time" in TEXT and float(
        memory
    ) < float(four) < float(eight)
    assert f"above its teacher ({mean('Hopper-v5', 'feed-forward, all observations')})" in TEXT

    walker, names = "Walker2d-v5", ("feed-forward", "history of 4", "history of 8", "gru of 64")
    one, four, eight, memory = (mean(walker, student) for student in names)
    worst, seeing = kept(walker, "full", "history of 4").min(), mean(walker, "feed-forward, all observations")
    ratio = cost("gru of 64", walker) / cost("history of 8", walker)
    said = (
        f"One observation keeps {one}, a history of four {four} (one of its five students no more than {worst:.2f}), a"
    )
    assert f"{said} history of eight {eight}. * The GRU keeps {memory}, in {ratio:.1f} times the time" in TEXT
    assert f"A student that sees all keeps {seeing}." in TEXT
    tasks = half, "Hopper-v5", walker
    assert all(float(mean(task, "history of 8")) > 0.8 for task in tasks)
    assert max(mean(task, "feed-forward") for task in tasks) == "0.66" and "and one observation 0.66 at most" in TEXT


def test_what_memories_keep_at_300000_steps():
    names = "feed-forward", "history of 4", "history of 8", "gru of 64"
    for task in ("HalfCheetah", "Hopper", "Walker2d"):
        means = (f"{kept(f'{task}-v5', 'long', name).mean():.2f}" for name in names)
        assert f"| {task} | {' | '.join(means)} |" in TEXT
    four, memory = (ROWS.where(task="Walker2d-v5", protocol="long", student=name) for name in names[1::2])
    assert f"each of the GRU's five students keeps {memory.retention.min():.2f} at least" in TEXT
    assert memory.falls.mean() < memory.teacher_falls.mean()
    ratio = memory.cpu_seconds.iloc[0] / four.cpu_seconds.iloc[0]
    assert f"this takes {ratio:.1f} times the processor time of a history of four." in TEXT

    hopper = [kept("Hopper-v5", "long", name) for name in names]
    worst = min(of.min() for of in hopper[1:])
    assert f"each of the fifteen students with a memory keeps {worst:.2f} at least." in TEXT
    gained = [long.mean() - kept("Hopper-v5", "full", name).mean() for long, name in zip(hopper, names, strict=True)]
    assert gained[0] < 0.1 < min(gained[1:])
