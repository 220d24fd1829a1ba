"""Students that remember: a history of observations, the same as by hand."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from cue import Cue
from gymnasium.wrappers import FlattenObservation, FrameStackObservation
from policykd_envs.wrappers import StackObservation
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from test_teacher_student import COPY, REPLAY, ROLL, expert
from tiny import POINT

from policykd import TeacherStudent
from policykd.cli import main
from policykd.core.errors import PolicyKDError
from policykd.core.networks import MLP
from policykd.core.recurrent import GRU
from policykd.core.seeding import env_seed
from policykd.export.c import to_c
from policykd.export.onnx import to_onnx, to_onnx_int8
from policykd.export.policy import Policy
from policykd.export.stateful import Episodes
from policykd.export.torchscript import to_torchscript
from policykd.memory.sequences import LabelledSequences
from policykd.tasks.views import View
from policykd.teachers import Teacher
from policykd.training.recipes.recurrent_imitation import counted_steps

FRAMES = 3


def stacked():
    return FlattenObservation(FrameStackObservation(gym.make(POINT), FRAMES))


def test_a_history_that_needs_more_than_the_memory_is_one_line():
    with pytest.raises(PolicyKDError, match=r"200 states with a history of 1,000,000,000 need .* lower history"):
        View(4, 4, history=10**9).stack_history(np.zeros((200, 4), np.float32), np.zeros(200, bool))


@pytest.mark.parametrize(
    ("method", "backbone", "config"),
    [("dagger", "ppo", COPY), ("kickstarting", "ppo", ROLL), ("kickstarting", "td3", REPLAY)],
)
def test_a_history_learns_what_a_frame_stack_by_hand_learns(method, backbone, config):
    config = {**config, "teacher_std": 0.2}
    short = {**config, "history": FRAMES, "student_observations": (2, 3)}
    agent = TeacherStudent(POINT, expert, method=method, backbone=backbone, seeds=(0, 3), config=short).learn(160)
    columns = tuple(4 * frame + column for frame in range(FRAMES) for column in (2, 3))
    by_hand = TeacherStudent(
        stacked,
        lambda observation: expert(observation[..., -4:]),
        method=method,
        backbone=backbone,
        seeds=(0, 3),
        config={**config, "student_observations": columns},
    ).learn(160)
    assert torch.equal(agent.learner.actor, by_hand.learner.actor)
    np.testing.assert_array_equal(agent.evaluate(2, seed=1).returns, by_hand.evaluate(2, seed=1).returns)


def test_the_wrapper_is_gymnasiums_two():
    ours, theirs = StackObservation(gym.make(POINT), FRAMES), stacked()
    assert ours.observation_space == theirs.observation_space
    for seed in (1, 2):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        for action in np.random.default_rng(0).uniform(-1, 1, (5, 2)):
            np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])


@pytest.fixture(scope="module")
def student():
    config = {**COPY, "history": FRAMES, "student_observations": (2, 3)}
    return TeacherStudent(POINT, expert, seeds=(0, 3), config=config).learn(200)


@pytest.mark.parametrize("who", ["agent", "policy", "teacher"])
def test_flags_for_other_numbers_of_episodes_are_one_line(student, who):
    asked = {
        "agent": lambda: student,
        "policy": lambda: Policy(student),
        "teacher": lambda: Teacher.load(student, POINT),
    }
    policy, rows = asked[who](), np.zeros((3, 4), np.float32)
    _, state = policy.predict(rows, state=None, episode_start=[True])  # one for all, as broadcast
    with pytest.raises(PolicyKDError, match="episode_start has 2 flags for 3 observations"):
        policy.predict(rows, state=state, episode_start=[True, False])


def test_predict_remembers_an_episode_and_forgets_it(student):
    plain, seen = gym.make(POINT), student.factory()
    state, start = None, np.ones(1, bool)
    for seed in (5, 6):
        observation, inputs = plain.reset(seed=seed)[0], seen.reset(seed=seed)[0]
        start[:] = True
        for _ in range(5):
            action, state = student.predict(observation[None], state, start, learner=1)
            np.testing.assert_array_equal(action, student.predict(inputs[None], learner=1)[0])
            observation, inputs, start = plain.step(action[0])[0], seen.step(action[0])[0], np.zeros(1, bool)
    with pytest.raises(PolicyKDError, match="the state has shape"):
        student.predict(np.zeros((3, 4), np.float32), state)


def test_sb3s_callback_evaluates_it_on_the_plain_task():
    config = {**COPY, "history": 2, "student_observations": (2, 3)}
    callback = EvalCallback(DummyVecEnv([lambda: Monitor(gym.make(POINT))]), n_eval_episodes=1, eval_freq=5, verbose=0)
    TeacherStudent(POINT, expert, config=config).learn(40, callback=callback)
    assert -150 < callback.last_mean_reward < 0


def test_sb3_evaluates_it_on_the_plain_task(student):
    def task():
        env = gym.make(POINT)
        env.reset(seed=9)
        return env

    plain, seen = DummyVecEnv([task, task]), DummyVecEnv([lambda: student.view.wrap(task())] * 2)
    returns = [evaluate_policy(student, envs, 4, return_episode_rewards=True, warn=False)[0] for envs in (plain, seen)]
    assert returns[0] == returns[1]


@pytest.mark.parametrize("kind", ["history", "units", "both"])
def test_it_can_teach_in_its_turn(kind, student, tmp_path, request):
    if kind == "units":
        student = request.getfixturevalue("recurrent")
    if kind == "both":
        config = {**SHORT, "history": 2, "student_observations": (2, 3)}
        student = TeacherStudent(POINT, expert, backbone="sac", seeds=(0, 3), config=config).learn(80)
    student.save(tmp_path / "student")
    live, saved = Teacher.load(student, POINT), Teacher.load(tmp_path / "student.safetensors", POINT)
    assert live.remembers
    rows = np.random.default_rng(0).normal(size=(4, 2, 4)).astype(np.float32)
    states, start = [None] * 3, np.ones(2, bool)
    for row in rows:
        answers = []
        for i, policy in enumerate((student, live, saved)):
            action, states[i] = policy.predict(row, state=states[i], episode_start=start)
            answers.append(action)
        np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
        np.testing.assert_allclose(answers[2], answers[0], atol=1e-5)
        start = np.array([False, True])


SHORT = {**COPY, "gru": 6, "bptt_steps": 5, "burn_in": 2, "n_envs": 2}


def test_units_are_torchs_and_forget_where_an_episode_starts():
    network, generator = GRU(3, 4, MLP((7, 5, 2), activation="tanh")), np.random.default_rng(0)
    rows = torch.stack([network.initialise(generator) for _ in range(2)])
    assert rows.shape == (2, network.parameter_count)
    inputs, state = torch.randn(2, 6, 5, 3), torch.randn(2, 5, 4)
    starts = torch.zeros(2, 6, 5)
    starts[0, 3, 1] = starts[1, 0, 4] = 1
    outputs, after = network.unroll(rows, inputs, starts, state)
    for k, row in enumerate(rows):
        units = torch.nn.GRU(3, 4)
        parts = row.split(network.sections)
        shapes = (3, 12), (4, 12), (12,), (12,)
        for parameter, part, shape in zip(units.parameters(), parts, shapes, strict=False):
            parameter.data.copy_(part.view(shape).t() if len(shape) == 2 else part)
        for b in range(5):
            hidden, read = state[k, b].view(1, 1, 4), []
            for t in range(6):
                hidden = hidden * (1 - starts[k, t, b])
                answer, hidden = units(inputs[k, t, b].view(1, 1, 3), hidden)
                read.append(torch.cat((answer.view(4), inputs[k, t, b])))
            expected = network.head(parts[-1].unsqueeze(0), torch.stack(read).unsqueeze(0))[0]
            torch.testing.assert_close(outputs[k, :, b], expected, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(after[k, b], hidden.view(4), atol=1e-6, rtol=1e-5)
    first = network(rows, inputs[:, 0])
    torch.testing.assert_close(first, network.unroll(rows, inputs[:, :1], torch.ones(2, 1, 5), state)[0][:, 0])


def test_gradients_through_time_are_those_of_finite_differences():
    network = GRU(2, 3, MLP((5, 4, 1)))
    torch.manual_seed(0)
    rows = torch.stack([network.initialise(np.random.default_rng(seed)) for seed in (0, 1)]).double()
    inputs, state = torch.randn(2, 4, 3, 2).double(), torch.randn(2, 3, 3).double()
    starts = torch.zeros(2, 4, 3).double()
    starts[0, 2, 1] = starts[1, 0, 0] = 1
    arguments = [tensor.requires_grad_() for tensor in (rows, inputs, state)]
    assert torch.autograd.gradcheck(lambda r, x, s: network.unroll(r, x, starts, s), arguments)
    with torch.no_grad():
        plain = network.unroll(*arguments[:2], starts, state)
    torch.testing.assert_close(network.unroll(*arguments[:2], starts, state), plain, rtol=0, atol=0)


def test_steps_of_the_burn_in_count_only_in_an_episode_that_starts_in_the_window():
    starts = torch.zeros(1, 5, 2)
    starts[0, 1, 1] = 1
    counts = counted_steps(starts, 3)
    assert (counts[0, :, 0] > 0).tolist() == [False, False, False, True, True]
    assert (counts[0, :, 1] > 0).tolist() == [False, True, True, True, True]
    assert counts.mean().item() == pytest.approx(1)


def test_windows_are_pieces_of_one_environments_steps():
    memory = LabelledSequences(12, 2, 1, 1, 1, 1)
    for step in range(9):  # the ring holds six steps of two environments
        rows = torch.tensor([[[float(step)], [100.0 + step]]])
        memory.add(rows, -rows, torch.tensor([[0.0, 1.0]]), rows + 0.5)
    assert memory.size == memory.capacity == 12
    drawn = memory.sample(200, 3, [np.random.default_rng(0)])
    first = drawn.observations[0, 0, :, 0]
    assert set(first.tolist()) == {3.0, 4.0, 5.0, 6.0, 103.0, 104.0, 105.0, 106.0}
    for t in range(3):
        assert torch.equal(drawn.observations[0, t, :, 0], first + t)
        assert torch.equal(drawn.answers[0, t, :, 0], -first - t)
        assert torch.equal(drawn.starts[0, t] == 1, first > 50)
    assert torch.equal(drawn.state[0, :, 0], first + 0.5)
    assert memory.sample(50, 9, [np.random.default_rng(0)], recent=4).observations.shape == (1, 2, 50, 1)


def test_states_follow_the_steps_from_the_oldest_on_across_the_seam():
    memory, seen = LabelledSequences(6, 1, 1, 1, 1, 1), []
    for step in range(9):
        row = torch.full((1, 1, 1), float(step))
        memory.add(row, row, torch.zeros(1, 1), 100 + row)

    def say(observations, starts, state):
        seen.append((observations.item(), state.item()))
        return state + 1

    memory.recompute_states(say)
    assert seen == [(3.0 + n, 103.0 + n) for n in range(6)]
    memory.storage[..., -1] += 10
    memory.recompute_states(lambda observations, starts, state: state + 2)
    assert sorted(memory.storage[0, :, 0, -1].tolist()) == [113.0 + 2 * n for n in range(6)]


def test_a_full_ring_that_was_saved_goes_on_where_it_was():
    saved, again = (LabelledSequences(6, 1, 1, 1, 1, 1) for _ in range(2))
    for step in range(10):
        row = torch.full((1, 1, 1), float(step))
        saved.add(row, row, torch.zeros(1, 1), row)
        if step == 7:
            again.restore({name: torch.clone(v) if torch.is_tensor(v) else v for name, v in saved.state().items()})
        if step > 7:
            again.add(row, row, torch.zeros(1, 1), row)
    order = []
    again.recompute_states(lambda observations, starts, state: order.append(observations.item()) or state)
    assert order == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0] and again.total == 10


@pytest.fixture(scope="module")
def recurrent():
    return TeacherStudent(POINT, expert, seeds=(0, 3), config={**SHORT, "student_observations": (2, 3)}).learn(200)


def test_a_state_is_forgotten_where_an_episode_starts(recurrent):
    rows = np.random.default_rng(0).normal(size=(4, 2, 4)).astype(np.float32)
    state = None
    for row in rows:
        before = state
        _, state = recurrent.predict(row, state, np.zeros(2, bool), learner=1)
    again, kept = recurrent.predict(rows[-1], before, np.array([True, False]), learner=1)
    fresh = recurrent.predict(rows[-1], None, np.ones(2, bool), learner=1)[0]
    followed = recurrent.predict(rows[-1], before, learner=1)[0]
    np.testing.assert_allclose(again[0], fresh[0], atol=1e-6)
    np.testing.assert_allclose(again[1], followed[1], atol=1e-6)
    assert np.abs(again[0] - followed[0]).max() > 1e-4
    assert kept[0].shape == (2, 6)
    with pytest.raises(PolicyKDError, match="the state has shape"):
        recurrent.predict(rows[0][:1], state)


def test_units_learn_from_logged_episodes_what_an_observation_does_not_tell():
    """The cue of an episode's first observation is what must be done in all of it, as an expert did."""
    generator = np.random.default_rng(0)
    cues, episodes = generator.choice([-1.0, 1.0], 41), np.repeat(np.arange(41), 6)
    seen = np.where(np.arange(246) % 6 == 0, cues[episodes], 0.0)
    rows = np.stack((seen, cues[episodes]), 1)
    config = {**SHORT, "gru": 16, "net_arch": (16,), "bptt_steps": 6, "burn_in": 2, "student_observations": (0,)}
    config |= {"n_envs": 4, "distill_batch_size": 96, "distill_learning_rate": 5e-3, "round_updates": 50, "history": 1}
    student = TeacherStudent(Cue, lambda o: o[..., 1:], seeds=(0, 3), config={**config, "eval_freq": 0})
    student.learn_from({"observations": rows, "episodes": episodes}, 150)
    memory = student.recipe.dataset
    assert memory.size == 248  # four pieces of 62, the first two states once more
    kept = memory.storage[0, :62, :, 0].T.flatten()
    np.testing.assert_array_equal(kept, np.append(seen, seen[:2]).astype(np.float32))
    starts = memory.storage[0, :62, :, -17].T.flatten().nonzero().flatten()
    assert starts.tolist() == list(range(0, 248, 6))
    assert memory.storage[0, 1:62, :, -16:].any(-1).all()  # what is not known at first is renewed round by round
    assert student.learner.observation_stats.mean[0].item() == pytest.approx(seen.mean(), abs=1e-5)
    for cue in (-1.0, 1.0):
        state, start = None, np.ones(1, bool)
        for t in range(6):
            action, state = student.predict(np.array([[cue * (t == 0)]]), state, start, learner=1)
            start = np.zeros(1, bool)
        assert abs(action[0, 0] - cue) < 0.3
    assert student.learn(8).recipe.dataset.size == 256  # its own steps follow
    with pytest.raises(PolicyKDError, match="does not say which states form an episode"):
        student.learn_from({"observations": rows}, 1)


def of_the_cue():
    """Students of the cue, whose episodes have 12 steps, after 30 steps of two environments and before any update."""
    config = {**SHORT, "student_observations": (0,), "divergence": "mse", "round_steps": 1000}
    config["normalize_observation"] = False  # it would change what earlier observations say
    return TeacherStudent(Cue, lambda o: o[..., 1:], seeds=(0, 3), config=config).learn(60)


def test_steps_are_kept_with_what_students_remembered_before_them():
    agent = of_the_cue()
    memory, network = agent.recipe.dataset, agent.network
    seen, _, starts, states = memory.storage[:, :30].split(memory.sections, dim=-1)
    state = torch.zeros(2, 2, 6)
    for t in range(30):
        first = torch.full((2, 1, 2), float(t in (0, 12, 24)))
        assert torch.equal(starts[:, t, :, 0], first[:, 0]) and torch.equal(seen[:, t, :, 0] != 0, first[:, 0] == 1)
        torch.testing.assert_close(states[:, t], state, atol=1e-6, rtol=0)
        _, state = network.unroll(agent.learner.actor[:, : network.parameter_count], seen[:, t : t + 1], first, state)
    torch.testing.assert_close(agent.recipe.hidden.state, state, atol=1e-6, rtol=0)


def test_a_gradient_step_is_on_the_steps_of_windows_that_count():
    agent, drawn, made = of_the_cue(), [], []
    recipe, network, sample = agent.recipe, agent.network, agent.recipe.dataset.sample
    recipe.dataset.sample = lambda *asked: drawn.extend((sample(*asked), asked[-1])) or drawn[0]
    recipe.distillation.optimise = lambda gradients, learning_rate: made.append(gradients)
    recipe.teach(torch.tensor(1e-3), False, 40)
    (seen, answers, starts, state), recent = drawn
    assert recent == 40
    assert starts.shape == (2, 7, 6)  # 2 of burn-in and 5, as often as makes up 32 steps
    begun = [[starts[k, :, b].nonzero().flatten().tolist() for b in range(6)] for k in (0, 1)]
    assert {bool(places) for row in begun for places in row} == {False, True}
    rows = agent.learner.actor.clone().requires_grad_()
    means, _ = network.unroll(rows[:, : network.parameter_count], seen, starts, state)
    total = torch.zeros(())
    for k in (0, 1):
        counted = [(t, b) for b in range(6) for t in range(7) if t >= min([2, *begun[k][b]])]
        errors = [(means[k, t, b, 0] - answers[k, t, b, 0]).square() for t, b in counted]
        total = total + torch.stack(errors).mean()
    (expected,) = torch.autograd.grad(total, rows)
    torch.testing.assert_close(made[0], expected, atol=1e-6, rtol=1e-4)


def test_windows_of_the_most_recent_steps_are_of_all_environments_latest():
    memory = LabelledSequences(40, 2, 1, 1, 1, 1)
    for step in range(27):  # the ring holds twenty steps of two environments
        rows = torch.tensor([[[float(step)], [100.0 + step]]])
        memory.add(rows, rows, torch.zeros(1, 2), rows)
    drawn = memory.sample(300, 3, [np.random.default_rng(0)], recent=10)
    assert set(drawn.state[0, :, 0].tolist()) == {22.0, 23.0, 24.0, 122.0, 123.0, 124.0}
    assert drawn.observations.max() == 126


def test_where_a_round_is_shorter_than_a_window_the_latest_steps_reach_back_to_make_one():
    """With many environments a round is a few steps of each, and none of them would count."""
    config = {**SHORT, "n_envs": 8, "round_steps": 16, "burn_in": 4, "bptt_steps": 4}
    agent = TeacherStudent(POINT, expert, method="student_driven", config=config).learn(160)
    before = agent.learner.actor.clone()
    agent.recipe.step(0.0)
    assert agent.recipe.info["distill/loss"].item() > 0 and not torch.equal(agent.learner.actor, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gru": 4, "dataset_size": 39, "burn_in": 4}, "dataset_size=39 keeps no steps of n_envs=8 .* burn_in=4"),
        ({"gru": None, "dataset_size": 7}, "n_envs=8 exceeds what the data set keeps"),
    ],
)
def test_a_data_set_too_small_for_the_environments_is_one_line(changes, message):
    with pytest.raises(PolicyKDError, match=message):
        TeacherStudent(POINT, expert, config={**SHORT, "n_envs": 8, **changes})


def test_nothing_reaches_over_a_seam_between_steps_that_do_not_follow_one_another(tmp_path):
    """Logged episodes are cut among environments, and steps of running episodes go on behind them."""
    agent = TeacherStudent(POINT, expert, config={**SHORT, "n_envs": 2}).learn(20)
    states = {"observations": np.random.default_rng(0).normal(size=(10, 4)), "episodes": np.zeros(10, int)}
    agent.learn_from(states, 2).learn_from(states, 2)
    agent.save(tmp_path / "seam", include_replay=True)
    agent = TeacherStudent.load(tmp_path / "seam", teacher=expert).learn(20)
    memory = agent.recipe.dataset
    starts = memory.storage[0, : memory.filled, :, -7]
    assert starts[1:].nonzero().tolist() == [[9, 0], [9, 1], [14, 0], [14, 1], [19, 0], [19, 1]]
    assert starts[:, 0].tolist().count(1) == 3 and starts[:, 1].tolist().count(1) == 1  # where episodes start


def test_states_are_renewed_along_the_steps_that_are_kept(recurrent):
    recipe = recurrent.recipe
    before = recipe.dataset.storage.clone()
    with torch.no_grad():
        recipe.renew()
    steps, h = recipe.dataset.storage, recurrent.network.width
    assert torch.equal(steps[..., :-h], before[..., :-h]) and not torch.equal(steps, before)
    first = recipe.dataset.position - recipe.dataset.filled
    state = None if steps[0, first, 0, -h - 1] else (steps[0, first, :, -h:].numpy(),)
    for t in range(first, first + 9):
        if t > first:
            np.testing.assert_allclose(state[0], steps[0, t, :, -h:], atol=1e-6)
        rows, starts = steps[0, t, :, :2].numpy(), steps[0, t, :, -h - 1].numpy().astype(bool)
        _, state = recurrent.predict(rows, state, starts, learner=0)
    recipe.dataset.storage.copy_(before)


def test_units_beside_a_history_remember_with_either_kind_of_observation():
    agent = TeacherStudent(POINT, expert, config={**SHORT, "history": 2})
    rows = np.random.default_rng(0).normal(size=(5, 1, 4)).astype(np.float32)
    state = of_stacks = None
    for i, row in enumerate(rows):
        action, state = agent.predict(row, state)
        stack = np.concatenate((rows[max(i - 1, 0)], row), axis=1)  # as get_env() gives it
        again, of_stacks = agent.predict(stack, of_stacks)
        np.testing.assert_allclose(again, action, atol=1e-6)
    np.testing.assert_allclose(of_stacks[-1], state[-1], atol=1e-6)
    assert [part.shape for part in state] == [(1, 2, 4), (1, 6)] and len(of_stacks) == 1


def test_an_evaluation_plays_what_predict_says(recurrent):
    result = recurrent.evaluate(2, seed=4)
    for k in range(2):
        env = gym.make(POINT)
        for episode in range(2):
            observation, _ = env.reset(seed=env_seed(4, 0, "evaluation", 0, episode))
            state, total, ended = None, 0.0, False
            while not ended:
                action, state = recurrent.predict(observation, state, learner=k)
                observation, reward, terminated, truncated, _ = env.step(action)
                total, ended = total + reward, terminated or truncated
            assert total == pytest.approx(result.returns[k, episode], abs=1e-3)


@pytest.mark.parametrize("backbone", ["ppo", "td3"])
def test_recurrent_students_learn_together_as_they_learn_alone(backbone):
    def rows(*seeds):
        return TeacherStudent(POINT, expert, backbone=backbone, seeds=seeds, config=SHORT).learn(120).learner.actor

    torch.testing.assert_close(rows(0, 3), torch.cat((rows(0), rows(3))), atol=1e-5, rtol=1e-4)


def test_a_recurrent_student_remembers_the_start_of_its_episode():
    config = {**SHORT, "gru": 16, "net_arch": (16,), "bptt_steps": 16, "burn_in": 0, "distill_batch_size": 128}
    config |= {"student_observations": (0,), "n_envs": 4, "round_steps": 200, "round_updates": 150, "eval_freq": 0}
    student = TeacherStudent(Cue, lambda o: o[..., 1:], config={**config, "distill_learning_rate": 5e-3}).learn(800)
    assert student.evaluate(20, seed=0).returns.mean() > -2  # without memory: -0.8 a step, -8.8


SEES = {
    "columns": {"student_observations": (3, 1, 3)},
    "history": {"student_observations": (2, 3), "history": 2},
    "units": {"student_observations": (3, 2, 1, 0), "gru": 5, "bptt_steps": 5, "n_envs": 2},
    "units of a history": {"student_observations": (2, 3), "gru": 5, "history": 2, "bptt_steps": 5, "n_envs": 2},
}


@pytest.mark.parametrize("sees", SEES)
@pytest.mark.parametrize("inputs", ["own", "full"])
def test_files_read_the_students_part_or_all_and_carry_its_state(tmp_path, sees, inputs):
    backbone = "sac" if sees == "units" else "ppo"
    agent = TeacherStudent(POINT, expert, backbone=backbone, config={**COPY, **SEES[sees]}).learn(80)
    assert to_torchscript(agent, 0, tmp_path / "policy.pt", inputs) < 1e-5
    program = torch.jit.load(tmp_path / "policy.pt")
    whole = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    expected = agent.predict(whole, episode_start=np.ones(3, bool))[0]
    if sees == "columns" or (sees == "history" and inputs == "own"):
        rows = whole if inputs == "full" else agent.view(whole)
        rows = np.tile(rows, 2) if sees == "history" else rows
        np.testing.assert_allclose(program(torch.from_numpy(rows)).numpy(), expected, atol=1e-5)
        assert to_c(agent, 0, tmp_path / "c", inputs=inputs).difference.worst < 1e-5
    else:
        state = [torch.zeros(3, *shape) for shape in Episodes(agent, 0, inputs).shapes]
        rows = whole if inputs == "full" else agent.view(whole)
        actions, *_ = program(torch.from_numpy(rows), torch.ones(3), *state)
        np.testing.assert_allclose(actions.numpy(), expected, atol=1e-5)
        assert to_c(agent, 0, tmp_path / "c", inputs=inputs).difference.worst < 1e-5


@pytest.mark.nightly
@pytest.mark.parametrize("sees", SEES)
def test_onnx_carries_the_state(tmp_path, sees):
    pytest.importorskip("onnxruntime")
    agent = TeacherStudent(POINT, expert, config={**COPY, **SEES[sees]}).learn(80)
    assert to_onnx(agent, 0, tmp_path / "policy.onnx", "full") < 1e-5
    if sees == "columns":
        assert to_onnx_int8(agent, 0, tmp_path / "int8.onnx", None, "full").mean < 0.1


def test_the_command_line_distils_and_exports_what_remembers(tmp_path, capsys):
    TeacherStudent(POINT, expert, config=COPY).learn(80).save(tmp_path / "teacher")
    flags = ["--n-eval-episodes", "1", "--teacher-episodes", "2", "--allow-weak-teacher", "--round-steps", "20"]
    flags += ["--round-updates", "2", "--total-timesteps", "40", "--run-dir", str(tmp_path / "run"), "--env", POINT]
    flags += ["--observation-groups", "way=2:4", "place=0,1", "--student-observations", "way", "--history", "2"]
    words = f"distill --final-episodes 3 --teacher {tmp_path}/teacher.safetensors --gru 4 --n-envs 2"
    main([*words.split(), *flags])
    config = TeacherStudent.load(tmp_path / "run").config
    assert (config.student_observations, config.history, config.gru) == (("way",), 2, 4)
    assert config.observation_groups == {"way": (2, 3), "place": (0, 1)}
    out = str(tmp_path / "out")
    main(["export", str(tmp_path / "run"), "--format", "torchscript", "c", "--inputs", "full", "--out", out])
    assert capsys.readouterr().out.count("differs by at most") == 2
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "run"), "--inputs", "full", "--out", str(tmp_path / "more")])
    assert "inputs: full is for onnx, torchscript and c, not sb3, hub" in capsys.readouterr().err
