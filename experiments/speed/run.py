"""How fast are many learners in one update against one SB3 learner? Both sides in this process, in turn, one thread.

    python -m experiments.speed.run            # DDPG on HalfCheetah-v5, several minutes
    python -m experiments.speed.run --help

Ours includes distillation, a step per update and learner (PPO: 10 per rollout); SB3 has none. One update per
environment step and learner on both sides, with PPO SB3's defaults: 10 epochs over rollouts of 2,048 steps.
SBX, which is SB3 in JAX, is measured too where it is installed (``pip install sbx-rl``).
Writes the raw rows and the tables it prints to ``results/speed/``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import policykd_envs
import torch
import tyro
from stable_baselines3.common.noise import NormalActionNoise

from experiments.speed.cases import RIVALS, WARM_UP, Case, Options, rivals
from experiments.speed.report import sizes, tables, write_rows
from policykd import DualStudent
from policykd.cli import guarded
from policykd.core.compute import one_thread
from policykd.core.files import versions, write_text
from policykd.core.networks import MLP
from policykd.learners import PPO, OffPolicyLearner
from policykd.learners.config import PPOConfig
from policykd.training.loop import Hooks, train
from policykd.training.recipes.replay import LearnFromReplay
from policykd.training.recipes.rollout import LearnFromRollouts


def rival_stepper(rival: str, options: Options, width: int, batch_size: int) -> Callable[[int], None]:
    """A function that trains one learner of SB3 or SBX for n more steps."""
    env = policykd_envs.make(options.env)
    size = int(np.prod(env.action_space.shape or ()))
    settings: dict[str, Any] = {"batch_size": batch_size, "seed": 0, "policy_kwargs": {"net_arch": [width, width]}}
    if rival == "SB3":
        settings["device"] = "cpu"
    if options.backbone != "ppo":
        settings |= {"learning_starts": 100, "train_freq": 1, "gradient_steps": 1}
    if options.backbone in ("ddpg", "td3"):
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    model = getattr(importlib.import_module(RIVALS[rival]), options.backbone.upper())("MlpPolicy", env, **settings)
    return lambda n: model.learn(n, reset_num_timesteps=False, log_interval=100)


def our_agent(options: Options, case: Case) -> DualStudent:
    """Ours, without files and evaluations, as SB3 is here."""
    config = {
        "net_arch": (case.width, case.width),
        "batch_size": case.batch_size,
        "distill_batch_size": case.batch_size,
        **({} if options.backbone == "ppo" else {"buffer_size": 100_000, "learning_starts": 100}),
        "log_freq": 4_000,
        "eval_freq": 0,
        "checkpoint_freq": 0,
        "matmul_precision": case.precision,
    }
    return DualStudent(
        options.env,
        method="dpd",
        backbone=options.backbone,
        seeds=range(case.groups),
        config=config,
        compile=case.compile,
        device="cpu",
    )


def steps_only(agent: DualStudent, steps: int, hooks: Hooks | None = None) -> None:
    """Train for ``steps`` steps of all learners together: the training loop without the evaluation that ends it."""
    end = agent.num_timesteps + steps // len(agent.seeds)
    agent.run.set_end(end)
    agent.ready(steps)
    with agent.computing():
        train(agent.recipe, agent.run, hooks or agent.hooks(), end)


def rate(step: Callable[[int], None], seconds: float, guess: int) -> float:
    """Environment steps per second over about ``seconds``, a multiple of ``guess`` steps."""
    started = time.perf_counter()
    step(guess)
    count = guess * max(1, round(seconds / (time.perf_counter() - started)))
    started = time.perf_counter()
    step(count)
    return count / (time.perf_counter() - started)


def time_per_part(agent: DualStudent, steps: int) -> dict[str, float]:
    """Microseconds per environment step (of one learner) that each part of the loop takes, with timers around them."""
    spent = dict.fromkeys(("physics", "acting", "memory", "update", "logging"), 0.0)

    def timed(part: str, function: Callable) -> Callable:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[part] += time.perf_counter() - started

        return wrapper

    recipe, hooks = agent.recipe, agent.hooks()
    places: list[tuple[Any, str, str]] = [(agent.get_env(), "step_wait", "physics"), (recipe, "act", "acting")]
    if isinstance(recipe, LearnFromRollouts):
        places += [(recipe.rollout, "add", "memory"), (recipe, "step", "update")]
    else:
        assert isinstance(recipe, LearnFromReplay)
        places += [(recipe.replay, "add", "memory"), (recipe.replay, "sample", "memory"), (recipe, "_learn", "update")]
    originals = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, part), function in zip(places, originals, strict=True):
        setattr(owner, name, timed(part, function))
    started = time.perf_counter()
    steps_only(agent, steps, dataclasses.replace(hooks, log=timed("logging", hooks.log)))
    total = time.perf_counter() - started
    for (owner, name, _), function in zip(places, originals, strict=True):
        setattr(owner, name, function)
    parts = {part: seconds / steps * 1e6 for part, seconds in spent.items()}
    return {**parts, "rest of the loop": (total - sum(spent.values())) / steps * 1e6}


def update_gflop(agent: DualStudent) -> float:
    """Billions of floating-point operations in the matrix products of the update, per environment step of a learner.

    Counted: forward products; products for the gradients of parameters; products for the gradients of inputs, only
    where they are needed (in the actor's step those of the critic down to the action, none of its parameters).
    """
    learner, config = agent.learner, agent.config
    assert isinstance(learner, OffPolicyLearner | PPO)

    def products(layers: list[tuple[int, int]]) -> int:
        return sum(inputs * outputs for inputs, outputs in layers)

    networks = learner.actor_network, learner.critic_network
    assert isinstance(networks[0], MLP) and isinstance(networks[1], MLP)
    actor, critic = networks[0].layers, networks[1].layers
    if isinstance(config, PPOConfig):
        return 2 * config.n_epochs * sum(2 * products(net) + products(net[1:]) for net in (actor, critic)) / 1e9
    assert isinstance(learner, OffPolicyLearner)
    actor_all, critic_all = products(actor), products(critic)
    to_action = products(critic[1:]) + learner.action_size * critic[0][1]
    critic_step = actor_all + learner.critics * (3 * critic_all + products(critic[1:]))
    judges = learner.critics if learner.gaussian else 1  # SAC asks both critics about its actions
    actor_step = 2 * actor_all + products(actor[1:]) + judges * (critic_all + to_action)
    distillation = 3 * actor_all + products(actor[1:]) + 2 * learner.critics * critic_all
    delay = getattr(config, "policy_delay", 1)
    per_sample = (
        critic_step * config.batch_size
        + (actor_step * config.batch_size + distillation * config.distill_batch_size) / delay
    )
    return 2 * per_sample / 1e9


def plain_product(width: int, batch_size: int, learners: int) -> float:
    """GFLOP/s of ``torch.bmm`` on the hidden layer's shapes: what a plain matrix product reaches here."""
    a, b = torch.randn(learners, batch_size, width), torch.randn(learners, width, width)
    with one_thread():
        for _ in range(10):
            torch.bmm(a, b)
        count = max(20, int(2e9 / (2 * learners * batch_size * width * width)))
        started = time.perf_counter()
        for _ in range(count):
            torch.bmm(a, b)
        return 2 * learners * batch_size * width * width * count / (time.perf_counter() - started) / 1e9


def measure(options: Options, width: int, batch_size: int) -> tuple[list[dict], list[dict]]:
    """All cases of one network size against SB3; returns raw rows (one per round) and the time per part."""
    cases = [case for case in options.cases if (case.width, case.batch_size) == (width, batch_size)]
    others = {name: rival_stepper(name, options, width, batch_size) for name in rivals()}
    agents = [our_agent(options, case) for case in cases]
    for step in others.values():
        with one_thread():
            step(WARM_UP[options.backbone])
    for case, agent in zip(cases, agents, strict=True):
        print(f"  warming up: {case.name}, {width} wide", flush=True)
        steps_only(agent, WARM_UP[options.backbone] * agent.n_learners)
    raw = []
    for number in range(options.rounds):
        speeds = {}
        for name, step in others.items():
            with one_thread():
                speeds[name] = rate(step, options.seconds, options.unit)
        base = speeds["SB3"]
        common = {"width": width, "batch_size": batch_size, "round": number}
        for name, speed in speeds.items():
            raw.append(_row(common, name, speed, base, 1))
        for case, agent in zip(cases, agents, strict=True):
            ours = rate(functools.partial(steps_only, agent), options.seconds, options.unit * agent.n_learners)
            raw.append(_row(common, case.name, ours, base, agent.n_learners))
        print(f"  round {number + 1} of {options.rounds} done", flush=True)
    parts = []
    for case, agent in zip(cases, agents, strict=True):
        times = time_per_part(
            agent, (2 if isinstance(agent.recipe, LearnFromRollouts) else 10) * options.unit * agent.n_learners
        )
        gflops = update_gflop(agent) / (times["update"] * 1e-6)
        plain = plain_product(width, batch_size, agent.n_learners)
        parts.append({"width": width, "who": case.name, **times, "update_gflops": gflops, "bmm_gflops": plain})
    return raw, parts


def _row(common: dict[str, int], who: str, speed: float, base: float, learners: int) -> dict[str, Any]:
    ratios = {"ratio": speed / base, "ratio_per_learner": speed / base / learners}
    return {**common, "who": who, "steps_per_second": speed, **ratios}


def main(options: Options) -> None:
    """Measure, print and keep."""
    raw: list[dict] = []
    parts: list[dict] = []
    if hasattr(os, "sched_setaffinity"):  # JAX knows no other way to keep to one thread
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for width, batch_size in sizes(options):
        print(f"networks ({width}, {width}), batch {batch_size}", flush=True)
        rows, times = measure(options, width, batch_size)
        raw += rows
        parts += times
    text = tables(options, raw, parts)
    print("\n" + text)
    options.out.mkdir(parents=True, exist_ok=True)
    write_rows(options.out / f"{options.backbone}.csv", raw)
    write_text(options.out / f"{options.backbone}.md", text)
    write_text(options.out / f"{options.backbone}_versions.json", json.dumps(versions(), indent=2) + "\n")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
