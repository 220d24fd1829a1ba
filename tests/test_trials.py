"""Fine-tuning hands out no policy that returned less: trials of frozen policies, and who acts, learns and is kept."""

import numpy as np
import pytest
import torch
from test_fine_tune_replay import distilled

from policykd.training.recipes.fine_tune_replay import FineTuneOnReplay
from policykd.training.recipes.trials import Trials


def policy(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1)


def play(trials, *returns, learning=True, env=0):
    for returned in returns:
        trials.stepped({env: returned}, learning)


def test_a_policy_is_kept_if_it_returned_more_and_each_is_tried_as_it_was():
    trials = Trials(policy(1), 2, 1)
    play(trials, 99.0, 10.0, 20.0, 30.0, learning=False)  # the first was begun by another
    trials.learning += 1
    play(trials, 20.0)
    assert trials.tried.tolist() == [[1]] and np.isnan(trials.best).all()
    play(trials, 20.0)
    assert trials.best[0].tolist() == [20, 10]  # of 10, 20, 30, 20, 20: variance 50, of the mean a fifth
    assert (trials.tried.item(), trials.kept.item()) == (2, 1)
    trials.learning += 1
    play(trials, 22.0, 24.0)  # 3 more, and the standard error of the difference is the root of 11
    assert (trials.tried.item(), trials.kept.item(), trials.replaced[0]) == (3, 1, 0)
    trials.learning += 1
    play(trials, 23.0, 24.0)  # 3.5 more, which is above the root of 10.25
    assert (trials.tried.item(), trials.kept.item(), trials.replaced[0]) == (4, 3, 1)
    assert trials.best[0].tolist() == [23.5, 0.25]
    play(trials, 0.0, 46.0)
    assert (trials.kept.item(), trials.replaced[0]) == (3, 1)


def test_learners_are_judged_by_their_own_episodes_each_at_its_own_time():
    trials = Trials(policy(1, 2), 1, 1)
    trials.stepped({0: 0.0, 1: 0.0}, True)
    trials.learning += 10
    trials.stepped({1: 5.0}, True)
    assert trials.tried.flatten().tolist() == [1, 12] and trials.kept.flatten().tolist() == [1, 2]
    trials.stepped({0: 7.0, 1: 4.0}, True)
    assert trials.kept.flatten().tolist() == [1, 2] and trials.best[:, 0].tolist() == [7, 5]
    trials.stepped({0: 8.0, 1: 6.0}, True)
    assert trials.kept.flatten().tolist() == [11, 12] and trials.best[:, 0].tolist() == [8, 6]
    trials = Trials(policy(1, 2), 5, 2)  # of two environments each
    trials.stepped(dict.fromkeys(range(4), 0.0), True)
    trials.stepped({1: 7.0, 2: 4.0}, True)
    assert trials.returns == [[7.0], [4.0]]


def test_an_episode_that_another_policy_began_does_not_count():
    trials = Trials(policy(1), 1, 2)
    trials.stepped({0: -100.0, 1: -100.0}, True)  # those of before fine-tuning
    trials.learning += 1
    trials.stepped({0: 5.0}, True)  # now 2 is on trial, and environment 1 is in an episode of 1
    trials.stepped({1: 900.0}, True)
    assert trials.returns == [[]] and trials.kept.item() == 1
    trials.stepped({1: 4.0}, True)
    assert trials.kept.item() == 1 and trials.best[0, 0] == 5
    trials.stepped({0: 900.0}, True)  # of 2, whose trial is over
    assert trials.returns == [[]]


def test_what_was_under_way_goes_on():
    trials = Trials(policy(1, 2), 2, 1)
    for steps in range(5):
        trials.stepped({0: float(steps), 1: -float(steps)}, steps > 1)
        trials.learning += 1
    again = Trials(policy(0, 0), 2, 1)
    again.restore(trials.state())
    for each in (trials, again):
        each.stepped({0: 3.0, 1: 3.0}, True)
        each.stepped({1: 9.0}, True)
    assert again.returns == trials.returns and again.episodes == 2
    for name in ("learning", "tried", "kept"):
        assert torch.equal(getattr(again, name), getattr(trials, name))
    for name in ("best", "replaced", "whole", "left"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trials, name))


@pytest.mark.parametrize("backbone", ["td3", "sac"])
def test_what_acts_is_frozen_what_is_handed_out_has_been_tried_and_what_learns_is_neither(backbone, monkeypatch):
    agent = distilled(backbone)
    was, acted, seen = agent.learner.actor.clone(), [], []
    explore = type(agent.learner).explore

    def spy(learner, actor, *arguments):
        acted.append(actor.clone())
        return explore(learner, actor, *arguments)

    agent.fine_tune(0, config={"critic_steps": 0, "trial_episodes": 2, "fine_tune_learning_rate": 1e-2})
    if backbone == "sac":
        was = agent.learner.actor.clone()  # of the small standard deviation
    monkeypatch.setattr(type(agent.learner), "explore", spy)
    trials = agent.recipe.trials
    agent.learn(400, lambda *_: seen.append((trials.kept.clone(), agent.learner.actor.clone())) or True)
    assert all(torch.equal(kept, handed_out) for kept, handed_out in seen)
    tried = [acted[0]]
    for actor in acted:
        tried += [] if torch.equal(actor, tried[-1]) else [actor]
    assert torch.equal(tried[0], was) and 3 <= len(tried) < 12
    assert not torch.equal(trials.learning, trials.tried)
    for k in range(2):  # what is kept was on trial, whole
        assert any(torch.equal(trials.kept[k], actor[k]) for actor in tried)


def test_an_actor_that_gets_worse_is_never_handed_out_and_it_is_said(monkeypatch, caplog):
    agent = distilled("td3", steps=400, round_updates=60)
    before = agent.evaluate(20, seed=5).means

    def ruin(recipe, *_):
        recipe.learner.actor.add_(torch.randn(recipe.learner.actor.shape) * 0.3)
        return {}

    monkeypatch.setattr("policykd.training.recipes.taught_replay.TaughtOnReplay.step", ruin)
    agent.fine_tune(800, config={"critic_steps": 0, "trial_episodes": 5})
    np.testing.assert_array_equal(agent.evaluate(20, seed=5).means, before)
    assert "students 0, 1 are unchanged: no later policy had a higher return over 5 full episodes" in caplog.text
    with torch.no_grad():
        agent.learner.actor.copy_(agent.recipe.trials.learning)
    assert (agent.evaluate(20, seed=5).means < before).all()


@pytest.mark.parametrize(("backbone", "critic_steps"), [("td3", 60), ("td3", 40), ("ppo", 60), ("ppo", 40)])
def test_a_budget_in_which_actors_never_move_says_so_and_nothing_of_trials(backbone, critic_steps, caplog):
    agent = distilled(backbone)
    before = agent.evaluate(2, seed=5).means
    agent.fine_tune(60, config={"critic_steps": critic_steps})
    stays = f"these 60 steps train only the critics (critic_steps={critic_steps})" in caplog.text
    assert stays == (critic_steps == 60)
    if stays:
        np.testing.assert_array_equal(agent.evaluate(2, seed=5).means, before)
        assert "no later policy had a higher return" not in caplog.text


def test_without_trials_the_actor_is_handed_out_as_it_is():
    agent = distilled("td3")
    was = agent.learner.actor.clone()
    agent.fine_tune(60, config={"critic_steps": 0, "trial_episodes": 0})
    assert isinstance(agent.recipe, FineTuneOnReplay) and agent.recipe.trials is None
    assert (agent.learner.actor != was).any(1).all()
