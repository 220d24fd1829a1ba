"""Agents of SBX are read from their pickle, which is not run: exactly, or they are refused in one line."""

import base64
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from policykd import PolicyKDError, Teacher
from policykd.teachers.pickles import load
from policykd.teachers.sbx import _dense

DATA = Path(__file__).parent / "data" / "other_libraries"
TASKS = {"sac": "Pendulum-v1", "td3": "Pendulum-v1", "ppo": "CartPole-v1"}


def agent(algorithm):
    return DATA / f"sbx_0.28.0_{algorithm}.zip"


def changed(folder, algorithm, change):
    """A copy of an agent whose pickle was changed."""
    path = folder / f"{algorithm}.zip"
    with zipfile.ZipFile(agent(algorithm)) as archive:
        data = json.loads(archive.read("data"))
    content = base64.b64decode(data["policy"][":serialized:"])
    data["policy"][":serialized:"] = base64.b64encode(change(content)).decode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
    return path


def refused(source, **options):
    with pytest.raises(PolicyKDError) as error:
        Teacher.load(source, "Pendulum-v1", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("algorithm", TASKS)
def test_they_act_as_there(algorithm):
    saved = np.load(agent(algorithm).with_suffix(".npz"))
    teacher = Teacher.load(agent(algorithm), TASKS[algorithm])
    acted, _ = teacher.predict(saved["observations"], deterministic=True)
    np.testing.assert_allclose(acted, saved["actions"], atol=1e-5)


def through(layer, inputs):
    return inputs @ layer["kernel"] + layer["bias"]


def elu(x):
    return np.where(x > 0, x, np.expm1(x))


def layers(algorithm, name):
    """The dense layers of a network, as the reader of pickles finds them."""
    with zipfile.ZipFile(agent(algorithm)) as archive:
        content = base64.b64decode(json.loads(archive.read("data"))["policy"][":serialized:"])
    found = {}
    for key, tensor in _dense(load(io.BytesIO(content), lambda name: None).state[name]).items():
        layer, _, part = key.partition(".")
        found.setdefault(layer, {})[part] = tensor.numpy()
    return found


def test_distributions_and_values_are_read_too():
    observations = np.load(agent("sac").with_suffix(".npz"))["observations"]
    teacher, actor = Teacher.load(agent("sac"), "Pendulum-v1"), layers("sac", "actor_state")
    mean, std = teacher.policy.gaussian(torch.from_numpy(observations))
    hidden = elu(through(actor["Dense_1"], elu(through(actor["Dense_0"], observations))))
    np.testing.assert_allclose(mean, through(actor["Dense_2"], hidden), atol=1e-5)
    np.testing.assert_allclose(std.log(), through(actor["Dense_3"], hidden), atol=1e-5)

    observations = np.load(agent("ppo").with_suffix(".npz"))["observations"]
    teacher, critic = Teacher.load(agent("ppo"), "CartPole-v1"), layers("ppo", "vf_state")
    value = teacher.policy.value(torch.from_numpy(observations))
    hidden = np.tanh(through(critic["Dense_0"], observations))
    np.testing.assert_allclose(value, through(critic["Dense_1"], hidden)[:, 0], atol=1e-5)


def test_nothing_of_the_pickle_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "run",)

    assert "cannot be read as an SBX agent" in refused(changed(tmp_path, "td3", lambda _: pickle.dumps(Bomb())))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"leaky_relu", b"lucky_relu", "its activation_fn is lucky_relu of jax._src.nn.functions, which is unknown"),
        (b"jax._src.nn.functions", b"my_own_pkg.nn.functio", "of my_own_pkg.nn.functio, which is unknown"),
        (b"TD3Policy", b"MyTPolicy", "MyTPolicy of sbx.td3.policies is an unknown network"),
        (b"Actor", b"Actre", "Actre of sbx.td3.policies is an unknown network"),
        (b"Dense_1", b"Dense_8", r"it has parts (Dense_0.bias"),
        (b"_reconstruct_array", b"_construct_an_arra", "its weights are not JAX arrays"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, old, new, said):
    assert len(old) == len(new)
    message = refused(changed(tmp_path, "td3", lambda content: content.replace(old, new)))
    assert said in message and "give the loaded model itself (Teacher.load(model))" in message


@pytest.mark.parametrize(
    ("algorithm", "name", "other", "activation"),
    [("td3", b"leaky_relu", b"lucky_relu", "LeakyReLU"), ("ppo", b"\x04tanh", b"\x04tamh", "Tanh")],
)
def test_an_activation_that_is_given_stands_for_one_that_is_not_known(tmp_path, algorithm, name, other, activation):
    path = changed(tmp_path, algorithm, lambda content: content.replace(name, other))
    saved = np.load(agent(algorithm).with_suffix(".npz"))
    with pytest.raises(PolicyKDError, match=f"{other.decode().strip(chr(4))} of jax.* or give activation="):
        Teacher.load(path, TASKS[algorithm])
    acted, _ = Teacher.load(path, TASKS[algorithm], activation=activation).predict(saved["observations"])
    np.testing.assert_allclose(acted, saved["actions"], atol=1e-5)


def test_a_damaged_pickle_is_one_line(tmp_path):
    for part in range(0, 100, 9):
        path = changed(tmp_path, "sac", lambda content, part=part: content[: len(content) * part // 100])
        assert "cannot be read as an SBX agent" in refused(path)


def test_bounds_of_log_std_that_sb3_has_not(tmp_path):
    limit, other = (b"log_std_min\x94J" + number.to_bytes(4, "little", signed=True) for number in (-20, -10))
    path = changed(tmp_path, "sac", lambda content: content.replace(limit, other))
    assert "log_std bounds differ from SB3's -20 and 2" in refused(path)


def test_options_that_say_nothing_of_it():
    assert "is an SBX agent, which names its algorithm" in refused(agent("sac"), algorithm="SAC")


def test_it_is_found_in_its_folder_with_its_normaliser(tmp_path):
    shutil.copy(agent("sac"), tmp_path / "best_model.zip")
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    env.reset()
    for _ in range(30):
        env.step(np.zeros((1, 1)))
    env.save(str(tmp_path / "vecnormalize.pkl"))
    env.training = False
    saved = np.load(agent("sac").with_suffix(".npz"))
    expected, _ = Teacher.load(agent("sac"), "Pendulum-v1").predict(env.normalize_obs(saved["observations"]))
    acted, _ = Teacher.load(tmp_path, "Pendulum-v1").predict(saved["observations"])
    np.testing.assert_allclose(acted, expected, atol=1e-5)
