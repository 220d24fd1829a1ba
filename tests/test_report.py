"""The page of a benchmark: whole in one file, true to the CSV, and alive in a browser."""

import json
import re
import shutil
import sys
import time

import numpy as np
import pytest
from scipy.stats import trim_mean
from tiny_benchmark import MADE_UP, by_hand, changed

from experiments.benchmark_size.run import spec_text
from experiments.benchmark_size.simulated import simulate
from policykd.benchmark import statistics
from policykd.benchmark.report import VIDEO_BYTES, page_data, write_page
from policykd.benchmark.results import Results
from policykd.benchmark.spec_file import parse_spec
from policykd.benchmark.statistics import summarise
from policykd.cli import main
from policykd.core.errors import PolicyKDError

FAILURE = "RuntimeError: <b>boom</b></script>\n\nTraceback: here"


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """As large a page, sooner: no test here looks at the width of an interval."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RESAMPLES", "CURVE_RESAMPLES"):
            patch.setattr(statistics, name, 20)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page, ``report.html``, beside the results that it shows, with a failed cell and a video."""
    folder = tmp_path_factory.mktemp("report")
    spec, results = parse_spec(MADE_UP), Results(folder / "results")
    results.begin(spec, MADE_UP)
    simulate(spec, results)
    (folder / "results" / f"{spec.cells[-1].name}.json").unlink()  # Hopper-v5/dpd-td3
    results.save_failure(spec.cells[-1], FAILURE)
    (folder / "results" / "HalfCheetah-v5" / "dpd-td3.mp4").write_bytes(b"a small video")
    main(["report", str(folder / "results"), "--out", str(folder / "report.html")])
    return folder


@pytest.fixture(scope="module")
def data(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_numbers_of_the_page_recomputed_from_raw_rows_by_hand(folder, data):
    selected, mean = by_hand(folder / "results", "HalfCheetah-v5", "dpd")
    found = data["backbones"]["td3"]["methods"]["dpd"]["tasks"]["HalfCheetah-v5"]
    np.testing.assert_allclose(found["points"]["selected"], selected, rtol=1e-4)
    np.testing.assert_allclose(found["points"]["mean"], mean, rtol=1e-4)
    assert found["iqm"]["mean"]["at"][0] == pytest.approx(trim_mean(mean, 0.25), rel=1e-4)
    assert (folder / found["raw"]).is_file() and (folder / found["made"]).is_file()
    assert data["steps"] == [200, 400, 600, 800] and len(found["curve"][0]) == 4


def test_the_page_needs_no_network(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["'](?!data:)""", page)
    assert len(page) < 10e6


def test_failures_and_cells_not_run_are_in_the_page_as_text(data, folder):
    assert data["failures"] == {"Hopper-v5/dpd-td3": FAILURE}
    assert data["missing"] == []
    assert "<b>boom</b>" not in (folder / "report.html").read_text(encoding="utf-8")


def test_videos_are_in_the_page_as_far_as_there_is_room(folder, data, tmp_path):
    assert data["videos"] == [
        {"name": "HalfCheetah-v5/dpd-td3", "source": "data:video/mp4;base64,YSBzbWFsbCB2aWRlbw=="}
    ]
    copy = tmp_path / "results"
    shutil.copytree(folder / "results", copy)
    (copy / "HalfCheetah-v5" / "sb3-td3.mp4").write_bytes(bytes(VIDEO_BYTES))
    write_page(summarise(Results(copy)), Results(copy), tmp_path / "page.html")
    assert '"source":"results/HalfCheetah-v5/sb3-td3.mp4"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_ten_tasks_ten_methods_ten_seeds_a_hundred_evaluations_fit(tmp_path):
    """Under 10 MB; the seconds that it takes are measured by experiments/benchmark_size/run.py."""
    text = spec_text(10, 10, 100, ("td3",))
    spec, results = parse_spec(text), Results(tmp_path / "results")
    assert len(spec.cells) == 100 and all(len(cell.seeds) == 10 for cell in spec.cells)
    results.begin(spec, text)
    simulate(spec, results)
    write_page(summarise(results), results, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 10e6


def test_a_page_of_one_seed_has_no_intervals_and_names_every_size_of_a_group(tmp_path):
    text = changed(seeds=1, methods={"sb3": {}, "dpd": {}, "four": {"method": "dpd", "peers": 4}})
    spec, results = parse_spec(text), Results(tmp_path)
    results.begin(spec, text)
    simulate(spec, results)
    page = page_data(summarise(results), results, tmp_path / "report.html")
    assert "NaN" not in json.dumps(page) and page["facts"][1] == "2 or 4 learners per group of peers"
    (found,) = page["backbones"]["td3"]["methods"]["four"]["tasks"].values()
    assert found["iqm"]["mean"]["at"][1:] == [None, None] and found["iqm"]["mean"]["text"].endswith(" [-]")


def test_links_lead_to_files_in_folders_of_any_name(tmp_path):
    spec, results = parse_spec(text := changed(methods=["single"])), Results(tmp_path / "run #1, 50%? é" / "results")
    results.begin(spec, text)
    simulate(spec, results)
    page = page_data(summarise(results), results, tmp_path / "page.html")
    raw = page["backbones"]["td3"]["methods"]["single"]["tasks"]["PolicyKD/PointReach-v0"]["raw"]
    assert raw == "run%20%231%2C%2050%25%3F%20%C3%A9/results/PolicyKD-PointReach-v0/single.csv"


def test_nothing_to_show_is_one_line(tmp_path):
    text = changed()
    Results(tmp_path).begin(parse_spec(text), text)
    with pytest.raises(PolicyKDError, match="has no finished cell yet"):
        write_page(summarise(Results(tmp_path)), Results(tmp_path), tmp_path / "page.html")


def test_tables_are_written_between_markers_and_found_stale(folder, tmp_path, capsys):
    document, results = tmp_path / "BENCHMARK.md", str(folder / "results")
    document.write_text("before\n\n<!-- tiny: begin -->\n<!-- tiny: end -->\n\nafter\n")
    with pytest.raises(SystemExit):
        main(["report", results, "--tables", str(document), "--check"])
    assert "is stale: policykd report" in capsys.readouterr().err
    main(["report", results, "--tables", str(document)])
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "#### HalfCheetah-v5, TD3" in text
    main(["report", results, "--tables", str(document), "--check"])
    document.write_text(text.replace("| 800 |", "| 801 |", 1))
    with pytest.raises(SystemExit):
        main(["report", results, "--tables", str(document), "--check"])


def test_tables_stay_where_the_page_is_refused(folder, tmp_path, monkeypatch, capsys):
    document = tmp_path / "BENCHMARK.md"
    document.write_text(text := "<!-- tiny: begin -->\n<!-- tiny: end -->\n")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)  # not installed
    with pytest.raises(SystemExit):
        main(["report", str(folder / "results"), "--tables", str(document), "--out", str(tmp_path / "page.html")])
    assert "policykd[benchmark]" in capsys.readouterr().err
    assert document.read_text() == text


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, headless, on a narrow screen in dark mode."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (apt install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as browser:
        yield browser


def drawn(browser, chart="curves"):
    """Names of the lines that a chart draws, and their points on the screen."""
    script = """
      const chart = document.getElementById(arguments[0]);
      const traces = (chart._fullData || []).filter((trace) => !trace.name.endsWith("band"));
      const paths = [...chart.querySelectorAll(".scatterlayer .trace path.js-line")];
      return [traces.map((trace) => trace.name), paths.map((path) => path.getAttribute("d"))];
    """
    return browser.execute_script(script, chart)


def click(browser, place, value):
    browser.execute_script(f"document.querySelector('#{place} button[data-value=\"{value}\"]').click()")
    time.sleep(0.2)


def test_in_a_browser_curves_are_drawn_and_choosing_changes_them(folder, browser):
    browser.get((folder / "report.html").as_uri())
    time.sleep(1)
    names, paths = drawn(browser)
    assert names == ["sb3", "single", "independent", "dpd"]
    assert len([path for path in paths if path and path.count("L") >= 3]) >= 4
    click(browser, "methods", "single")
    assert drawn(browser)[0] == ["sb3", "independent", "dpd"]
    click(browser, "methods", "single")
    click(browser, "tasks", "HalfCheetah-v5")
    assert drawn(browser)[0] == names and drawn(browser)[1] != paths
    click(browser, "tasks", "all tasks")  # dpd failed on Hopper, and single does not run there
    assert drawn(browser)[0] == ["sb3", "independent"]
    before = drawn(browser, "final")
    click(browser, "rules", "mean")
    assert before[0] == ["sb3", "independent"] and "mean of peers" in browser.page_source
    assert browser.page_source.count("Not shown, as they have not run on every task: single, dpd.") == 3
    click(browser, "backbones", "ddpg")
    assert drawn(browser)[0] == names and drawn(browser, "profiles")[0] == names
    text = browser.execute_script("return document.body.innerText")
    assert "Hopper-v5/dpd-td3: RuntimeError: <b>boom</b>" in text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_in_a_browser_it_fits_a_phone_and_follows_dark_mode(folder, browser):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    colours = []
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        browser.get((folder / "report.html").as_uri())
        time.sleep(0.7)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert drawn(browser)[0] == ["sb3", "single", "independent", "dpd"]
    assert colours[0] != colours[1]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
