"""The shared replay, by rows that say whose they are and when they came; alone and filled by training."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.buffers import NStepReplayBuffer

from policykd import DualStudent, PolicyKDError, SharedReplay, native
from policykd.core import draws, memory


def filled(capacity, steps, learners=4, peers=2):
    """A replay whose transitions are tagged with learner k and time t; 1 of 3 ended, 1 of 5 ran out of time."""
    replay = SharedReplay(capacity, 2, 1, learners, peers)
    k = np.arange(learners)
    for t in range(steps):
        state, after = (np.stack((k, np.full(learners, time)), axis=1) for time in (t, t + 0.5))
        ends = (t % 3 == 0, t % 5 == 0)
        replay.add(state, (10 * k + t)[:, None] / 1000, after, 100.0 * k + t, *(np.full(learners, end) for end in ends))
    return replay


def generators(learners=4):
    return [np.random.default_rng(k) for k in range(learners)]


@pytest.mark.skipif(bool(native.reason()), reason="batches are written over by the kernels alone")
def test_a_batch_may_go_where_an_earlier_one_was():
    replay = filled(20, 30)
    fresh, other = replay.sample(50, generators()), replay.sample(50, generators()[::-1])
    again = replay.sample(50, generators(), into=other)
    assert again is other
    for one, two in zip(fresh, again, strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
    assert replay.sample(40, generators(), into=other) is not other  # of another size


def draw(replay, source="own", size=500, **arguments):
    """Sample, check that every transition is whole, and return its learner and its time, (K, B) each."""
    batch = replay.sample(size, generators(), source, **arguments)
    k, t = batch.observations.unbind(-1)
    torch.testing.assert_close(batch.next_observations, torch.stack((k, t + 0.5), -1))
    torch.testing.assert_close(batch.actions, (10 * k + t).unsqueeze(-1) / 1000)
    torch.testing.assert_close(batch.rewards, 100 * k + t)
    assert torch.equal(batch.terminated, (t % 3 == 0).float())
    assert torch.equal(batch.truncated, (t % 5 == 0).float())
    return k.long(), t.long()


def test_the_ring_keeps_the_last_transitions():
    replay = filled(capacity=5, steps=3)
    assert replay.size == 3
    assert replay.observations[2].tolist() == [[2, 0], [2, 1], [2, 2]]
    replay = filled(capacity=5, steps=12)
    assert replay.size == 5
    for k in range(4):  # 10 and 11 have overwritten the first two places
        assert replay.observations[k].tolist() == [[k, 10], [k, 11], [k, 7], [k, 8], [k, 9]]


PEER_OF = np.array([1, 0, 3, 2])


@pytest.mark.parametrize(
    ("steps", "recent", "times"),
    [
        (30, None, range(30)),  # not full: nothing of what is not written yet
        (50, None, range(50)),
        (73, None, range(23, 73)),  # wrapped around
        (73, 7, range(66, 73)),
        (52, 7, range(45, 52)),  # the most recent lie on both sides of the seam
        (73, 1, [72]),
        (30, 1000, range(30)),
        (73, 1000, range(23, 73)),
    ],
)
@pytest.mark.parametrize(("source", "whose"), [("own", [0, 1, 2, 3]), ("peer", [1, 0, 3, 2]), ("pooled", None)])
def test_samples_come_from_exactly_the_rows_asked_for(source, whose, steps, recent, times):
    replay = filled(capacity=50, steps=steps)
    k, t = draw(replay, source, size=2000, peer_of=PEER_OF, recent=recent)
    for row in range(4):
        group = {0, 1} if row < 2 else {2, 3}
        expected = {(learner, time) for learner in (group if whose is None else {whose[row]}) for time in times}
        assert set(zip(k[row].tolist(), t[row].tolist(), strict=True)) == expected


@pytest.mark.parametrize("recent", [None, 10, 15])
@pytest.mark.parametrize(("source", "rows"), [("own", 10), ("peer", 10), ("pooled", 20)])
def test_every_row_is_equally_likely(source, rows, recent):
    k, t = draw(filled(capacity=10, steps=14), source, size=20_000, peer_of=PEER_OF, recent=recent)
    for row in range(4):
        counts = torch.bincount(k[row] * 100 + t[row]).float()
        counts = counts[counts > 0]
        assert len(counts) == rows
        mean = 20_000 / rows
        assert ((counts - mean).abs() < 5 * mean**0.5).all()


def test_the_latest_observations_come_first_and_across_the_seam():
    for steps, times in ((52, [51, 50, 49, 48]), (3, [2, 1, 0])):
        latest = filled(capacity=50, steps=steps).latest(4)
        assert latest.tolist() == [[[k, t] for t in times] for k in range(4)]


def test_a_learner_draws_by_its_own_generator_alone():
    replay = filled(capacity=50, steps=50)
    first = replay.sample(64, generators())
    others = [np.random.default_rng(k if k == 2 else k + 100) for k in range(4)]
    second = replay.sample(64, others)
    assert torch.equal(first.observations[2], second.observations[2])
    for k in (0, 1, 3):
        assert not torch.equal(first.observations[k], second.observations[k])
    times = first.observations[..., 1]
    assert all(not torch.equal(times[i], times[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("source", ["own", "peer", "pooled"])
@pytest.mark.parametrize(("steps", "recent"), [(30, None), (50, None), (73, None), (73, 7), (52, 7), (73, 1), (30, 99)])
def test_batches_are_those_of_numpys_generators(monkeypatch, source, steps, recent):
    if native.reason():
        pytest.skip(f"no native kernels: {native.reason()}")
    first, second = generators(), generators()
    batches = []
    for own in (first, second):
        replay = filled(capacity=50, steps=steps)
        batches += [replay.sample(size, own, source, peer_of=PEER_OF, recent=recent) for size in (1, 33, 64)]
        monkeypatch.setattr(draws, "can_gather", lambda storage: False)
    for mine, theirs in zip((b[:6] for b in batches[:3]), (b[:6] for b in batches[3:]), strict=True):
        assert all(map(torch.equal, mine, theirs))
        assert [part.stride() for part in mine] == [part.stride() for part in theirs]  # compiled code counts on them
    assert all(a.bit_generator.state == b.bit_generator.state for a, b in zip(first, second, strict=True))


def test_streams_go_on_where_python_left_them():
    replay, own = filled(capacity=50, steps=50), generators()
    state = [generator.bit_generator.state for generator in own]
    first = replay.sample(16, own)
    for generator, before in zip(own, state, strict=True):
        generator.bit_generator.state = before
    assert torch.equal(replay.sample(16, own).rewards, first.rewards)
    own[1] = np.random.default_rng(1)  # another one in the same list
    again = replay.sample(16, own)
    assert torch.equal(again.rewards[1], first.rewards[1]) and not torch.equal(again.rewards[0], first.rewards[0])


def test_rings_that_are_not_there_are_refused():
    if native.reason():
        pytest.skip(f"no native kernels: {native.reason()}")
    with pytest.raises(ValueError, match="cannot draw"):
        filled(capacity=50, steps=50).sample(4, generators(), "peer", peer_of=np.array([1, 0, 3, 4]))
    with pytest.raises(ValueError, match="cannot draw"):
        SharedReplay(50, 2, 1, 4).sample(4, generators())


def test_bytes_stated_are_bytes_taken():
    replay = SharedReplay(capacity=1000, observation_size=17, action_size=6, learners=4, peers=2)
    assert replay.nbytes == 4 * 1000 * (17 + 6 + 17 + 3) * 4
    assert replay.storage.shape == (4, 1000, 43)  # takes none before it is needed
    tensors = [value for value in vars(replay).values() if isinstance(value, torch.Tensor)]
    arrays = [value for value in vars(replay).values() if isinstance(value, np.ndarray)]
    taken = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert taken == replay.nbytes
    assert sum(array.nbytes for array in arrays) < 0.01 * replay.nbytes  # working space


def test_more_than_the_machine_has_is_refused_in_one_line():
    with pytest.raises(
        PolicyKDError, match=r"2 learners x 1,000,000,000,000 transitions need .* GB.*lower buffer_size"
    ):
        SharedReplay(10**12, 17, 6, learners=2)
    with pytest.raises(PolicyKDError, match="lower buffer_size"):
        DualStudent("PolicyKD/PointReach-v0", config={"buffer_size": 10**12})


class Clock(gym.Env):
    """The observation is the step of the episode and of the whole life; may end at a step of every episode."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, ends_at=None):
        self.ends_at, self.life = ends_at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return np.array([0, self.life], np.float32), {}

    def step(self, action):
        self.now, self.life = self.now + 1, self.life + 1
        return np.array([self.now, self.life], np.float32), float(self.now), self.now == self.ends_at, False, {}


TINY = {"net_arch": (8,), "batch_size": 8, "distill_batch_size": 8, "buffer_size": 1000, "n_eval_episodes": 1}


@pytest.mark.parametrize(
    ("ends_at", "length", "terminated", "truncated"),
    [(None, 5, 0.0, 1.0), (3, 3, 1.0, 0.0), (5, 5, 1.0, 0.0)],  # the last: both at once is an end of the task
    ids=["time limit", "end", "both"],
)
def test_the_last_observation_of_an_episode_is_stored_not_the_next_first(ends_at, length, terminated, truncated):
    agent = DualStudent(lambda: TimeLimit(Clock(ends_at), 5), config=TINY, compile=False)
    agent.learn(2 * 23)
    batch = agent.replay_buffer.sample(2000, generators(2))  # of 23 rows: misses none
    for k in range(2):
        lives = batch.observations[k, :, 1]
        assert sorted(set(lives.tolist())) == list(range(23))
        for place in (int((lives == life).nonzero()[0]) for life in range(23)):
            life, now = int(lives[place]), int(batch.observations[k, place, 0])
            assert now == life % length
            assert batch.next_observations[k, place].tolist() == [now + 1, life + 1]
            assert batch.rewards[k, place] == now + 1
            last = now == length - 1
            assert batch.terminated[k, place] == (terminated if last else 0)
            assert batch.truncated[k, place] == (truncated if last else 0)


class Listener(gym.Wrapper):
    """Keeps the actions that an environment receives beside what it observed before."""

    def __init__(self, env):
        super().__init__(env)
        self.heard = {}

    def reset(self, **arguments):
        self.before, info = super().reset(**arguments)
        return self.before, info

    def step(self, action):
        self.heard[np.asarray(self.before, np.float32).tobytes()] = np.array(action)
        self.before, *rest = super().step(action)
        return self.before, *rest


def test_actions_are_stored_in_unit_bounds_and_sent_in_the_environments_units():
    config = {**TINY, "learning_starts": 60, "action_noise_std": 0.5}
    agent = DualStudent(lambda: Listener(gym.make("InvertedPendulum-v5")), config=config, compile=False)
    assert agent.action_space.high == 3.0
    agent.learn(2 * 120)
    batch = agent.replay_buffer.sample(5000, generators(2))
    for k, heard in enumerate(agent.get_env().get_attr("heard")):
        assert len(heard) == 120
        stored = batch.actions[k].numpy()
        sent = np.stack([heard[state.tobytes()] for state in batch.observations[k].numpy()])
        np.testing.assert_allclose(sent, 3 * stored, rtol=0, atol=1e-6)
        assert 0.9 < np.abs(stored).max() <= 1.0  # and so above 2.7 in the environment


@pytest.mark.parametrize("stored", [7, 12, 31])
def test_n_step_returns_are_those_of_sb3(stored, monkeypatch):
    capacity, n_steps, gamma = 12, 4, 0.9
    theirs = NStepReplayBuffer(
        *(capacity, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))), "cpu", n_steps=n_steps, gamma=gamma
    )
    ours, rng = SharedReplay(capacity, 2, 1), np.random.default_rng(0)
    for _ in range(stored):
        state, beyond = rng.uniform(-1, 1, (2, 1, 2)).astype(np.float32)
        action, reward, kind = rng.uniform(-1, 1, (1, 1)).astype(np.float32), rng.normal(size=1), rng.random()
        terminated, truncated = np.array([kind < 0.15]), np.array([kind > 0.85])
        infos = [{"TimeLimit.truncated": bool(truncated[0])}]
        theirs.add(state, beyond, action, reward, terminated | truncated, infos)
        ours.add(state, action, beyond, reward, terminated, truncated)
    places = np.arange(ours.size)
    expected = theirs._get_samples(places)
    monkeypatch.setattr(ours, "_draw", lambda *arguments: torch.from_numpy(places)[None])
    found = ours.sample_ahead(len(places), [rng], "own", n_steps, gamma)
    for mine, other in (
        (found.observations, expected.observations),
        (found.actions, expected.actions),
        (found.next_observations, expected.next_observations),
        (found.rewards.unsqueeze(-1), expected.rewards),
        (found.terminated.unsqueeze(-1), expected.dones),
        (found.discounts.unsqueeze(-1), expected.discounts),
    ):
        torch.testing.assert_close(mine[0], other)


def test_each_learner_may_look_ahead_by_its_own_number_of_steps_within_its_group_alone():
    replay, own = SharedReplay(50, 1, 1, learners=4, peers=2), [np.random.default_rng(k) for k in range(4)]
    for step in range(30):
        number = np.arange(4.0)[:, None] * 100 + step
        ends = np.full(4, step % 10 == 9), np.zeros(4, bool)
        replay.add(*(np.float32(number),) * 3, np.ones(4, np.float32), *ends)
    n_steps, gamma = torch.tensor([[1], [3], [1], [5]]), torch.tensor([[0.5], [0.9], [0.5], [0.9]])
    batch = replay.sample_ahead(200, own, "pooled", n_steps, gamma)
    start, end = batch.observations[..., 0] % 100, batch.next_observations[..., 0] % 100
    assert ((end - start) == torch.minimum(n_steps - 1, 9 - start % 10)).all()
    assert (batch.observations // 100 == batch.next_observations // 100).all()
    assert (batch.observations[..., 0] // 200 == torch.tensor([[0], [0], [1], [1]])).all()
    torch.testing.assert_close(batch.discounts, gamma ** (end - start + 1))
    torch.testing.assert_close(batch.rewards, (1 - batch.discounts) / (1 - gamma))


@pytest.mark.parametrize("capacity", [12, 11])  # 11: a step of all environments does not end where the ring does
@pytest.mark.parametrize("native_kernels", [True, False])
def test_several_environments_fill_one_ring_and_look_ahead_in_their_own_episode(capacity, native_kernels, monkeypatch):
    if not native_kernels:
        monkeypatch.setattr(draws, "can_gather", lambda storage: False)
    replay, steps = SharedReplay(capacity, 2, 1, learners=2, n_envs=3), 9
    who = np.arange(6)  # environments of two learners
    for t in range(steps):
        states, beyond = (np.stack((who, np.full(6, time)), 1) for time in (t, t + 1))
        replay.add(states, np.zeros((6, 1)), beyond, 10.0 ** (t % 3) * (who + 1), np.zeros(6), np.full(6, t == 6))
    kept = replay.observations
    newest = [[[e, t] for t in range(steps) for e in group] for group in ((0, 1, 2), (3, 4, 5))]
    assert [sorted(rows.tolist()) for rows in kept] == [sorted(map(list, rows[-capacity:])) for rows in newest]
    own = [np.random.default_rng(k) for k in range(2)]
    batch = replay.sample(400, own, recent=3)
    assert set(batch.observations[..., 1].flatten().tolist()) == {8.0}  # the latest step of all three
    ahead = replay.sample_ahead(400, own, "own", 3, 1.0)
    (env, time), (same, last) = ahead.observations.unbind(-1), ahead.next_observations.unbind(-1)
    assert torch.equal(env, same)
    # Three steps on, but not beyond the time limit after step 6, nor beyond what is stored.
    expected = torch.minimum(time + 3, torch.where(time <= 6, 7, steps))
    assert torch.equal(last, expected)
    sums = sum(torch.where(time + i < expected, 10.0 ** ((time + i) % 3), 0.0) for i in range(3)) * (env + 1)
    torch.testing.assert_close(ahead.rewards, sums)


def test_a_job_may_have_less_memory_than_its_machine(tmp_path, monkeypatch):
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text("0::/slurm/job_7/step\n3:cpuset:/elsewhere\n4:memory:/old/job\n")
    for folder, file, limit in (
        ("slurm", "memory.max", "9000"),
        ("slurm/job_7", "memory.max", "8000"),
        ("slurm/job_7/step", "memory.max", "max"),
        ("elsewhere", "memory.max", "10"),
        ("memory/old", "memory.limit_in_bytes", "7000"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / file).write_text(f"{limit}\n")
    assert memory.memory_limit(groups, root) == 7000
    (root / "memory/old/memory.limit_in_bytes").unlink()
    assert memory.memory_limit(groups, root) == 8000
    assert memory.memory_limit(tmp_path / "none", root) == 2**63
    monkeypatch.setattr(memory, "memory_limit", lambda: 10**6)
    with pytest.raises(PolicyKDError, match=r"need 0\.2 GB, this job may take 0\.0 GB: lower buffer_size"):
        SharedReplay(1_000_000, 20, 5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_returns_do_not_run_from_a_cut_episode_into_the_next(dtype):
    replay = SharedReplay(6, 1, 1, learners=2, n_envs=2, dtype=dtype)
    for step in range(4):
        if step == 2:
            replay.cut()
        column = np.full((4, 1), step, np.float32)
        ends = np.zeros(4, bool)
        replay.add(column, column, column + 1, np.full(4, 10.0**step, np.float32), ends, ends)
    batch = replay.sample_ahead(200, [np.random.default_rng(k) for k in range(2)], "own", 3, 1.0)
    found = {(int(s), float(r)) for s, r in zip(batch.observations.flatten(), batch.rewards.flatten(), strict=True)}
    assert found == {(1, 10.0), (2, 1100.0), (3, 1000.0)}
