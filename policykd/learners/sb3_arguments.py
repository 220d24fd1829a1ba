"""Where settings of SB3 and its zoo go that policykd has under another name, in another place or not at all."""

from __future__ import annotations

from typing import Any

from policykd.core.fields import require


def steps_between(value: Any) -> Any:
    """SB3's ``train_freq``: the n of ``(n, "step")`` and of a ``TrainFreq``; anything else passes as it is.

    Raises:
        PolicyKDError: it counts episodes.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        return value
    unit = getattr(value[1], "value", value[1])  # of SB3's enumeration, which the command line does not import
    why = (
        "counts episodes, which end at different steps for each learner, but all update at once: give a number of steps"
    )
    require(unit != "episode", "train_freq", (value[0], unit), why)
    return value[0] if unit == "step" else value


def one_list(value: Any) -> Any:
    """SB3's ``net_arch``, where it is a list.

    Raises:
        PolicyKDError: it is a dict, with widths of actor and critics.
    """
    require(not isinstance(value, dict), "net_arch", value, "must be one list of widths, for actor and critics alike")
    return value


def name_of_activation(value: Any) -> Any:
    """SB3's ``activation_fn``: the name of a class such as ``torch.nn.ReLU``."""
    return value.__name__.lower() if isinstance(value, type) else value


def no_function(value: Any) -> Any:
    """SB3's ``clip_range``, where it is a number.

    Raises:
        PolicyKDError: it is a function of what remains of the run.
    """
    require(
        not callable(value), "clip_range", value, "must be a number; clip_range_schedule='linear' lets it fall to 0"
    )
    return value


CONVERTERS = {
    "train_freq": steps_between,
    "net_arch": one_list,
    "activation_fn": name_of_activation,
    "clip_range": no_function,
}
"""Settings that SB3 writes in more than one way, and what reads them."""

ADVICE = {
    "n_timesteps": "the budget is total_timesteps of learn()",
    "total_timesteps": "the budget is total_timesteps of learn()",
    "policy": "policykd makes the networks itself: set net_arch",
    "policy_kwargs": "its entries are settings of their own: net_arch, activation_fn, log_std_init, ortho_init",
    "normalize": "normalize_observation and normalize_reward are settings of the backbone ppo",
    "normalize_kwargs": "normalize_observation and normalize_reward are settings of the backbone ppo",
    "noise_type": "exploration noise is normal, of action_noise_std (ddpg and td3)",
    "noise_std": "it is called action_noise_std (ddpg and td3)",
    "action_noise": "exploration noise is normal, of action_noise_std (ddpg and td3)",
    "use_sde": "there is no state-dependent exploration; leave it out",
    "sde_sample_freq": "there is no state-dependent exploration; leave it out",
    "use_sde_at_warmup": "there is no state-dependent exploration; leave it out",
    "clip_range_vf": "values are not clipped, as in SB3 by default; leave it out",
    "n_critics": "td3 and sac have two critics, ddpg has one, as in SB3 by default; leave it out",
    "stats_window_size": "logs average the latest 100 episodes of every learner, as in SB3 by default; leave it out",
    "optimize_memory_usage": "buffer_dtype='float16' takes half the memory, buffer_on_disk=True takes hardly any",
    "replay_buffer_class": "every learner's replay is policykd's own; leave it out",
    "replay_buffer_kwargs": "every learner's replay is policykd's own; leave it out",
    "rollout_buffer_class": "every learner's rollout is policykd's own; leave it out",
    "rollout_buffer_kwargs": "every learner's rollout is policykd's own; leave it out",
    "env_wrapper": "pass a function that makes the wrapped environment, as env",
    "frame_stack": "pass a function that makes the wrapped environment, as env",
    "env_kwargs": "pass gymnasium.make(id, ...) with them, as env",
    "seed": "seeds=(...) is an argument of the agent, one per group",
    "seeds": "seeds=(...) is an argument of the agent, one per group",
    "device": "device= is an argument of the agent",
    "peers": "peers= is an argument of the agent",
    "method": "method= is an argument of the agent",
    "backbone": "backbone= is an argument of the agent",
    "run_dir": "run_dir= is an argument of the agent",
    "tensorboard_log": "run_dir= is an argument of the agent, and TensorBoard's files are written there",
    "verbose": "learn(progress_bar=True) shows progress",
    "callback": "callback= is an argument of learn()",
    "log_interval": "it is called log_freq, a setting in environment steps",
    "tb_log_name": "run_dir= is an argument of the agent, and TensorBoard's files are written there",
    "eval_env": "every eval_freq steps learners are evaluated on environments of their own; leave it out",
    "reset_num_timesteps": "learn() continues the count; make a new agent to start over",
    "include": "all of an agent is saved; leave it out",
    "exclude": "all of an agent is saved; leave it out",
}
"""Ends of error lines by the name of the setting."""

LOAD_ADVICE = {
    "custom_objects": "files of policykd contain no objects; pass custom parts as method=, backbone= and config=",
    "print_system_info": "a checkpoint records what it was computed by; leave it out",
    "force_reset": "a run always resumes where it stopped; leave it out",
}
"""The same for arguments of SB3's ``load``."""

ATTRIBUTE_ADVICE = {
    "env": "get_env() gives the training environments",
    "set_parameters": "load() reads an agent back",
    "set_random_seed": "seeds=(...) is an argument of the agent, one per group",
}
"""The same for what SB3's agents have beside settings."""
