"""Which sensors a student needs: the page shows the table of the rows, and its sentences hold."""

from pathlib import Path

from experiments.measurements import Measurements
from experiments.memory_students import run as memory_students
from experiments.sensors.run import KEYS, VALUES, table

ROOT = Path(__file__).parents[2]
ROWS = Measurements(ROOT / "results" / "sensors" / "rows.csv", KEYS, VALUES)
PAGE = (ROOT / "docs" / "groups.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def kept(sensors, history=1):
    return f"{ROWS.values('retention', sensors=sensors, history=history).mean():.2f}"


def test_the_page_shows_the_table_of_the_rows():
    assert table(ROWS) + "\n" == (ROOT / "results" / "sensors" / "table.md").read_text(encoding="utf-8")
    assert table(ROWS) in PAGE
    assert "64x64 students learn by DAgger from 20,000" in TEXT and set(ROWS.where().steps) == {20_000}


def test_the_page_says_what_the_rows_say():
    aboard, rates, angles = "IMU, encoders with rates", "encoders with rates", "encoders"
    said = f"a student keeps {kept(aboard)} instead of {kept('everything')}, without an IMU {kept(rates)}, and from"
    assert said in TEXT and f"alone {kept(angles)}." in TEXT
    assert f"rates of the joints: {kept(angles, 4)} from angles, as much as with rates" in TEXT
    assert kept(angles, 4) == kept(rates)
    assert f"motion of the body: {kept(aboard, 4)} with an IMU, {kept(rates, 4)} without." in TEXT
    rows = Measurements(ROOT / "results" / "memory_students" / "rows.csv", memory_students.KEYS, memory_students.VALUES)
    longer = rows.where(task="HalfCheetah-v5", protocol="full", student="history of 4")["retention"].mean()
    assert f"a history of four keeps [{longer:.2f}](memory.md#measured)" in TEXT
