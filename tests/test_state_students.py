"""Policies learnt from states alone: the experiment in small, its losses by hand, and policies that are their data."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from tiny import POINT

from experiments.measurements import Measurements
from experiments.state_students import lab, methods, report, run
from experiments.state_students.data import components
from experiments.state_students.methods import METHODS, Seen, Sizes
from experiments.state_students.spec import CELLS, LOOKS_UP, MEMORIES, MIXED, WEIGHTS, WIDTHS, Protocol
from experiments.state_students.stacked import Stacked
from policykd.core.errors import PolicyKDError
from policykd.core.networks import MLP
from policykd.distillation.supervised import fitnets, rid, rkd, vid
from policykd.distillation.supervised.disk import Guide
from policykd.distillation.supervised.feature_maps import two_layers
from policykd.distillation.supervised.method import STUDENT, WARM_UP
from policykd.memory import KnowledgeBase, NearestStates
from policykd.tasks.spaces import find_task
from policykd.teachers.demonstrations import demonstrate
from policykd.teachers.teacher import Teacher

SMALL = Protocol(states=160, games=4, epochs=3, batch_size=32, components=4, relations=6, episodes=2)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def teacher():
    """A small agent that has learnt nothing, which is as good to copy as any."""
    env = find_task(POINT).make()
    return Teacher.load(SAC("MlpPolicy", env, policy_kwargs={"net_arch": [12, 12]}, seed=0), POINT)


def test_the_experiment_in_small_goes_on_where_it_stopped(teacher, tmp_path):
    options = run.Options(out=tmp_path, seeds=(0, 1), protocol=SMALL)
    rows = Measurements(tmp_path / "rows.csv", run.KEYS, run.VALUES)
    run.measure(POINT, teacher, rows, options)
    found = rows.where()
    expected = {
        *((name, 0, 0.0) for name in MEMORIES),
        *((name, width, 0.0) for width in WIDTHS for name in ("plain", MIXED, "retrieval", "disk")),
        *((name, width, w) for width in WIDTHS for name in ("fitnets", "rkd", "vid", "rid") for w in WEIGHTS),
        *((name, 64, 0.0) for name in ("plain", MIXED)),
    }
    assert set(zip(found.method, found.width, found.weight, strict=True)) == expected
    assert len(found) == 2 * len(expected) and np.isfinite(found[["return", "error"]].to_numpy()).all()
    before = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    kept = [line for line in before.splitlines(keepends=True) if ",disk,16," not in line]
    (tmp_path / "rows.csv").write_text("".join(kept))
    run.measure(POINT, teacher, Measurements(tmp_path / "rows.csv", run.KEYS, run.VALUES), options)
    again = Measurements(tmp_path / "rows.csv", run.KEYS, run.VALUES)
    columns = ["method", "width", "weight", "seed", "return", "error"]
    first, second = (part.where()[columns].sort_values(columns[:4]).to_numpy() for part in (rows, again))
    assert (first == second).all(), "the same numbers a second time"
    assert report.table(again).count("\n") == len(expected) + 1


def test_the_teacher_is_alone_with_its_answers_in_the_data(teacher):
    one, two = (lab.collect(POINT, teacher, seeds, SMALL) for seeds in ((1,), (0, 1)))
    assert torch.equal(one.observations[0], two.observations[1]), "of a seed whatever the others are"
    torch.testing.assert_close(one.actions[0], teacher.actions(one.observations[0]))
    assert one.features.shape == (1, 160, 4) and one.features.mean().abs() < 1e-5


def test_a_policy_without_a_network_has_no_hidden_layer():
    blind = Teacher.load(lambda observation: np.zeros(2), POINT)
    with pytest.raises(PolicyKDError, match="no network"):
        lab.collect(POINT, blind, (0,), SMALL)


def test_components_hold_the_variance_of_standardised_units():
    layer = numbers(500, 2) @ torch.tensor([[1.0, 0.0, 100.0, 0.0], [0.0, 0.1, 100.0, 0.0]])
    found, share = components(layer, 2)
    assert share == pytest.approx(1, abs=1e-5), "three units that vary, of rank two"
    assert found.var(0, correction=0).mean() == pytest.approx(1, abs=1e-4)
    assert float((found[:, 0] * found[:, 1]).mean()) == pytest.approx(0, abs=1e-4)
    assert components(layer, 9)[0].shape == (500, 3)


class TestNearestStates:
    STATES = torch.tensor([[0.0, 0.0, 5.0], [1.0, 0.0, 5.0], [0.0, 1000.0, 5.0], [1.0, 1000.0, 5.0]])
    ACTIONS = torch.tensor([[0.0], [1.0], [2.0], [3.0]])

    def test_by_hand(self):
        # Columns count in their own standard deviations, 0.5 and 500; the third never changes.
        asked = torch.tensor([[0.1, 400.0, 5.0], [0.9, 900.0, 5.0]])
        assert NearestStates(self.STATES, self.ACTIONS, 1)(asked).tolist() == [[0.0], [3.0]]
        assert NearestStates(self.STATES, self.ACTIONS, 2)(asked).tolist() == [[1.0], [2.5]]
        assert NearestStates(self.STATES, self.ACTIONS, 4)(asked).tolist() == [[1.5], [1.5]]

    def test_a_state_need_not_find_itself(self):
        near = NearestStates(self.STATES + torch.tensor([0.0, 1.0, 0.0]) * self.ACTIONS, self.ACTIONS, 1)
        rows = torch.arange(4)
        raw = self.STATES + torch.tensor([0.0, 1.0, 0.0]) * self.ACTIONS
        assert near(raw)[:, 0].tolist() == [0, 1, 2, 3]
        assert (near(raw, rows)[:, 0] != torch.arange(4.0)).all()

    def test_it_is_played_and_made_of_whatever_holds_states(self):
        env = find_task(POINT).make()
        size = env.observation_space.shape[0]
        log = {"observations": numbers(50, size).numpy(), "actions": np.full((50, 2), 0.25)}
        near = NearestStates.of(log, 3)
        action, state = near.predict(np.zeros(size))
        assert action.tolist() == [0.25, 0.25] and state is None
        assert near.predict(np.zeros((4, size)))[0].shape == (4, 2)
        mean, _ = evaluate_policy(near, env, n_eval_episodes=1, warn=False)
        assert math.isfinite(mean)

    def test_actions_that_are_kept_in_minus_1_to_1_are_played_in_the_tasks_units(self):
        data, space = demonstrate(lambda o: np.full(1, 2.0), "Pendulum-v1", 1), Box(-2, 2, (1,))
        assert NearestStates.of(data, 3, space).predict(np.zeros(3))[0].tolist() == [2.0]
        for given in (None, Discrete(2)):
            with pytest.raises(PolicyKDError, match=r"in \[-1, 1\], or discrete ones: give action_space"):
                NearestStates.of(data, 3, given)

    def test_a_dict_of_observations_is_told_in_one_line(self):
        with pytest.raises(PolicyKDError, match="not dicts: use FlattenObservation"):
            NearestStates(self.STATES, self.ACTIONS, 1).predict({"position": np.zeros(3)})

    def test_faults_are_one_line(self):
        with pytest.raises(PolicyKDError, match="at least k=5"):
            NearestStates(self.STATES, self.ACTIONS, 5)
        with pytest.raises(PolicyKDError, match="NaN"):
            NearestStates(self.STATES * math.nan, self.ACTIONS, 1)
        for asked in (torch.zeros(4, 1), torch.zeros(4, 2), torch.zeros(3)):
            with pytest.raises(PolicyKDError, match=r"reads observations \(B, 3\), got"):
                NearestStates(self.STATES, self.ACTIONS, 1)(asked)
        for actions in (None, np.arange(4), np.zeros((4, 1), np.int64)):
            log = {"observations": self.STATES.numpy(), **({} if actions is None else {"actions": actions})}
            with pytest.raises(PolicyKDError, match="no continuous actions"):
                NearestStates.of(log, 1)


def test_a_euclidean_memory_finds_what_distances_say(tmp_path):
    memory = KnowledgeBase(3, 2, "me", metric="euclidean", probabilities=False)
    keys, values, asked = numbers(300, 3), numbers(300, 2, seed=1), numbers(40, 3, seed=2)
    memory.add(keys[:100], values[:100])
    memory.add(keys[100:], values[100:])
    expected = (asked[:, None] - keys).square().sum(2).sqrt().topk(5, largest=False)
    memory.save(tmp_path / "memory")
    for one in (memory, KnowledgeBase.load(tmp_path / "memory", "me")):
        found = one.search(asked, 5)
        torch.testing.assert_close(-found.similarities, expected.values, atol=1e-3, rtol=1e-3)
        assert torch.equal(found.rows, expected.indices) and torch.equal(one.values, values)
        with pytest.raises(PolicyKDError, match="values hold NaN"):
            one.add(keys[:1], values[:1] * math.nan)
    with pytest.raises(PolicyKDError, match='use "cosine", or "euclidean" with "exact"'):
        KnowledgeBase(3, 2, "me", metric="euclidean", index="int8")
    with pytest.raises(PolicyKDError, match="metric='taxi'"):
        KnowledgeBase(3, 2, "me", metric="taxi")


@pytest.mark.parametrize("layer_norm", [False, True])
def test_what_layers_give_ends_in_what_the_network_gives(layer_norm):
    network = MLP((4, 6, 5, 2), squash=True, activation="tanh", layer_norm=layer_norm)
    rows = torch.stack([network.initialise(np.random.default_rng(seed)) for seed in range(3)])
    inputs = numbers(3, 7, 4)
    *hidden, outputs = network.activations(rows, inputs)
    torch.testing.assert_close(outputs, network(rows, inputs))
    assert [layer.shape[2] for layer in hidden] == [6, 5]
    weight, bias, *norm = network.unpack(rows)[0]
    first = inputs @ weight + bias
    if norm:
        first = torch.nn.functional.layer_norm(first, (6,)) * norm[0] + norm[1]
    torch.testing.assert_close(hidden[0], first.tanh())
    assert MLP((4, 2)).activations(rows[:, :10], inputs)[0].shape == (3, 7, 2)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: two_layers(5, 4, 3), (5, 1)),
        (lambda: vid.GaussianModel(5, 3), (5, 1)),
        (lambda: Guide(5, 4), (5,)),
    ],
)
def test_stacked_modules_are_the_modules(make, shape):
    stacked, alone = Stacked(make, (3, 4)), []
    for seed in (3, 4):
        torch.manual_seed(seed)
        alone.append(make())
    inputs = numbers(2, 30, *shape)
    inputs[1] += 3
    for mode in (True, True, False):
        stacked.train(mode)
        found = stacked(inputs)
        for index, module in enumerate(alone):
            expected = module.train(mode)(inputs[index])
            for mine, theirs in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, expected)), strict=True):
                torch.testing.assert_close(mine[index], theirs, atol=1e-5, rtol=1e-4)


def seen(progress=0.5, actions=None):
    own = numbers(2, 20, 3, seed=1).tanh() if actions is None else actions
    return Seen(own, numbers(2, 20, 8, seed=2), numbers(2, 20, 3, seed=3).tanh(), numbers(2, 20, 5, seed=4), progress)


@pytest.mark.parametrize("name", ["fitnets", "rkd", "vid", "rid"])
def test_terms_are_the_functions_of_the_package_for_each_student(name):
    method = METHODS[name](Sizes(8, 5, 3), (0, 1), torch.tensor([1.0, 0.1]), Protocol(relations=9))
    look = seen()
    plain = (look.actions - look.target).square().sum(2).mean(1)
    losses = method.loss(STUDENT, look)
    for k, weight in enumerate((1.0, 0.1)):
        own, target = look.hidden[k, :, :, None], look.features[k, :, :, None]
        if name == "fitnets":
            regressed = method.regressor(look.hidden[..., None])[k]
            term = fitnets.hint_loss(regressed, target)
        elif name == "rkd":
            pair = own[:9, :, 0], target[:9, :, 0]
            term = rkd.distance_loss(*pair) + 2 * rkd.angle_loss(*pair)
        elif name == "vid":
            mean, variance = (part[k] for part in method.model(look.hidden[..., None]))
            term = vid.vid_loss(mean, variance, target)
        else:
            filtered = method.filter(look.features[..., None])[k]
            mapped, sigma = (part[k] for part in method.side(look.hidden[..., None]))
            term = rid.rid_loss(mapped, filtered, sigma)
        torch.testing.assert_close(losses[k], plain[k] + weight * term)


def test_censoring_by_hand():
    actions = torch.tensor([[[0.0], [0.0], [0.0]]])
    target = torch.tensor([[[0.1], [-0.1], [1.0]]])
    surprise, density = methods.likelihood(actions, target)
    variance = (0.01 + 0.01 + 1) / 3
    torch.testing.assert_close(surprise, torch.tensor([[0.01, 0.01, 1.0]]) / (2 * variance))
    expected = torch.distributions.Normal(0.0, math.sqrt(variance)).log_prob(target[..., 0])
    torch.testing.assert_close(density, expected)
    help = torch.tensor([[1e-9, 0.5, 0.5]])
    found = methods.scaffolded_nll(density, help, 1)
    p = density.exp()
    torch.testing.assert_close(found, -((p + help) / (1 + 2 * help)).log())
    torch.testing.assert_close(found[0, 0], -density[0, 0])


def test_help_takes_the_pull_off_a_hard_state():
    actions = torch.zeros(1, 9, 3, requires_grad=True)
    target = torch.full((1, 9, 3), 0.05)
    target[0, -1] = 1.0
    _, density = methods.likelihood(actions, target)
    pulls = [
        torch.autograd.grad(
            methods.scaffolded_nll(density, torch.full((1, 9), g), 3).sum(), actions, retain_graph=True
        )[0].norm(dim=2)[0]
        for g in (1e-9, 0.5)
    ]
    kept = pulls[1] / pulls[0]
    assert kept[-1] < 0.1 < kept[0], "less of the hard state's is left than of an easy one's"


@pytest.mark.parametrize("name", [name for name in METHODS if name != "retrieval"])
def test_each_pass_trains_what_it_says(name):
    method = METHODS[name](Sizes(8, 5, 3), (0, 1), torch.tensor([1.0, 0.1]), Protocol())
    network = MLP((4, 8, 8, 3), squash=True)
    rows = torch.stack([network.initialise(np.random.default_rng(k)) for k in range(2)]).requires_grad_()
    for phase in dict.fromkeys(method.plan(9)):
        own = phase.trains == STUDENT.trains
        with torch.set_grad_enabled(own):
            *_, hidden, actions = network.activations(rows, numbers(2, 20, 4))
        helpers = [p for part in method.helpers for p in part.parameters.values()]
        others = [p for part in method.others for p in part.parameters.values()]
        for parameter in (rows, *helpers, *others):
            parameter.grad = None
        look = seen()._replace(actions=actions, hidden=hidden)
        method.loss(phase, look).sum().backward()
        moved = [parameter.grad is not None for parameter in (rows, *helpers)]
        assert all(moved) if own and phase != WARM_UP else moved[0] == own
        assert not any(p.grad is not None for p in (others if own else (rows, *helpers)))


def test_plans_give_every_student_the_same_passes():
    for name, kind in METHODS.items():
        plan = kind(Sizes(8, 5, 3), (0,), torch.zeros(1), Protocol()).plan(64)
        assert sum(phase.trains == STUDENT.trains for phase in plan) == 64, name
    names = [phase.name for phase in METHODS["disk"](Sizes(8, 5, 3), (0,), torch.zeros(1), Protocol()).plan(7)]
    assert names == ["warm_up"] * 2 + ["guide"] + ["student"] * 3 + ["guide"] * 3 + ["student"] * 2


def test_retrieving_students_read_observation_and_the_word_of_their_neighbours(teacher):
    own = lab.Lab(POINT, teacher, (0, 1), SMALL)
    states, near = own.data.observations, own.near[LOOKS_UP][1]
    read = own.read(states, own.words)
    word = near(states[1], torch.arange(160))
    torch.testing.assert_close(read[1, :, -2:], word)
    standard = (states[1] - states[1].mean(0)) / states[1].std(0)
    torch.testing.assert_close(read[1, :, :-2], standard)
    assert len(CELLS) == 2 + 2 * 7 + 1
