"""Runs written before the rooms of the package moved still load, and go on to where they went then."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from policykd import DualStudent, TeacherStudent

OLD = Path(__file__).parent / "data" / "before_the_rooms"
FURTHER = {
    "dpd-ddpg": 200,
    "dpd-td3": 200,
    "dpd-sac": 200,
    "dpd-ppo": 128,
    "dagger-ppo": 100,
    "kickstarting-ppo": 64,
    "kickstarting-sac": 100,
    "fine_tune-ppo": 64,
}
"""Each old run, and the environment steps by which it went on."""


def teacher(observation):
    """The teacher of the old students."""
    return np.clip(-np.asarray(observation)[..., :2], -1, 1).astype(np.float32)


@pytest.mark.parametrize("name", FURTHER)
def test_an_old_run_goes_on_as_it_did(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(OLD / name, folder)
    if name.startswith("dpd"):
        agent = DualStudent.load(folder)
    else:
        agent = TeacherStudent.load(folder, teacher=None if name.startswith("fine_tune") else teacher)
    agent.learn(FURTHER[name])
    led_to = np.load(OLD / f"{name}.npz")
    assert agent.num_timesteps == led_to["steps"]
    for part in set(led_to.files) - {"steps"}:
        found = getattr(agent.learner, part).cpu().numpy()
        # Bit for bit on the machine that wrote them; another one's kernels round in another way.
        np.testing.assert_allclose(found, led_to[part], rtol=1e-3, atol=1e-4)
