"""Fine-tuning off policy: first the critics, then the actors, held by an anchor that fades; resumed bit by bit."""

import numpy as np
import pytest
import torch
from test_teacher_student import COPY, REPLAY, expert
from test_teacher_student_resume import OWN
from tiny import POINT, differences

from policykd import TeacherStudent
from policykd.cli import main
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.networks import PolicyOutput
from policykd.distillation.labels import Labels
from policykd.training.recipes.fine_tune_replay import FineTuneOnReplay

OFF_POLICY = {**COPY, **{name: REPLAY[name] for name in ("batch_size", "buffer_size", "learning_starts")}}


def distilled(backbone, method="dagger", steps=80, **changes):
    alone = COPY if backbone == "ppo" else OFF_POLICY
    config = {**(alone if method == "dagger" else REPLAY), "policy_delay": 1, **changes}
    config = config if backbone == "td3" else {k: v for k, v in config.items() if k != "policy_delay"}
    return TeacherStudent(POINT, expert, method=method, backbone=backbone, seeds=(0, 3), config=config).learn(steps)


def policies(agent):
    states = torch.linspace(-1, 1, 40).view(1, 10, 4).expand(2, -1, -1)
    return agent.learner.outputs(agent.learner.actor, states)


@pytest.mark.parametrize("backbone", ["td3", "ddpg", "sac"])
def test_the_critics_learn_first_then_the_actors_and_the_anchor_lets_go(backbone, monkeypatch):
    agent = distilled(backbone)
    before, seen, step = policies(agent), [], FineTuneOnReplay.step

    def spy(recipe, *arguments):
        info = step(recipe, *arguments)
        moved = not torch.allclose(policies(agent).actions, before.actions, atol=1e-6)
        seen.append((recipe.own_steps, moved, float(recipe.teaching.lambdas[0])))
        return info

    monkeypatch.setattr(FineTuneOnReplay, "step", spy)
    monkeypatch.setattr("policykd.training.recipes.taught_replay.FADE_EVERY", 1)
    changes = {"critic_steps": 60, "anchor_steps": 80, "fine_tune_std": 0.2, "distill_schedule": "linear"}
    changes["trial_episodes"] = 0
    agent.fine_tune(0, config=changes)
    critic = agent.learner.critic.clone()
    if backbone == "sac":
        torch.testing.assert_close(policies(agent).std, torch.full_like(before.std, 0.2))
        torch.testing.assert_close(agent.learner.temperature(), torch.full((2, 1), 0.01))
    else:
        assert agent.learner.noise_std == 0.2
        assert torch.equal(agent.learner.actor_target, agent.learner.actor)
    agent.learn(100)
    assert [steps for steps, _, _ in seen] == list(range(21, 101))  # learning_starts steps are only remembered
    assert [moved for _, moved, _ in seen] == [steps > 60 for steps, _, _ in seen]
    assert [weight for *_, weight in seen] == pytest.approx([max(0, 1 - steps / 80) for steps, _, _ in seen])
    assert (agent.learner.critic != critic).any(1).all()
    assert (agent.learner.learning_rate, agent.learner.critic_learning_rate) == (1e-4, agent.config.learning_rate)
    assert (agent.method_name, agent.fine_tuned_steps) == ("fine_tune", 100)


def test_the_students_act_from_the_first_step_and_never_at_random():
    agent = distilled("td3", steps=10)  # fewer steps than learning_starts
    agent.fine_tune(0, config={"fine_tune_std": 1e-6})
    observations = agent.collector.observations
    np.testing.assert_allclose(agent.recipe.act(observations), agent.policies(observations), atol=1e-4)


def test_what_was_asked_for_is_what_is_done_and_auto_means_what_it_says():
    sac = distilled("sac").fine_tune(0, config={"ent_coef": 0.3, "anchor": "auto"})
    assert (sac.config.ent_coef, sac.config.anchor) == (0.3, "teacher")
    assert distilled("sac").fine_tune(0, config={"ent_coef": "auto"}).config.ent_coef == "auto"
    td3 = distilled("td3").fine_tune(0, config={"action_noise_std": 0.4, "anchor": "student"})
    assert (td3.config.action_noise_std, td3.config.anchor) == (0.4, "student")


def test_a_budget_below_zero_is_refused_before_anything_changes():
    agent = distilled("td3")
    learner, steps = agent.learner, agent.num_timesteps
    for go_on in (agent.learn, agent.fine_tune):
        with pytest.raises(PolicyKDError, match="total_timesteps=-5 must be at least 0"):
            go_on(-5)
    assert agent.learner is learner and agent.num_timesteps == steps and agent.tuning is None


@pytest.mark.parametrize("anchor", ["teacher", "student"])
def test_the_anchor_is_the_teacher_or_the_student_as_it_was(anchor):
    agent = distilled("td3")
    was = agent.learner.actor.clone()
    known = agent.dataset.size
    agent.fine_tune(50, config={"anchor": anchor, "critic_steps": 0})
    assert agent.dataset.size == (50 + known if anchor == "teacher" else 50)  # a teacher's old answers still hold
    states, answers = agent.dataset.storage[:, -50 + agent.dataset.size : agent.dataset.size].split([4, 7], dim=-1)
    told = Labels.unpack(answers).policy.actions
    taught = (10 * states[..., 2:]).clamp(-1, 1)  # the expert's answers
    torch.testing.assert_close(told, taught if anchor == "teacher" else agent.learner.policy(was, states))


def test_the_leash_lengthens_and_its_pull_keeps_students_on_it():
    agent = distilled("td3", steps=400, round_updates=60)
    agent.fine_tune(0, config={"anchor": "student", "critic_steps": 0, "anchor_distance": 0.5})
    recipe, weight = agent.recipe, agent.recipe.teaching.lambdas
    recipe.span = recipe.span._replace(length=100)
    assert weight.tolist() == pytest.approx([np.exp(5)] * 2)
    agent.run.num_timesteps = (
        recipe.span.start + 50
    )  # half way: the leash is 0.25 long, squared and of two actions 0.125
    for distance, falls in ((0.124, True), (0.126, False)):
        recipe.teaching.log_coefficient.zero_()
        recipe.adapt_weight(torch.full((2,), distance))
        assert ((weight < 1) == torch.tensor(falls)).all()
    agent.run.num_timesteps = recipe.span.start  # at first the leash is a hundredth of its length in the end
    for distance, falls in ((2 * 0.0049**2, True), (2 * 0.0051**2, False)):
        recipe.teaching.log_coefficient.zero_()
        recipe.adapt_weight(torch.full((2,), distance))
        assert ((weight < 1) == torch.tensor(falls)).all()
    recipe.teaching.log_coefficient.fill_(5.0)
    recipe.adapt_weight(torch.full((2,), 9.0))
    assert weight.tolist() == pytest.approx([np.exp(5)] * 2)  # the bound
    recipe.fade(0.5)
    assert weight.tolist() == pytest.approx([np.exp(5)] * 2)  # no schedule meddles


def test_the_leash_is_a_distance_of_actions_whatever_pulls():
    agent = distilled("td3", divergence="action_huber").fine_tune(0, config={"anchor": "student"})
    here, there = (PolicyOutput(torch.full((2, 3, 2), x)) for x in (0.1, 0.4))
    info = agent.recipe.teaching.losses(here, Labels(there, torch.zeros(2, 3)), lambda: None)[1]
    torch.testing.assert_close(info["distill/held"], torch.full((2,), 2 * 0.3**2))
    torch.testing.assert_close(info["distill/distance"], torch.full((2,), 0.3**2))


def test_a_schedule_by_returns_needs_the_teachers():
    agent = distilled("td3", "kickstarting", distill_schedule="return_ratio")
    with pytest.raises(PolicyKDError, match="needs a teacher as the anchor"):
        agent.fine_tune(10, config={"anchor": "student"})
    assert agent.method_name == "kickstarting"
    agent.fine_tune(30, config={"critic_steps": 0})
    assert agent.method_name == "fine_tune"


def test_a_critic_that_rl_has_trained_is_gone_on_with():
    agent = distilled("sac", "kickstarting", teacher_std=0.2)
    critic, target = agent.learner.critic.clone(), agent.learner.critic_target.clone()
    agent.fine_tune(0)
    assert torch.equal(agent.learner.critic, critic) and torch.equal(agent.learner.critic_target, target)
    assert not torch.equal(critic, target)
    assert agent.replay_buffer.size == 0 and not agent.learner.critic_adam.exp_avg.any()


HISTORY = {"student_observations": (2, 3), "history": 3}


@pytest.mark.parametrize(
    ("backbone", "anchor", "sees"),
    [("td3", "teacher", {}), ("sac", "student", {}), ("ddpg", "student", {}), ("sac", "teacher", HISTORY)],
)
def test_it_goes_on_exactly(tmp_path, backbone, anchor, sees):
    def tuned(stop):
        agent = distilled(backbone, **sees)
        changes = {"critic_steps": 40, "anchor": anchor, "trial_episodes": 1}
        return agent.fine_tune(160, config=changes, callback=lambda local_variables, _: agent.num_timesteps < stop)

    whole, half = tuned(400), tuned(150)
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors", teacher=expert if anchor == "teacher" else None)
    assert (again.method_name, again.fine_tuned_steps) == ("fine_tune", half.fine_tuned_steps)
    again.learn(240 - again.num_timesteps)
    whole.save(tmp_path / "whole", include_replay=True)
    again.save(tmp_path / "again", include_replay=True)
    states = [checkpoint.load(tmp_path / f"{name}.safetensors") for name in ("whole", "again")]
    assert [path for path in differences(*states) if not OWN & set(path.split("/"))] == []


def test_what_cannot_work_is_one_line_and_changes_nothing(tmp_path):
    agent = distilled("td3")
    for changes, message in (
        ({"net_arch": (4,)}, r"net_arch=.4,. cannot change once fine-tuning has begun"),
        ({"critic_stps": 4}, "nearest: critic_steps"),
    ):
        with pytest.raises(PolicyKDError, match=message):
            agent.fine_tune(10, config=changes)
        assert agent.method_name == "dagger" and agent.learner.actor.shape == agent.recipe.learner.actor.shape
    agent.save(tmp_path / "student")
    with pytest.raises(PolicyKDError, match="pass the teacher"):
        TeacherStudent.load(tmp_path / "student.safetensors").fine_tune(10, config={"anchor": "teacher"})
    with pytest.raises(PolicyKDError, match="anchor='teacher' is not available with ppo"):
        TeacherStudent(POINT, expert, config=COPY).fine_tune(10, config={"anchor": "teacher"})


STAYS = ({"activation_fn": "elu"}, {"layer_norm": True}, {"student_observations": (0, 1)}, {"teacher_std": 0.3})
UNFIT = [
    *(("td3", changes) for changes in (*STAYS, {"dataset_size": 10}, {"divergence": "kl_forward"})),
    *(("ppo", changes) for changes in (*STAYS, {"normalize_observation": False}, {"divergence": "kl_foward"})),
    ("td3", {"distill_schedule": "lineer"}),
    ("td3", {"buffer_size": 10**15}),
    ("sac", {"divergence": "kl_reverse"}),  # the teacher has no standard deviation
    ("ppo", {"temperature": 2.0}),
    ("ppo", {"divergence": lambda own, target: own.actions}),
]


@pytest.mark.parametrize(("backbone", "changes"), UNFIT)
def test_what_does_not_fit_is_refused_before_anything_changes(tmp_path, backbone, changes):
    agent = distilled(backbone, steps=10)
    agent.save(tmp_path / "before", include_replay=True)
    with pytest.raises(PolicyKDError, match=f"{next(iter(changes))}|memory") as caught:
        agent.fine_tune(20, config=changes)
    agent.save(tmp_path / "after", include_replay=True)
    states = [checkpoint.load(tmp_path / f"{name}.safetensors") for name in ("before", "after")]
    assert list(differences(*states)) == [] and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [("ppo", {"distill_schedule": "held_kl"}), ("sac", {"anchor": "student", "divergence": "kl_reverse"})],
)
def test_what_fits_the_anchor_and_not_the_method_before_it_is_read_back(tmp_path, backbone, changes):
    agent = distilled(backbone, steps=10).fine_tune(0, config=changes)
    agent.save(tmp_path / "tuned")
    for teacher in (expert, None):
        again = TeacherStudent.load(tmp_path / "tuned.safetensors", teacher=teacher)
        assert again.config == agent.config and again.method_name == "fine_tune"


@pytest.mark.parametrize("backbone", ["td3", "sac"])
def test_students_with_a_history_learn_from_a_replay_of_their_histories(backbone):
    agent = distilled(backbone, **HISTORY)
    before = agent.learner.actor.clone()
    agent.fine_tune(80, config={"critic_steps": 20, "trial_episodes": 0})
    assert agent.replay_buffer.size == 80 and (agent.learner.actor != before).any(1).all()
    observations = agent.replay_buffer.observations  # the latest part moves to the place before it
    torch.testing.assert_close(observations[:, 1, :4], observations[:, 0, 2:])


def test_the_command_refuses_what_it_could_not_fine_tune_before_it_distils(tmp_path, capsys):
    TeacherStudent(POINT, expert, config=COPY).save(tmp_path / "teacher")
    command = f"distill --env {POINT} --teacher {tmp_path}/teacher.safetensors --backbone sac --gru 4 --fine-tune 50"
    with pytest.raises(SystemExit):
        main([*command.split(), "--run-dir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert "fine_tune: sac cannot train students with gru: distil with ppo" in error and error.count("\n") == 1
    assert not list((tmp_path / "run").rglob("*.csv"))


@pytest.mark.nightly
def test_the_command_fine_tunes_td3_and_resumes(tmp_path, capsys):
    TeacherStudent(POINT, expert, config={**COPY, "round_updates": 100}).learn(200).save(tmp_path / "teacher")
    settings = {**OFF_POLICY, "critic_steps": 30}
    flags = [w for name, v in settings.items() if name != "net_arch" for w in (f"--{name.replace('_', '-')}", f"{v}")]
    common = [
        *f"distill --final-episodes 3 --student 4 --env {POINT} --teacher {tmp_path}/teacher.safetensors".split(),
        *flags,
    ]
    common += ["--backbone", "td3", "--total-timesteps", "80", "--run-dir", str(tmp_path / "run"), "--fine-tune"]
    main([*common, "40"])
    assert "fine-tuning with the task's own reward" in capsys.readouterr().out
    main([*common, "70", "--resume"])
    assert "resuming from 120 steps" in capsys.readouterr().out
    agent = TeacherStudent.load(tmp_path / "run")
    assert (agent.method_name, agent.num_timesteps, agent.fine_tuned_steps) == ("fine_tune", 150, 70)
    assert (tmp_path / "run" / "dagger-td3").is_dir()


class Counts:
    """Pushes by how many observations of its episode it has seen."""

    def reset(self):
        self.seen = 0

    def __call__(self, observation):
        self.seen += 1
        return np.full(2, self.seen / 1_000, np.float32)


def test_a_teacher_that_is_the_anchor_again_is_asked_anew():
    config = {**OFF_POLICY, "teacher_episodes": 1, "allow_weak_teacher": True}
    agent = TeacherStudent(POINT, Counts(), backbone="td3", config=config).learn(70)
    agent.fine_tune(50, config={"anchor": "student", "critic_steps": 10})
    agent.fine_tune(5, config={"anchor": "teacher"})
    dataset = agent.dataset  # neither the students' answers nor a memory of the episode before those
    answers = dataset.storage[:, : dataset.size].split(dataset.sections, dim=-1)[1]
    pushes = Labels.unpack(answers, discrete=False).policy.actions[0, :, 0]
    assert (pushes * 1_000).round().tolist() == [1, 2, 3, 4, 5]


def against(observation):
    """Away from the goal: worse than random actions."""
    return -expert(observation)


STATES = {"observations": np.random.default_rng(0).uniform(-1, 1, (60, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    ("options", "words"), [({}, "it is too weak to teach"), ({"callback": 3}, "callback: must be .*, got a int")]
)
def test_what_is_refused_when_learning_begins_leaves_the_students_as_they_were(options, words):
    agent = TeacherStudent(POINT, against, backbone="td3", config=OFF_POLICY).learn_from(STATES, 5)
    before = agent.settings, agent.learner, agent.recipe
    with pytest.raises(PolicyKDError, match=words):
        agent.fine_tune(40, config={"anchor": "teacher"}, **options)
    assert before == (agent.settings, agent.learner, agent.recipe)
    assert (agent.method_name, agent.num_timesteps) == ("dagger", 0)


def test_schedules_of_fine_tuning_begin_with_it_also_after_a_run_that_was_stopped():
    agent = TeacherStudent(POINT, expert, config=COPY)
    agent.learn(100, callback=lambda *_: agent.num_timesteps < 40)
    fractions = []
    agent.fine_tune(60, callback=lambda *_: fractions.append(agent.run.fraction) or True)
    assert fractions[0] == 4 / 60 and agent.run.span == (40, 100)


def test_what_the_teacher_returned_is_not_taken_for_the_students_return():
    agent = distilled("td3", method="bc", steps=120, learning_starts=0)
    assert all(agent.run.returns())  # of episodes in which the teacher acted
    agent.fine_tune(0, config={"anchor": "teacher", "distill_schedule": "return_ratio", "distill_coef": 0.5})
    agent.learn(5)
    assert agent.recipe.teaching.lambdas.tolist() == [0.5, 0.5]


def test_what_was_asked_for_once_stays_when_fine_tuning_is_called_again():
    td3 = distilled("td3").fine_tune(0, config={"action_noise_std": 0.4}).fine_tune(0)
    assert td3.config.action_noise_std == 0.4
    assert td3.fine_tune(0, config={"fine_tune_std": 0.3}).config.action_noise_std == 0.3
    sac = distilled("sac").fine_tune(0, config={"ent_coef": "auto"}).fine_tune(0)
    assert sac.config.ent_coef == "auto"
