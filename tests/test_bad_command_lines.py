"""Every bad command line of tests/bad_input ends in one clear line and exit status 2, and leaves nothing behind."""

import shlex
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from sb3_agents import SMALL
from stable_baselines3 import PPO
from tiny import POINT, TINY, contents
from tiny_benchmark import REFERENCE, changed

from experiments.benchmark_size.simulated import simulate
from policykd import DualStudent, TeacherStudent
from policykd.benchmark.results import Results
from policykd.benchmark.spec_file import parse_spec
from policykd.cli import main

CASES = [
    (file.stem, case)
    for file in sorted((Path(__file__).parent / "bad_input").glob("*.yaml"))
    for case in yaml.safe_load(file.read_text(encoding="utf-8"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the command lines name; tests/bad_input/README.md says what it is."""
    folder = tmp_path_factory.mktemp("bad")
    DualStudent(POINT, config=TINY, run_dir=folder / "run").learn(40)
    PPO("MlpPolicy", POINT, policy_kwargs=SMALL, device="cpu").save(folder / "teacher.zip")
    PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=SMALL, device="cpu").save(folder / "pendulum.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(4, 2)).save(str(folder / "program.pt"))
    quick = {"net_arch": (8,), "round_steps": 40, "round_updates": 1, "n_eval_episodes": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("policykd.teachers.TeacherScore.better_than_random", True)
        TeacherStudent(POINT, "teacher.zip", config=quick, run_dir="students").learn(40)
        small = ["--student-widths", "4", "--teacher-widths", "4", "--teacher-epochs", "1", "--epochs", "1"]
        main(["classify", "--run-dir", "classifier", "--examples", "100", *small])
    spec, results = parse_spec(changed()), Results(folder / "results")
    results.begin(spec, changed())
    simulate(spec, results)
    files = {
        "spec.yaml": changed(),
        "module.yaml": changed(tasks={"no_such_module:Task-v0": {"backbones": ["td3"], "reference": REFERENCE}}),
        "path.yaml": changed(methods={"../up": {"method": "dpd"}}),
        "twice.json": '{"peers": 2, "peers": 3}',
        "huge.json": '{"config": {"alpha": 1%s}}' % ("0" * 400),
        "twice_listed.yaml": changed(methods=["dpd", "dpd"]),
        "twice.yaml": changed() + "seeds: 3\n",
        "table.csv": "label,a,b\n" + "0,1,2\n1,2,3\n" * 10,
        "words.csv": "label,a\n" + "".join(f"{k % 2},word{k}\n" for k in range(3_000)),
        "cheetah.txt": "hello\n",
        "cheetah.npz": "hello\n",
        "report.md": "# Title\n<!-- tiny: begin -->\nmine\n",
        "there.mp4": "mine",
        "there/PolicyKD-PointReach-v0.zip": "mine",
        "texts/train.tsv": "label\tsentence\n1\ta\n0\tb\n",
        "texts/dev.tsv": "label\tsentence\n1\ta\n0\tb\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_there_are_enough_of_them():
    assert len(CASES) >= 150
    assert len({case["run"] for _, case in CASES}) == len(CASES)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("group", "case"), CASES, ids=[case["run"] for _, case in CASES])
def test_a_bad_command_line_is_one_line(folder, group, case, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("POLICYKD_DATA", raising=False)
    before = _everything(folder)
    with pytest.raises(SystemExit) as left:
        main(shlex.split(case["run"]))
    said = capfd.readouterr().err
    assert left.value.code == 2
    assert said.startswith("policykd: error: ") and said.count("\n") == 1, said
    assert case["says"] in said
    assert _everything(folder) == before


def _everything(folder):
    """Files and folders, with what is in them."""
    return {**dict.fromkeys(str(path) for path in folder.rglob("*")), **contents(folder)}
