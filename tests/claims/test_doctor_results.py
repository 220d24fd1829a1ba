"""What the doctor says of what was broken on purpose: the page shows the table of the rows, and its sentences hold."""

from pathlib import Path

from experiments.doctor.faults import FAULTS
from experiments.doctor.run import KEYS, SEEDS, VALUES, table
from experiments.measurements import Measurements

ROOT = Path(__file__).parents[2]
ROWS = Measurements(ROOT / "results" / "doctor" / "rows.csv", KEYS, VALUES).where()
PAGE = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def test_the_page_shows_the_table_of_the_rows():
    assert table(ROWS) + "\n" == (ROOT / "results" / "doctor" / "table.md").read_text(encoding="utf-8")
    assert table(ROWS) in PAGE
    assert set(ROWS.fault) == set(FAULTS)


def test_what_is_broken_is_found_and_nothing_where_nothing_is():
    wrong = ROWS[ROWS.state == "wrong"]
    broken = [name for name, fault in FAULTS.items() if fault.check]
    for name in broken:
        assert (wrong[wrong.fault == name].check == FAULTS[name].check).sum() == len(SEEDS) == 3
    assert f"Each of {len(broken)} faults was found in all three diagnoses, and in the six where nothing" in TEXT
    assert len(FAULTS) - len(broken) == 2 and not wrong.fault.isin(set(FAULTS) - set(broken)).any()
    besides = wrong[wrong.check != wrong.expected]
    teachers = besides.check.isin(["return", "recorded return"])
    said = f'{len(besides)} further verdicts were of other checks. {teachers.sum()} are "return" or'
    assert said in TEXT
    assert f"{(~teachers).sum()} are of cloning" in TEXT
    assert set(besides[teachers].fault.str.partition(":")[0]) == {"teacher"}
