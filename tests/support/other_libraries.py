"""Files that rsl_rl 5 and skrl 2 write themselves, and how their own policies act; neither is needed to install."""

import contextlib
import io

import gymnasium as gym
import numpy as np
import torch
from sb3_agents import ACTIONS, OBSERVATIONS
from torch import nn


def rsl_rl(folder, memory=None, distribution="Gaussian", **actor):
    """A file of ``OnPolicyRunner``, after two iterations on noise.

    Returns:
        The file; observations ``(T, B, O)`` of B episodes, and the actions of its inference policy ``(T, B, A)``.
    """
    from rsl_rl.env import VecEnv
    from rsl_rl.runners import OnPolicyRunner
    from tensordict import TensorDict

    def observed(policy):
        beside = torch.zeros(len(policy), 4)
        return TensorDict({"policy": policy, "extra": beside}, batch_size=len(policy))

    class Noise(VecEnv):
        num_envs, num_actions, max_episode_length, device, cfg = 8, ACTIONS, 9, "cpu", {}
        episode_length_buf = torch.zeros(8, dtype=torch.long)

        def get_observations(self):
            return observed(3 * torch.randn(8, OBSERVATIONS) + 1)

        def step(self, actions):
            ended = torch.rand(8) < 0.1
            return self.get_observations(), -actions.square().sum(1), ended.long(), {"time_outs": ended}

    torch.manual_seed(0)
    network = {"hidden_dims": [8], "activation": "elu", "obs_normalization": True}
    of_memory = {"rnn_type": memory, "rnn_hidden_dim": 4} if memory else {}
    config = {
        "num_steps_per_env": 6,
        "save_interval": 1,
        "logger": "tensorboard",
        "obs_groups": {"actor": ["policy"], "critic": ["policy", "extra"]},
        "actor": {
            "class_name": f"rsl_rl.models.{'RNN' if memory else 'MLP'}Model",
            "distribution_cfg": {"class_name": f"rsl_rl.modules.distribution.{distribution}Distribution"},
            **(network | of_memory | actor),
        },
        "critic": {"class_name": "rsl_rl.models.MLPModel", **network},
        "algorithm": {"class_name": "rsl_rl.algorithms.PPO", "num_learning_epochs": 1, "num_mini_batches": 2},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        runner = OnPolicyRunner(Noise(), config, str(folder), "cpu")
        runner.learn(2)
    policy = runner.get_inference_policy()
    policy.reset()
    inputs = 3 * torch.randn(4, 6, OBSERVATIONS) + 1
    with torch.inference_mode():
        actions = [policy(observed(rows)).numpy().copy() for rows in inputs]
    return folder / "model_1.pt", inputs.numpy(), np.stack(actions)


class Noise(gym.Env):
    """Of skrl's agents: observations of noise."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (ACTIONS,), np.float32)

    def _observe(self):
        return (3 * self.np_random.standard_normal(self.observation_space.shape) + 1).astype(np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        return self._observe(), -float(np.square(action).sum()), False, False, {}


def skrl(folder, algorithm="PPO", separately=False):
    """A checkpoint of skrl's PPO or TD3 with a RunningStandardScaler, after some steps on noise.

    Returns:
        The file; observations ``(B, O)``; mean actions of its policy ``(B, A)``; the policy's own network.
    """
    from importlib import import_module

    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.preprocessors.torch import RunningStandardScaler
    from skrl.trainers.torch import SequentialTrainer

    torch.manual_seed(0)
    env = wrap_env(gym.vector.SyncVectorEnv([Noise] * 4))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}

    class Policy(GaussianMixin if algorithm == "PPO" else DeterministicMixin, Model):
        def __init__(self):
            Model.__init__(self, state_space=env.state_space, **spaces)
            (GaussianMixin if algorithm == "PPO" else DeterministicMixin).__init__(self)
            self.net = nn.Sequential(nn.Linear(OBSERVATIONS, 8), nn.ELU(), nn.Linear(8, ACTIONS), nn.Tanh())
            if algorithm == "PPO":
                self.log_std_parameter = nn.Parameter(torch.zeros(ACTIONS))

        def compute(self, inputs, role=""):
            return self.net(inputs["observations"]), ({"log_std": self.log_std_parameter} if algorithm == "PPO" else {})

    class Critic(DeterministicMixin, Model):
        def __init__(self):
            Model.__init__(self, state_space=env.state_space, **spaces)
            DeterministicMixin.__init__(self)
            self.net = nn.Linear(OBSERVATIONS + (ACTIONS if algorithm == "TD3" else 0), 1)

        def compute(self, inputs, role=""):
            parts = [inputs["observations"], *([inputs["taken_actions"]] if algorithm == "TD3" else [])]
            return self.net(torch.cat(parts, 1)), {}

    critics = ("critic_1", "critic_2", "target_critic_1", "target_critic_2") if algorithm == "TD3" else ("value",)
    models = {"policy": Policy(), **{name: Critic() for name in critics}}
    config = {
        "observation_preprocessor": RunningStandardScaler,
        "observation_preprocessor_kwargs": {"size": env.observation_space, "device": "cpu"},
        "experiment": {"directory": str(folder), "experiment_name": "run", "write_interval": 0},
    }
    config["experiment"] |= {"checkpoint_interval": 40, "store_separately": separately}
    if algorithm == "TD3":
        models["target_policy"] = Policy()
        config |= {"batch_size": 8, "random_timesteps": 4, "learning_starts": 4}
    kind = getattr(import_module(f"skrl.agents.torch.{algorithm.lower()}"), algorithm)
    memory = RandomMemory(memory_size=16, num_envs=4, device="cpu")
    agent = kind(models=models, memory=memory, state_space=env.state_space, cfg=config, **spaces)
    trainer = {"timesteps": 40, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(cfg=trainer, env=env, agents=agent).train()
    inputs = 3 * torch.randn(24, OBSERVATIONS) + 1
    with torch.no_grad():
        actions = models["policy"].net(agent._observation_preprocessor(inputs))
    name = "policy" if separately else "agent"
    return folder / "run" / "checkpoints" / f"{name}_40.pt", inputs.numpy(), actions.numpy(), models["policy"]
