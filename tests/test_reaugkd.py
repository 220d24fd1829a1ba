"""ReAugKD: losses and mix by hand, the two stages, and a student that looks things up."""

import json
import math

import pytest
import torch
from classifiers import CLASSES, FAST, net, problem, same, trained_teacher, weights
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from policykd import Distiller, PolicyKDError
from policykd.classification.data.batches import Rows
from policykd.classification.data.sets import load
from policykd.classification.data.text import LengthBatches
from policykd.classification.measures.fidelity import answers, report
from policykd.classification.models import make_model
from policykd.classification.retrieval import (
    Lookup,
    Retrieval,
    build_memory,
    choose,
    memory_fingerprint,
    with_memory,
    with_retrieval,
)
from policykd.cli import main
from policykd.distillation.supervised.config import ReAugKDConfig
from policykd.distillation.supervised.reaugkd import (
    as_embedding,
    mixed,
    neighbours_mean,
    relational_loss,
    supervised_contrastive_loss,
)

CONFIG = {**FAST, "epochs": 4, "projection_epochs": 2, "student_features": ("body.0",), "teacher_features": ("body",)}
ANGLES = torch.tensor([0.0, 60.0, 90.0, 180.0])  # cosines 1/2, 0, -1; 0.866, -0.5; 0


def on_circle(degrees):
    radians = torch.deg2rad(degrees.double())
    return torch.stack((radians.cos(), radians.sin()), 1)


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher()


@pytest.fixture(scope="module")
def trained(teacher):
    return Distiller(net(8), teacher, method="reaugkd", config=CONFIG, device="cpu").fit(problem(), problem(seed=2))


def test_supervised_contrastive_loss_by_hand():
    """Four points on a circle, labels 0 0 1 1, temperature 1/2: exponents are twice the cosines."""
    e, half = math.exp, math.sqrt(3) / 2
    anchors = [
        -math.log(e(1) / (e(1) + e(0) + e(-2))),  # 0 degrees: positive at 60
        -math.log(e(1) / (e(1) + e(2 * half) + e(-1))),  # 60: positive at 0
        -math.log(e(0) / (e(0) + e(2 * half) + e(0))),  # 90: positive at 180
        -math.log(e(0) / (e(-2) + e(-1) + e(0))),  # 180: positive at 90
    ]
    loss = supervised_contrastive_loss(on_circle(ANGLES), torch.tensor([0, 0, 1, 1]), 0.5)
    assert float(loss) == pytest.approx(sum(anchors) / 4)
    # A label that is alone is no anchor, an example without label is not there at all.
    alone = supervised_contrastive_loss(on_circle(ANGLES), torch.tensor([0, 0, 1, -100]), 0.5)
    first = -math.log(e(1) / (e(1) + e(0)))
    second = -math.log(e(1) / (e(1) + e(2 * half)))
    assert float(alone) == pytest.approx((first + second) / 2)
    nothing = supervised_contrastive_loss(on_circle(ANGLES[:1]), torch.tensor([0]), 0.5)
    assert float(nothing) == 0.0


@pytest.mark.parametrize("keep_diagonal", [True, False])
def test_relational_loss_by_hand(keep_diagonal):
    """Student's points turned by 30, -60, 0 and 90 degrees, temperature 1/2."""
    z, x = ANGLES, ANGLES + torch.tensor([30.0, -60.0, 0.0, 90.0])
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if keep_diagonal or j != i]
        q = [math.exp(2 * math.cos(math.radians(float(z[i] - z[j])))) for j in others]
        own = [math.exp(2 * math.cos(math.radians(float(x[i] - z[j])))) for j in others]
        total += sum(a / sum(q) * math.log(a / sum(q) / (b / sum(own))) for a, b in zip(q, own, strict=True))
    loss = relational_loss(on_circle(x), on_circle(z), 0.5, keep_diagonal)
    assert float(loss) == pytest.approx(total / 4, rel=1e-6) and total > 0.1
    assert float(relational_loss(on_circle(z), on_circle(z), 0.5, keep_diagonal)) == pytest.approx(0, abs=1e-12)


def test_mix_by_hand():
    """Similarities of log 3, 0 and -inf at temperature 1 weigh 3/4, 1/4 and nothing."""
    similarities = torch.tensor([[math.log(3.0), 0.0, -math.inf]])
    values = torch.tensor([[[0.8, 0.2], [0.4, 0.6], [0.0, 1.0]]])
    mean = neighbours_mean(similarities, values, 1.0)
    torch.testing.assert_close(mean, torch.tensor([[0.7, 0.3]]))
    torch.testing.assert_close(mixed(torch.tensor([[0.1, 0.9]]), mean, 0.25), torch.tensor([[0.55, 0.45]]))


def test_embedding_of_any_feature():
    assert as_embedding(torch.ones(2, 5)).shape == (2, 5)
    sequence = torch.arange(12.0).view(2, 3, 2)
    assert torch.equal(as_embedding(sequence), sequence[:, 0])
    image = torch.arange(16.0).view(2, 2, 2, 2)
    assert torch.equal(as_embedding(image), torch.tensor([[1.5, 5.5], [9.5, 13.5]]))


def test_stages(trained):
    assert [phase.name for phase in trained.plan] == ["projection"] * 2 + ["student"] * 4
    assert {type(m) for m in trained.method.helpers("projection")} == {nn.Linear}
    assert trained.method.helpers("student") == []
    assert trained.method.projection.weight.shape == (8, 16)


def test_stage_1_leaves_the_student_alone_and_does_not_run_it(teacher):
    calls = []
    student = net(8)
    student.register_forward_hook(lambda *_: calls.append(1))
    config = {**CONFIG, "epochs": 1, "warm_up_epochs": 1, "projection_epochs": 3}
    before = weights(student)
    seen = []
    Distiller(student, teacher, method="reaugkd", config={**config, "warm_up_epochs": 0}, device="cpu").fit(
        problem(), callback=lambda d: seen.append((d.passes, len(calls), same(weights(d.student), before)))
    )
    assert seen[2] == (3, 1, True)  # once, for the shapes
    assert seen[3][1] == 1 + 6 and not seen[3][2]  # 96 examples in batches of 16


def test_student_without_labels_after_a_random_projection(teacher):
    config = {**CONFIG, "projection_epochs": 0}
    distiller = Distiller(net(8), teacher, method="reaugkd", config=config, device="cpu").fit(problem()[0])
    assert not distiller.method.uses_labels
    with pytest.raises(PolicyKDError, match="labels: the training data have none"):
        Distiller(net(8), teacher, method="reaugkd", config=CONFIG, device="cpu").fit(problem()[0])


def test_memory_is_what_the_teacher_says_in_eval_mode(trained, teacher):
    teacher.train()
    memory = build_memory(trained, problem())
    with torch.no_grad():
        eval_teacher = teacher.eval()
        keys = nn.functional.normalize(trained.method.projection(eval_teacher.body(problem()[0])))
        values = eval_teacher(problem()[0]).softmax(1)
    torch.testing.assert_close(memory.keys, keys)
    torch.testing.assert_close(memory.values, values)
    assert memory.nbytes == 96 * (8 + 3) * 4


def test_rows_of_the_memory_are_those_of_the_data_however_it_was_read(trained):
    shuffled = DataLoader(Rows(problem()), batch_sampler=LengthBatches(96, 16, seed=1), collate_fn=lambda batch: batch)
    memory, expected = build_memory(trained, shuffled), build_memory(trained, problem())
    torch.testing.assert_close(memory.keys, expected.keys)
    with pytest.raises(PolicyKDError, match="own_rows needs the 96 examples of the memory, got 50"):
        with_memory(trained, memory).evaluate(problem(50, seed=3), own_rows=True)


def test_data_without_examples_are_one_line(trained):
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    nothing = DataLoader(Nothing())
    with pytest.raises(PolicyKDError, match="knowledge base's data are empty"):
        build_memory(trained, nothing)
    with pytest.raises(PolicyKDError, match="evaluation data are empty"):
        with_memory(trained, build_memory(trained, problem())).evaluate(nothing)
    with pytest.raises(PolicyKDError, match="validation data are empty"):
        with_retrieval(trained, problem(), nothing)
    with pytest.raises(PolicyKDError, match="prediction data are empty"):
        trained.predict_proba(nothing)
    with pytest.raises(PolicyKDError, match="fidelity data are empty"):
        answers(trained.student, nothing)


def test_data_that_a_network_cannot_read_are_one_line(trained):
    inputs, labels = problem()
    narrow, retrieval = (inputs[:, :3], labels), with_memory(trained, build_memory(trained, (inputs, labels)))
    for line, ask in {
        "knowledge base's": lambda: build_memory(trained, narrow),
        "evaluation": lambda: retrieval.evaluate(narrow),
        "validation": lambda: choose(retrieval, narrow),
    }.items():
        with pytest.raises(PolicyKDError, match=rf"{line} data: .* cannot read inputs \(96, 3\)"):
            ask()


def test_beta_1_is_the_student_bit_for_bit(trained):
    inputs = problem(50, seed=3)[0]
    student = trained.student.eval()
    retrieval = with_memory(trained, build_memory(trained, problem()), Lookup(5, 0.1, 1.0)).eval()
    with torch.no_grad():
        assert torch.equal(retrieval(inputs), student(inputs))
        torch.testing.assert_close(retrieval.predict_proba(inputs), student(inputs).softmax(1))
    assert not student.body[0]._forward_hooks


def test_mix_of_a_student_and_its_memory(trained):
    inputs, memory = problem(20, seed=3)[0], build_memory(trained, problem())
    student = trained.student.eval()
    said = with_memory(trained, memory, Lookup(3, 0.2, 0.25)).predict_proba(inputs)
    with torch.no_grad():
        x = nn.functional.normalize(student.body[0](inputs))
        top = (x @ memory.keys.T).topk(3)
        expected = 0.25 * student(inputs).softmax(1) + 0.75 * (
            (top.values / 0.2).softmax(1)[..., None] * memory.values[top.indices]
        ).sum(1)
    torch.testing.assert_close(said, expected)
    torch.testing.assert_close(said.sum(1), torch.ones(20))


def test_neighbours_that_rule_a_class_out_leave_finite_logits(trained):
    """A class that all of them give 0 would be -inf, of which KL and CKA are NaN."""
    memory = build_memory(trained, problem())
    memory.values = torch.eye(CLASSES)[memory.values.argmax(1)]
    retrieval = with_memory(trained, memory, Lookup(3, 0.1, 0.0))
    measures = report(net(8), retrieval, {"test": problem(50, seed=3)})[0].measures
    assert all(math.isfinite(value) for value in measures.values())
    assert retrieval(problem(50, seed=3)[0]).isfinite().all()


def test_training_rows_do_not_find_themselves(trained):
    """Values that tell who was found: every example's own is another class than all others'."""
    memory = build_memory(trained, problem())
    for row in (0, 50):
        memory.values[:] = torch.tensor([1.0, 0.0, 0.0])
        memory.values[row] = torch.tensor([0.0, 1.0, 0.0])
        # Its own key as the query: a student that copies the teacher perfectly.
        retrieval = Retrieval(CopyOf(memory.keys), memory, "embedding", Lookup(1, 0.1, 0.0))
        rows = torch.arange(len(memory))
        labels = torch.zeros(len(memory), dtype=torch.long)
        found = retrieval.predict_proba((rows, labels))
        assert int(found[row].argmax()) == 1
        others = retrieval.predict_proba((rows, labels), own_rows=True)[row]
        torch.testing.assert_close(others, torch.tensor([1.0, 0.0, 0.0]))
        assert retrieval.evaluate((rows, labels), own_rows=True)["accuracy"] == pytest.approx(
            1.0 if _nobody_else_finds(memory, row) else 1 - _finders(memory, row) / len(memory)
        )


def _finders(memory, row):
    nearest = memory.search(memory.keys, 1, exclude=torch.arange(len(memory))).rows[:, 0]
    return int((nearest == row).sum())


def _nobody_else_finds(memory, row):
    return _finders(memory, row) == 0


class CopyOf(nn.Module):
    def __init__(self, keys):
        super().__init__()
        self.keys, self.embedding = nn.Parameter(keys), nn.Identity()

    def forward(self, rows):
        self.embedding(self.keys[rows])
        return torch.zeros(len(rows), 3)


def test_choice_on_validation_data(trained):
    retrieval = with_memory(trained, build_memory(trained, problem()))
    asked = []

    def score(probabilities, labels):
        asked.append(probabilities)
        return float(-(probabilities - 1 / 3).abs().sum())  # the vaguest wins: the widest mixture

    chosen = choose(
        retrieval, problem(30, seed=5), ks=(1, 90, 1000), temperatures=(0.1, 10.0), betas=(0, 1), score=score
    )
    assert chosen.lookup == Lookup(90, 10.0, 0) and len(asked) == 2 * 2 * 2
    even = choose(retrieval, problem(30, seed=5), score=lambda *_: 0.5)
    assert even.lookup.beta == 1  # among equals the plain student
    tied = {0.25: 1.0, 0.75: 1.0}
    betas = iter((0.25, 0.5, 0.75) * 6)
    among_k = choose(
        retrieval, problem(30, seed=5), ks=(1, 5), betas=(0.25, 0.5, 0.75), score=lambda *_: tied.get(next(betas), 0.0)
    )
    assert among_k.lookup.beta == 0.75  # whatever K comes first


def test_the_relational_loss_makes_retrieval_work_on_digits():
    """On scikit-learn's digits; the measured comparison is that of experiments/reaugkd/digits.py."""
    splits = load("digits", seed=1)
    teacher = make_model("mlp", (64, 64), splits.shape, 10, 5)
    Distiller(teacher, None, method="cross_entropy", config={"epochs": 12, "batch_size": 64}, device="cpu").fit(
        splits.train
    )
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 10))
    found = {}
    for alpha in (0.0, 2.0):
        torch.manual_seed(0)
        for layer in (student[1], student[3], student[4]):
            layer.reset_parameters()
        config = {
            "epochs": 20, "batch_size": 64, "learning_rate": 3e-3, "alpha": alpha, "eval_every": 20, "keep_best": False,
            "student_features": ("3",), "teacher_features": ("hidden.1",),
        }  # fmt: skip
        distiller = Distiller(student, teacher, method="reaugkd", config=config, device="cpu").fit(splits.train)
        memory = build_memory(distiller, splits.train)
        for beta in (1.0, 0.0):
            found[alpha, beta] = with_memory(distiller, memory, Lookup(10, 0.1, beta)).evaluate(splits.test)["accuracy"]
    assert found[0.0, 0.0] < 0.5  # without the relational loss retrieval finds anything
    assert found[2.0, 0.0] > found[0.0, 0.0] + 0.3


def test_faults_are_one_line(trained, teacher):
    memory = build_memory(trained, problem())
    other = Distiller(net(8), trained_teacher(), method="reaugkd", config={**CONFIG, "seed": 1}, device="cpu")
    other.fit(problem())
    lines = {
        "to another teacher": lambda: with_memory(other, memory),
        "k=97 neighbours, but there are 96 rows": lambda: with_memory(trained, memory, Lookup(k=97)).evaluate(
            problem()
        ),
        "beta=2 must lie": lambda: with_memory(trained, memory, Lookup(beta=2)),
        "no module 'bode'; nearest: body": lambda: Retrieval(net(8), memory, "bode"),
        "needs a distiller with method reaugkd after fit": lambda: build_memory(
            Distiller(net(8), teacher, config=FAST, device="cpu"), problem()
        ),
        "chosen on labelled": lambda: choose(with_memory(trained, memory), problem()[0]),
        "one module in student_features": lambda: Distiller(
            net(8), teacher, method="reaugkd", config=FAST, device="cpu"
        ).fit(problem()),
        "alpha=-1.0 must not": lambda: ReAugKDConfig(alpha=-1.0),
        "temperature=0.0 must be positive": lambda: ReAugKDConfig(temperature=0.0),
    }
    for line, cause in lines.items():
        with pytest.raises(PolicyKDError, match=line) as error:
            cause()
        assert "\n" not in str(error.value)


def test_fingerprint_is_of_teacher_and_projection(trained):
    before, bias = memory_fingerprint(trained), trained.method.projection.bias
    original = bias.detach().clone()
    with torch.no_grad():
        bias[0] += 1
        changed = memory_fingerprint(trained)
        bias.copy_(original)
    assert changed != before == memory_fingerprint(trained)


def test_command_line_says_at_once_that_it_needs_features(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["classify", "--method", "reaugkd", "--run-dir", str(tmp_path / "run")])
    assert "features: reaugkd compares modules: name them" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_command_line(tmp_path, capsys):
    run = tmp_path / "run"
    main(
        ["classify", "--method", "reaugkd", "--student-features", "hidden.0.0", "--teacher-features", "hidden.1",
         "--epochs", "2", "--teacher-epochs", "2", "--run-dir", str(run), "--device", "cpu"]
    )  # fmt: skip
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["lookup"].keys() == {"k", "temperature", "beta"}
    assert 0 < result["test_with_retrieval"]["accuracy"] <= 1
    assert (run / "knowledge_base.safetensors").stat().st_size > 1294 * 26 * 4
    assert "with retrieval" in capsys.readouterr().out


def test_resumes_bit_by_bit(tmp_path, teacher):
    whole = Distiller(net(8), teacher, method="reaugkd", config=CONFIG, device="cpu").fit(problem(), problem(seed=2))

    class Stop(Exception):
        pass

    def stop(distiller):
        if distiller.passes == 3:
            raise Stop

    run = tmp_path / "run"
    with pytest.raises(Stop):
        Distiller(net(8), teacher, method="reaugkd", config=CONFIG, device="cpu", run_dir=run).fit(
            problem(), problem(seed=2), callback=stop
        )
    again = Distiller.load(run, net(8, seed=9), teacher, device="cpu").fit(problem(), problem(seed=2))
    assert same(weights(again.student), weights(whole.student))
    lookup = with_retrieval(again, problem(), problem(seed=2)).lookup
    assert lookup == with_retrieval(whole, problem(), problem(seed=2)).lookup
