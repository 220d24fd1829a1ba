"""Who copies whom, turn by turn, where groups have more than two peers."""

import pytest

from policykd import DualStudent

TINY = {
    "net_arch": (8,),
    "batch_size": 16,
    "distill_batch_size": 16,
    "buffer_size": 500,
    "eval_freq": 0,
    "n_eval_episodes": 1,
}


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
@pytest.mark.parametrize("peers", [3, 4])
def test_everybody_is_taught_by_everybody_whatever_the_policy_delay(monkeypatch, peers, backbone):
    agent = DualStudent("PolicyKD/PointReach-v0", peers=peers, backbone=backbone, config=TINY, compile=False)
    agent.learn(100 * peers)
    teachers = set()
    distil = agent.recipe.distillation.update

    def spy(states, peer_of, *rest):
        teachers.update(enumerate(peer_of.tolist()))
        return distil(states, peer_of, *rest)

    monkeypatch.setattr(agent.recipe.distillation, "update", spy)
    for _ in range(2 * (peers - 1)):
        agent.recipe.step(0.0, False)
    assert teachers == {(k, other) for k in range(peers) for other in range(peers) if other != k}


def test_one_way_td3_teaches_all_others():
    agent = DualStudent("PolicyKD/PointReach-v0", peers=3, method="one_way", backbone="td3", config=TINY, compile=False)
    agent.learn(150 * 3)
    assert agent.recipe.distillation.adam.exp_avg_sq.any(1).tolist() == [False, True, True]
