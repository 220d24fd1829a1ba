"""The distillation step: who moves, towards whom, by which values; and the whole update against plain torch."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import flat_row, make_learner, random_batch, sequential

from policykd import DualStudent
from policykd.distillation.divergences import DIVERGENCES
from policykd.distillation.methods import METHODS, PEER_METHODS
from policykd.distillation.peer_step import Peers, PeerStep

GENERATOR = torch.Generator()
RATE = torch.tensor(1e-3)


def make_step(learner, method="dpd", **changes):
    method = METHODS[method] if isinstance(method, str) else method
    return PeerStep(method, dataclasses.replace(learner.config, **changes), learner)


def random_states(learners, size=32):
    return torch.randn(learners, size, 4, generator=GENERATOR.manual_seed(0), dtype=torch.float64)


def turn_of(peer_of, taught=None):
    """Peers, students and who is taught, as the step wants them."""
    peer_of = torch.tensor(peer_of)
    taught = torch.ones(len(peer_of)) if taught is None else torch.tensor(taught)
    return peer_of, torch.argsort(peer_of), taught


def gradient_after_one(step, states, turn):
    """The gradient of the loss: Adam's first mean is a tenth of it. (Its first step hides the gradient's size.)"""
    info = step.update(states, *turn, RATE, True)
    return step.adam.exp_avg * 10, info


def learner_with_spread_values(backbone="ddpg", learners=2):
    """Fresh critics hardly tell states apart; these do, by a few units."""
    learner = make_learner(backbone, learners)
    learner.critic.mul_(2.0)
    return learner


def test_alpha_0_is_exactly_mutual_distillation():
    results = []
    for method, changes in (("mutual", {}), ("dpd", {"alpha": 0.0}), ("dpd", {"alpha": 0.0, "scale_free": False})):
        learner = learner_with_spread_values()
        gradient, info = gradient_after_one(make_step(learner, method, **changes), random_states(2), turn_of([1, 0]))
        results.append((gradient, info["distill/loss"], learner.actor))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
    learner = learner_with_spread_values()
    weighted, _ = gradient_after_one(make_step(learner, "dpd"), random_states(2), turn_of([1, 0]))
    assert (weighted - results[0][0]).abs().max() > 1e-3


def test_diagnostics_of_a_batch_of_one_state_are_numbers():
    step = make_step(learner_with_spread_values())
    info = step.update(random_states(2, 1), *turn_of([1, 0]), RATE, True)
    assert all(value.isfinite().all() for value in info.values()) and not info["distill/xi_std"].any()


@pytest.mark.parametrize("method", ["dpd", "dpd_hard", "mutual", "dpd_published_code"])
def test_the_order_of_the_batch_and_its_duplication_change_nothing(method):
    states, order = random_states(2), torch.randperm(32, generator=GENERATOR.manual_seed(1))
    results = []
    for batch in (states, states[:, order], torch.cat((states, states), 1)):
        learner = learner_with_spread_values()
        gradient, info = gradient_after_one(make_step(learner, method), batch, turn_of([1, 0]))
        results.append((gradient, info["distill/loss"]))
    factor = 2 if method == "dpd_published_code" else 1  # that code sums over the batch
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(results[2], tuple(factor * x for x in results[0]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["dpd", "mutual", "dpd_published_code"])
def test_a_learner_equal_to_its_peer_has_loss_and_gradient_exactly_0(path, method):
    learner = make_learner("ddpg", 2, double=False)
    learner.actor[1] = learner.actor[0]
    before = learner.actor.clone()
    gradient, info = gradient_after_one(make_step(learner, method), random_states(2).float(), turn_of([1, 0]))
    assert not info["distill/loss"].any() and not gradient.any()
    assert torch.equal(learner.actor, before)


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
@pytest.mark.parametrize(
    "method", [n for n, m in PEER_METHODS.items() if m.source == "peer" and m.compares == "values"]
)
def test_the_step_brings_the_student_closer_to_its_peer(backbone, method):
    learner = make_learner(backbone, 4)
    learner.critic.view(4, learner.critics, -1)[[1, 3], :, -1] += 10  # they believe to be better everywhere
    step, states, turn = make_step(learner, method), random_states(4), turn_of([1, 0, 3, 2], [1.0, 0.0, 1.0, 0.0])
    before = learner.actor.clone()
    first = step.update(states, *turn, RATE, True)["distill/action_gap"]
    for _ in range(99):
        last = step.update(states, *turn, RATE, True)["distill/action_gap"]
    assert (last[[0, 2]] < 0.3 * first[[0, 2]]).all()
    # The peers, who are not taught, got no gradient at all from being copied.
    assert torch.equal(learner.actor[[1, 3]], before[[1, 3]])
    assert not step.adam.exp_avg[[1, 3]].any() and not step.adam.exp_avg_sq[[1, 3]].any()


def test_the_critics_and_all_targets_are_left_alone():
    learner = make_learner("td3", 2)
    names = ("critic", "critic_target", "actor_target")
    before = {name: getattr(learner, name).clone() for name in names}
    make_step(learner).update(random_states(2), *turn_of([1, 0]), RATE, True)
    for name in names:
        assert torch.equal(getattr(learner, name), before[name])


@pytest.mark.parametrize(("backbone", "critics"), [("ddpg", 1), ("td3", 2)])
def test_xi_is_the_peers_value_minus_the_own_value_of_the_same_state(backbone, critics):
    seen = []

    def spy(compared, config):
        seen.extend((compared.source_value, compared.own_value))
        return torch.ones_like(compared.own_value)

    learner = learner_with_spread_values(backbone, 4)
    step = make_step(learner, dataclasses.replace(METHODS["dpd"], weight=spy))
    states, peer_of = random_states(4), [2, 0, 3, 1]  # not its own inverse: who copies is not who is copied

    def value(k, at):
        """min over the critics c of Q_c(s, pi(s)), all of learner k."""
        actions = sequential(learner.actor_network, learner.actor[k])(at).tanh()
        inputs = torch.cat((at, actions), 1)
        rows = learner.critic[critics * k : critics * (k + 1)]
        return torch.stack([sequential(learner.critic_network, row)(inputs)[:, 0] for row in rows]).amin(0).detach()

    expected = [torch.stack([value(p, states[k]) for k, p in enumerate(peers)]) for peers in (peer_of, range(4))]
    info = step.update(states, *turn_of(peer_of), RATE, True)
    torch.testing.assert_close(seen, expected)
    assert (expected[0] - expected[1]).abs().mean() > 0.1
    torch.testing.assert_close(info["distill/xi_mean"], (expected[0] - expected[1]).mean(1))


@pytest.mark.parametrize(
    "change",
    [
        {"weight": lambda seen, config: torch.ones(*seen.own_value.shape, 1)},
        {"weight": lambda seen, config: torch.ones(seen.own_value.shape[0], 1)},
        {"divergence": lambda a, b: (a.actions - b.actions).square().sum(-1, keepdim=True)},
        {"divergence": lambda a, b: (a.actions - b.actions).square().sum(-1, keepdim=True), "weight": None},
        {"divergence": lambda a, b: (a.actions - b.actions).square(), "weight": None},
    ],
)
def test_a_method_of_wrong_shapes_is_refused(change, monkeypatch):
    change = dict(change)
    if "divergence" in change:
        monkeypatch.setitem(DIVERGENCES, "action_mse", change.pop("divergence"))
    learner = make_learner("ddpg", 2)
    step = make_step(learner, dataclasses.replace(METHODS["dpd"], **change))
    with pytest.raises(ValueError, match=r"\(K, B\)"):
        step.update(random_states(2), *turn_of([1, 0]), RATE, False)


class PlainLearner:
    """One DDPG learner of torch modules, with an optimiser of its own for distillation."""

    def __init__(self, learner, k):
        make = {"actor": learner.actor_network, "critic": learner.critic_network}
        actor, self.critic = (sequential(make[name], getattr(learner, name)[k]) for name in make)
        self.actor = torch.nn.Sequential(actor, torch.nn.Tanh())
        target, self.critic_target = (sequential(make[n], getattr(learner, f"{n}_target")[k]) for n in make)
        self.actor_target = torch.nn.Sequential(target, torch.nn.Tanh())
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=1e-3)
        self.distill_adam = torch.optim.Adam(self.actor.parameters(), lr=5e-4)

    def q(self, critic, states, actions):
        return critic(torch.cat((states, actions), 1))[:, 0]

    def reinforce(self, states, actions, after, rewards, terminated, gamma=0.98, tau=0.02):
        with torch.no_grad():
            beyond = self.q(self.critic_target, after, self.actor_target(after))
            targets = rewards + gamma * torch.where(terminated > 0, 0.0, beyond)
        descend(self.critic_adam, torch.nn.functional.mse_loss(self.q(self.critic, states, actions), targets))
        descend(self.actor_adam, -self.q(self.critic, states, self.actor(states)).mean())
        with torch.no_grad():
            for name in ("actor", "critic"):
                pairs = zip(getattr(self, f"{name}_target").parameters(), getattr(self, name).parameters(), strict=True)
                for target, online in pairs:
                    target.copy_((1 - tau) * target + tau * online)

    def distillation_loss(self, states, peer_actions, peer_values, alpha, scale_free):
        """J = E_s[exp(alpha xi(s)) |pi(s) - pi_peer(s)|^2], the weights brought to mean 1 (equation 11)."""
        actions = self.actor(states)
        with torch.no_grad():
            xi = peer_values - self.q(self.critic, states, actions)
            weight = torch.exp(alpha * (xi / xi.std(correction=0) if scale_free else xi))
        return (
            sum(w * (a - b).square().sum() for w, a, b in zip(weight, actions, peer_actions, strict=True))
            / weight.sum()
        )


def descend(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("scale_free", [False, True])
def test_the_whole_update_is_that_of_plain_torch_learner_by_learner(scale_free):
    settings = {"gamma": 0.98, "tau": 0.02, "alpha": 1.5, "scale_free": scale_free}
    learner = make_learner("ddpg", 4, **settings)
    learner.critic.mul_(1.5)
    step, peer_of = make_step(learner), [2, 0, 3, 1]  # not its own inverse: who copies is not who is copied
    plain = [PlainLearner(learner, k) for k in range(4)]
    generator = np.random.default_rng(0)
    for _ in range(6):
        batch, states = random_batch(generator, 4), random_batch(generator, 4).observations
        learner.update(batch, None, True, True)
        info = step.update(states, *turn_of(peer_of), torch.tensor(5e-4, dtype=torch.float64), True)
        for k, one in enumerate(plain):
            one.reinforce(*(column[k] for column in batch[:5]))
        losses = []
        for k, one in enumerate(plain):  # all losses before any step: both peers copy what the other is now
            peer = plain[peer_of[k]]
            with torch.no_grad():
                peer_actions = peer.actor(states[k])
                peer_values = peer.q(peer.critic, states[k], peer_actions)
            losses.append(one.distillation_loss(states[k], peer_actions, peer_values, 1.5, scale_free))
        for one, loss in zip(plain, losses, strict=True):
            descend(one.distill_adam, loss)
        torch.testing.assert_close(info["distill/loss"], torch.stack(losses).detach(), rtol=1e-5, atol=0)
        assert (info["distill/weight_max"] > 1.3).all()  # the weights matter
    for k, one in enumerate(plain):
        for name in ("actor", "critic", "actor_target", "critic_target"):
            # 1e-6 for the floor of the spread by which the scale-free xi is divided; without it rounding alone
            tolerance = 1e-6 if scale_free else 1e-11
            expected = flat_row(getattr(one, name))
            torch.testing.assert_close(getattr(learner, name)[k], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("peers", [2, 3, 4])
def test_peers_take_turns_within_their_group(peers):
    learners = 2 * peers
    turns = Peers(learners, peers, "peer", torch.device("cpu")).turns
    teachers = {k: [] for k in range(learners)}
    for peer_of, student_of, taught in turns:
        assert sorted(peer_of.tolist()) == list(range(learners))
        assert torch.equal(peer_of[student_of], torch.arange(learners))
        assert torch.equal(taught, torch.ones(learners))
        for k, peer in enumerate(peer_of.tolist()):
            teachers[k].append(peer)
    for k, names in teachers.items():  # in one round everybody is taught once by everybody else of the group
        group = k // peers * peers
        assert sorted(names) == [other for other in range(group, group + peers) if other != k]


@pytest.mark.parametrize("peers", [2, 3])
def test_one_way_only_the_first_of_a_group_teaches(peers):
    learners = 2 * peers
    lessons = torch.zeros(learners)
    for peer_of, _, taught in Peers(learners, peers, "first", torch.device("cpu")).turns:
        assert (peer_of[taught > 0] % peers == 0).all()
        lessons += taught
    assert torch.equal(lessons, torch.tensor([0.0, *[1.0] * (peers - 1)] * 2))


SMALL = {"net_arch": (8, 8), "batch_size": 16, "distill_batch_size": 16, "buffer_size": 500, "eval_freq": 0}


def agent_before_its_first_update(**arguments):
    changes = SMALL | arguments.pop("changes", {})
    agent = DualStudent("PolicyKD/PointReach-v0", compile=False, config={**changes, "n_eval_episodes": 1}, **arguments)
    agent.learn(100 * agent.peers)  # learning_starts is 100: random actions alone
    assert agent.recipe.n_updates == 0
    return agent


def test_distillation_follows_the_rl_step_on_the_peers_most_recent_states(monkeypatch):
    agent = agent_before_its_first_update(seeds=(0, 1), changes={"distill_recent": 20})
    events = []
    update = agent.recipe
    learn, distil = agent.learner.update, update.distillation.update
    monkeypatch.setattr(agent.learner, "update", lambda *a: events.append("reinforce") or learn(*a))
    monkeypatch.setattr(update.distillation, "update", lambda *a: events.append(a) or distil(*a))
    update.step(0.0, False)
    assert events[0] == "reinforce" and len(events) == 2
    states, peer_of = events[1][:2]
    assert peer_of.tolist() == [1, 0, 3, 2]
    stored = agent.replay_buffer.observations  # 100 rows in the order of time
    for k, peer in enumerate(peer_of.tolist()):
        state, time = (states[k].unsqueeze(1) == stored[peer]).all(2).nonzero(as_tuple=True)
        assert torch.equal(state, torch.arange(16)) and (time >= 80).all()
        assert time.unique().numel() > 5


def test_a_schedule_fades_the_distillation_step():
    """One update at the end of a linear schedule is that of independent learners, bit by bit."""
    actors = {}
    for name, method, progress in [("none", "independent", 0.0), ("start", "dpd", 0.0), ("end", "dpd", 1.0)]:
        agent = agent_before_its_first_update(method=method, changes={"distill_schedule": "linear"})
        agent.recipe.step(progress, False)
        actors[name] = agent.learner.actor
    assert torch.equal(actors["end"], actors["none"])
    assert not torch.equal(actors["start"], actors["none"])
