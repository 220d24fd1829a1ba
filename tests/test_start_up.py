"""What may not be imported before it is needed. Modules are counted, not seconds: a busy machine changes nothing."""

import subprocess
import sys

import pytest

from policykd.cli import COMMANDS

LOOKS = "--help", "--hlep"
HEAVY = "torch", "stable_baselines3", "gymnasium", "matplotlib", "pandas", "tyro"


def imported(code, names):
    """Which of the named modules a new interpreter has imported after the code."""
    script = f"import contextlib, sys\nwith contextlib.suppress(SystemExit):\n    {code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(names) & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["--version"], ["tran"], ["--env", "Hopper-v5"]])
def test_the_command_answers_without_importing_torch(words):
    assert not imported(f"from policykd.cli import main; main({words})", HEAVY)


def test_every_command_tells_its_settings_and_refuses_wrong_ones_without_torch():
    words = [[name, word] for name in COMMANDS for word in LOOKS]
    calls = f"from policykd.cli import main\n    for words in {words}:\n        with contextlib.suppress(SystemExit):"
    assert not imported(f"{calls}\n            main(words)", ["torch", "stable_baselines3", "gymnasium", "pandas"])


def test_the_package_is_imported_without_torch_until_a_name_is_asked_for():
    assert not imported("import policykd; dir(policykd)", HEAVY)
    assert imported("from policykd import DualStudent", HEAVY) <= {"torch", "stable_baselines3", "gymnasium", "tyro"}


def test_the_compiler_of_torch_is_not_imported_before_something_is_compiled():
    classes = "from policykd import Distiller, DualStudent, TeacherStudent"
    assert not imported(classes, ["torch._dynamo", "torch._inductor"])


def test_an_update_that_is_not_compiled_imports_no_compiler():
    gradient = "gradient(lambda rows: (rows.square().sum(1), {}), torch.ones(2, 3))"
    asked = f"import torch; from policykd.core.networks import gradient; {gradient}"
    assert not imported(asked, ["torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy"])


def test_every_public_name_can_be_imported():
    import policykd

    assert {name: getattr(policykd, name).__name__ for name in policykd.__all__} == {n: n for n in policykd.__all__}
    assert set(policykd.__all__) <= set(dir(policykd))
    with pytest.raises(AttributeError, match="no attribute 'DualStudnet'"):
        policykd.DualStudnet  # noqa: B018


def test_the_command_line_knows_the_settings_of_every_backbone():
    from policykd.learners import LEARNERS
    from policykd.learners.config import CONFIGS

    assert {name: LEARNERS[name].config_type for name in CONFIGS} == CONFIGS


def test_the_command_line_knows_the_settings_of_every_supervised_method():
    from policykd.distillation.supervised import METHODS
    from policykd.distillation.supervised.config import CONFIGS

    assert {name: METHODS[name].config_type for name in CONFIGS} == CONFIGS and METHODS.keys() == CONFIGS.keys()


def test_defaults_that_the_help_tells_are_those_of_the_parts():
    from policykd.classification import transformer
    from policykd.cli import fidelity as command
    from policykd.cli import text
    from policykd.measure import fidelity

    assert text.EMBEDDING == transformer.EMBEDDING
    assert command.TOLERANCE == fidelity.TOLERANCE
