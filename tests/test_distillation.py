"""Weights, divergences and schedules against values known by other means."""

import math

import pytest
import torch

from policykd.core.networks import PolicyOutput
from policykd.distillation import divergences, weights
from policykd.distillation.peer_step import weighted_distance
from policykd.distillation.schedules import SCHEDULES

K, B, A = 3, 16, 2
WEIGHTS = {
    "uniform": weights.uniform,
    "disadvantage": lambda peer, own: weights.disadvantage(peer, own, 1.0),
    "scale_free": lambda peer, own: weights.disadvantage(peer, own, 1.0, scale_free=True),
    "hard_gate": weights.hard_gate,
    "published_code": lambda peer, own: weights.published_code(peer, own, 1.0),
}
MEAN_ONE = [name for name in WEIGHTS if name != "published_code"]


@pytest.fixture
def values():
    """Values of the same states by the peer and by the learner, (K, B) each, in units of return."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, K, B, generator=generator, dtype=torch.float64)


@pytest.fixture
def gaussians():
    """Means and standard deviations of student and target, (K, B, A) each."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(2, K, B, A, generator=generator, dtype=torch.float64)
    stds = 0.3 + torch.rand(2, K, B, A, generator=generator, dtype=torch.float64)
    return means[0], stds[0], means[1], stds[1]


def gradient_shares(weight):
    """Each state's share of a learner's gradient, where all states are equally far from their targets."""
    actions = torch.zeros(*weight.shape, A, dtype=torch.float64, requires_grad=True)
    distance = divergences.action_mse(actions, torch.ones(*weight.shape, A, dtype=torch.float64))
    weighted_distance(weight, distance).mean(1).sum().backward()
    sizes = actions.grad.norm(dim=2)
    return sizes / sizes.sum(1, keepdim=True)


@pytest.mark.parametrize("scale_free", [False, True])
def test_alpha_0_is_exactly_the_unweighted_loss(values, scale_free):
    for peer, own in (values, values.float(), 1e8 * values):
        weight = weights.disadvantage(peer, own, 0.0, scale_free=scale_free)
        assert torch.equal(weight, torch.ones_like(own))
        distance = torch.rand_like(own)
        assert torch.equal(weighted_distance(weight, distance), distance)


@pytest.mark.parametrize("name", ["disadvantage", "scale_free"])
def test_raising_the_peers_value_at_a_state_raises_its_share_of_the_gradient(values, name):
    peer, own = values
    before = gradient_shares(WEIGHTS[name](peer, own))
    assert torch.allclose(before.sum(1), torch.ones(K, dtype=torch.float64))
    for state in range(B):
        better = peer.clone()
        better[1, state] += 0.5
        after = gradient_shares(WEIGHTS[name](better, own))
        assert after[1, state] > before[1, state] * 1.01
        assert torch.equal(after[[0, 2]], before[[0, 2]])  # the other learners see nothing of it
        own_better = own.clone()
        own_better[1, state] += 0.5
        assert gradient_shares(WEIGHTS[name](peer, own_better))[1, state] < before[1, state] * 0.99


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_as_precise_as_the_values(values, name):
    for peer, own in (values, values.float()):
        assert WEIGHTS[name](peer, own).dtype == own.dtype


def test_weights_are_exp_of_alpha_xi_over_their_mean():
    peer, own = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]])  # xi = 0 and 1
    expected = torch.tensor([[1.0, math.e]]) * 2 / (1 + math.e)
    torch.testing.assert_close(weights.disadvantage(peer, own, 1.0), expected)
    # the spread of (0, 1) is 1/2
    expected = torch.tensor([[1.0, math.e**2]]) * 2 / (1 + math.e**2)
    torch.testing.assert_close(weights.disadvantage(peer, own, 1.0, scale_free=True), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale_free", [False, True])
def test_a_large_alpha_concentrates_on_the_largest_xi(values, scale_free):
    peer, own = values
    best = (peer - own).argmax(1, keepdim=True)
    weight = weights.disadvantage(peer, own, 1000.0, scale_free=scale_free)
    # All others are at the bound: 10,000 times less each.
    torch.testing.assert_close(weight.gather(1, best), torch.full((K, 1), B / (1 + (B - 1) / 1e4), dtype=torch.float64))
    weight = weights.disadvantage(peer, own, 1000.0, scale_free=scale_free, weight_ratio=1e12)
    assert (gradient_shares(weight).gather(1, best) > 1 - 1e-9).all()
    assert (weights.effective_sample_size(weight) - 1).abs().max() < 1e-9


@pytest.mark.parametrize(("scale_free", "alpha", "scale"), [(False, 1.0, 1.0), (False, 10.0, 1e6), (True, 50.0, 1e6)])
def test_no_weight_is_more_than_weight_ratio_times_another(values, scale_free, alpha, scale):
    peer, own = values.float() * scale
    for ratio in (1.0, 20.0, 1e4):
        weight = weights.disadvantage(peer, own, alpha, scale_free=scale_free, weight_ratio=ratio)
        spread = weight.amax(1) / weight.amin(1)
        assert (spread <= ratio * (1 + 1e-5)).all()
        if ratio < 1e4 or scale > 1:  # the bound is met, so the line above says something
            assert (spread >= ratio * (1 - 1e-5)).all()
        order = (peer - own).argsort(1)
        assert (weight.gather(1, order).diff(dim=1) >= 0).all()  # the bound keeps the order


def test_a_peer_far_ahead_everywhere_does_not_make_all_weights_equal(values):
    """Cutting exp(alpha xi) itself would: the released code cuts it at 100."""
    peer, own = values
    torch.testing.assert_close(
        weights.disadvantage(peer + 500, own, 1.0, weight_ratio=1e9),
        weights.disadvantage(peer, own, 1.0, weight_ratio=1e9),
    )


@pytest.mark.parametrize("name", MEAN_ONE)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_weights_have_mean_1_and_no_gradient(values, name, scale):
    peer, own = (scale * values).requires_grad_()
    weight = WEIGHTS[name](peer, own)
    assert weight.shape == (K, B) and not weight.requires_grad
    assert (weight >= 0).all()
    assert (weight.double().mean(1) - 1).abs().max() < (1e-6 if weight.dtype is torch.float32 else 1e-12)


def test_a_batch_without_spread_weighs_all_states_alike():
    peer, own = torch.full((K, B), 5.0), torch.full((K, B), 2.0)
    assert torch.equal(weights.disadvantage(peer, own, 10.0, scale_free=True), torch.ones(K, B))


def test_a_spread_of_rounding_errors_is_no_scale():
    xi = torch.tensor([[0.0, 2e-6]], dtype=torch.float64)  # deviation 1e-6, beside the floor of 1e-6: over 2e-6
    weight = weights.disadvantage(xi, torch.zeros(1, 2, dtype=torch.float64), 1.0, scale_free=True)
    assert weight.tolist() == [pytest.approx([2 / (1 + math.e), 2 * math.e / (1 + math.e)])]


def test_scale_free_weights_do_not_see_the_scale_of_rewards(values):
    peer, own = values
    weight = weights.disadvantage(peer, own, 2.0, scale_free=True)
    torch.testing.assert_close(
        weights.disadvantage(10 * peer, 10 * own, 2.0, scale_free=True), weight, rtol=1e-4, atol=0
    )
    raw = weights.disadvantage(peer, own, 2.0)
    assert (weights.disadvantage(10 * peer, 10 * own, 2.0) - raw).abs().max() > 0.1


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_order_of_the_batch_and_its_duplication_change_nothing(values, name):
    peer, own = values
    weight, order = WEIGHTS[name](peer, own), torch.randperm(B, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(WEIGHTS[name](peer[:, order], own[:, order]), weight[:, order], rtol=1e-12, atol=0)
    twice = WEIGHTS[name](torch.cat((peer, peer), 1), torch.cat((own, own), 1))
    # the released code sums over the batch, so that its gradient doubles with it
    factor = 2 if name == "published_code" else 1
    torch.testing.assert_close(twice, factor * torch.cat((weight, weight), 1), rtol=1e-12, atol=0)


def test_the_gate_lets_only_better_states_pass():
    peer = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0]])
    own = torch.tensor([[1.0, 1.0, 4.0, 3.9], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    # equal is not better; a gate that nothing passes is closed, not a division by 0
    expected = torch.tensor([[0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert torch.equal(weights.hard_gate(peer, own), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.75, 10.0])
def test_published_code_is_the_released_codes_broadcast_product(values, alpha):
    peer, own = values
    distance = torch.rand(K, B, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours = weighted_distance(weights.published_code(peer, own, alpha), distance).mean(1)
    for k in range(K):
        weight = torch.exp(alpha * (peer[k] - own[k]).unsqueeze(1)).clamp(0.01, 100)  # (B, 1), as released
        product = weight / weight.sum() * distance[k]  # (B, 1) * (B,)
        assert product.shape == (B, B)
        torch.testing.assert_close(ours[k], product.sum())
        torch.testing.assert_close(ours[k], B * distance[k].mean())  # alpha is without effect


SHAPES = [((B,), (B,)), ((K, B, 1), (K, B, 1)), ((K, B), (K, 1)), ((K, B), (B,)), ((1, B), (K, B)), ((K, B), (K, B, 1))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("function", [*WEIGHTS.values(), weighted_distance], ids=[*WEIGHTS, "weighted_distance"])
def test_weights_of_other_shapes_than_k_b_are_refused(function, shapes):
    with pytest.raises(ValueError, match=r"\(K, B\)"):
        function(*map(torch.ones, shapes))


@pytest.mark.parametrize("shape", [(K, B), (B, A), (K, 1, A), (K, B, 1), (1, B, A), (K, B, A, 1)], ids=str)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (divergences.action_mse, 2),
        (divergences.action_huber, 2),
        (divergences.gaussian_kl, 4),
        (divergences.wasserstein2, 4),
        (divergences.gaussian_nll, 3),
    ],
)
def test_divergences_of_unequal_or_other_shapes_are_refused(function, arguments, shape):
    assert function(*[torch.ones(K, B, A)] * arguments).shape == (K, B)
    for wrong in range(arguments):
        tensors = [torch.ones(K, B, A)] * arguments
        tensors[wrong] = torch.ones(shape)
        with pytest.raises(ValueError, match=r"\(K, B, A\)"):
            function(*tensors)
    if len(shape) > 3 or (len(shape) < 3 and arguments > 2):  # distances of vectors are those of classifiers, too
        with pytest.raises(ValueError, match=r"\(K, B, A\)"):
            function(*[torch.ones(shape)] * arguments)


def test_the_effective_sample_size_counts_states_whatever_the_scale_of_weights():
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [4.0, 0.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]])
    for scale in (1.0, 1e-3):  # as the released code's, whose mean is 1 / B
        found = weights.effective_sample_size(scale * weight)
        torch.testing.assert_close(found, torch.tensor([4.0, 1.0, 1.6]))  # (3 + 1)^2 / (9 + 1)


def test_action_distances_by_hand():
    actions, targets = torch.tensor([[[0.5, -1.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert divergences.action_mse(actions, targets).item() == 0.25 + 4.0
    assert divergences.action_huber(actions, targets).item() == 0.125 + 1.5
    assert divergences.action_huber(actions, targets, delta=0.5).item() == 0.125 + 0.5 * (2 - 0.25)


def test_gaussian_divergences_by_hand():
    zero, one, two = (torch.full((1, 1, 1), x, dtype=torch.float64) for x in (0.0, 1.0, 2.0))
    student_and_target = zero, one, one, two  # N(0, 1) and N(1, 4)
    forward, reverse = 2.5 - 0.5 - math.log(2), math.log(2) + 0.25 - 0.5
    assert divergences.gaussian_kl(*student_and_target).item() == pytest.approx(forward)
    assert divergences.gaussian_kl(*student_and_target, direction="reverse").item() == pytest.approx(reverse)
    assert divergences.wasserstein2(*student_and_target).item() == 2.0
    nll = 0.5 * math.log(2 * math.pi) + math.log(2) + 1 / 8
    assert divergences.gaussian_nll(zero, two, one).item() == pytest.approx(nll)


def test_gaussian_divergences_are_those_of_the_joint_distributions(gaussians):
    mean, std, target_mean, target_std = gaussians
    student = torch.distributions.MultivariateNormal(mean, torch.diag_embed(std**2))
    target = torch.distributions.MultivariateNormal(target_mean, torch.diag_embed(target_std**2))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(divergences.gaussian_kl(*gaussians, direction="forward"), kl(target, student))
    torch.testing.assert_close(divergences.gaussian_kl(*gaussians, direction="reverse"), kl(student, target))
    torch.testing.assert_close(divergences.gaussian_nll(mean, std, target_mean), -student.log_prob(target_mean))


def test_kl_and_wasserstein2_by_sampling(gaussians):
    mean, std, target_mean, target_std = (x[:1, :2] for x in gaussians)
    student, target = torch.distributions.Normal(mean, std), torch.distributions.Normal(target_mean, target_std)
    torch.manual_seed(0)
    drawn = target.sample((40_000,))
    ratios = (target.log_prob(drawn) - student.log_prob(drawn)).sum(-1)
    error = ratios.std(0) / 200
    assert ((divergences.gaussian_kl(mean, std, target_mean, target_std) - ratios.mean(0)).abs() < 4 * error).all()
    # In one dimension the best transport takes quantile to quantile.
    quantiles = (torch.arange(20_000, dtype=torch.float64) + 0.5).view(-1, 1, 1, 1) / 20_000
    moved = (student.icdf(quantiles) - target.icdf(quantiles)).square().mean(0).sum(-1)
    torch.testing.assert_close(divergences.wasserstein2(mean, std, target_mean, target_std), moved, rtol=1e-3, atol=0)


def by_torch(p, q):
    """KL(p || q), cross-entropy and distances of what is expected of p, the target, and q, of torch's distributions."""
    (p, actions), (q, own) = p, q
    gaps = (own - actions).abs()
    one = isinstance(p, torch.distributions.Categorical)
    total = (lambda x: x) if one else (lambda x: x.sum(-1))
    forward, reverse = (total(torch.distributions.kl_divergence(*pair)) for pair in ((p, q), (q, p)))
    return {
        "action_mse": gaps.square().sum(-1),
        "action_huber": torch.where(gaps <= 1, gaps.square() / 2, gaps - 0.5).sum(-1),
        "kl_forward": forward,
        "kl_reverse": reverse,
        "nll": -total(q.log_prob(actions.argmax(-1) if one else p.mean)),
        "cross_entropy_forward": forward + total(p.entropy()),
        "cross_entropy_reverse": reverse + total(q.entropy()),
    }


def test_every_name_is_the_divergence_of_the_student_from_its_target_and_not_the_other_way_round(gaussians):
    mean, std, target_mean, target_std = gaussians
    own, target = PolicyOutput(3 * mean, mean, std), PolicyOutput(3 * target_mean, target_mean, target_std)
    normal = torch.distributions.Normal
    expected = by_torch((normal(*target[1:3]), target.actions), (normal(*own[1:3]), own.actions))
    expected |= {f"gaussian_{name}": expected[name] for name in ("kl_forward", "kl_reverse", "nll")}
    expected["mse"] = expected["action_mse"]
    expected["wasserstein2"] = ((mean - target_mean) ** 2 + (std - target_std) ** 2).sum(-1)
    table = {**divergences.DIVERGENCES, "gaussian_nll": divergences.TEACHER_DIVERGENCES["gaussian_nll"]}
    assert expected.keys() == table.keys()
    for name, found in table.items():
        torch.testing.assert_close(found(own, target), expected[name], msg=name)
    logits = 2 * torch.randn(2, K, B, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    own, target = map(PolicyOutput.categorical, logits)
    choice = torch.distributions.Categorical
    probabilities = [x.softmax(-1) for x in logits]
    expected = by_torch((choice(logits=logits[1]), probabilities[1]), (choice(logits=logits[0]), probabilities[0]))
    expected["mse"] = ((logits[0] - logits[1]) ** 2).sum(-1)
    for name, values in expected.items():
        torch.testing.assert_close(table[name](own, target), values, msg=name)


def test_a_distance_at_a_temperature_is_that_of_softened_answers_times_its_square():
    logits = 2 * torch.randn(2, K, B, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    softer = [torch.distributions.Categorical(logits=x / 2.5) for x in logits]
    own, target = map(PolicyOutput.categorical, logits)
    expected = 2.5**2 * torch.distributions.kl_divergence(softer[1], softer[0])
    torch.testing.assert_close(divergences.distance(own, target, temperature=2.5), expected)
    half = torch.full((K, B), 0.5, dtype=torch.float64)
    torch.testing.assert_close(divergences.distance(own, target, temperature=2.5, weight=half), 0.5 * expected)
    softened = divergences.at_temperature(divergences.kl_forward, 2.5)
    torch.testing.assert_close(softened(own, target), expected)


def test_a_student_equal_to_its_target_is_at_distance_exactly_0(gaussians):
    mean, std = gaussians[:2]
    zero = torch.zeros(K, B, dtype=mean.dtype)
    assert torch.equal(divergences.action_mse(mean, mean.clone()), zero)
    assert torch.equal(divergences.action_huber(mean, mean.clone()), zero)
    assert torch.equal(divergences.wasserstein2(mean, std, mean.clone(), std.clone()), zero)
    for direction in ("forward", "reverse"):
        assert torch.equal(divergences.gaussian_kl(mean, std, mean.clone(), std.clone(), direction), zero)


def test_schedules():
    at = {name: [schedule(p) for p in (0.0, 0.25, 0.5, 1.0, 1.5)] for name, schedule in SCHEDULES.items()}
    assert at["constant"] == [1, 1, 1, 1, 1]
    assert at["linear"] == [1, 0.75, 0.5, 0, 0]
    assert at["exponential"] == pytest.approx([1, 10**-0.5, 0.1, 0.01, 0.01])
    assert at["cosine"] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0, 0])
    assert set(at) == {"constant", "linear", "exponential", "cosine"}
