"""A distiller resumes bit by bit, and its seed decides everything."""

import pandas as pd
import pytest
import torch
from classifiers import make, net, problem, same, trained_teacher, weights
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from policykd import Distiller
from policykd.classification.distiller import BEST
from policykd.classification.trainer import Trainer
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher()


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["hinton", "ted", "disk", "rid"])
@pytest.mark.parametrize("after", [0, 2, 4])
def test_resumed_runs_are_the_uninterrupted_run(method, after, teacher, tmp_path, monkeypatch):
    """Killed in the middle of a pass after 0, 2 or 4 whole ones: weights, log and best student are bit-identical."""
    train, validation = problem(), problem(seed=2)
    whole = make(method, net(8), teacher, tmp_path / "whole").fit(train, validation)
    killed = make(method, net(8), teacher, tmp_path / "killed")
    loss, steps = Trainer._loss, []

    def until(self, phase, batch):
        steps.append(1)
        if len(steps) > after * 6 + 3:
            raise Stop
        return loss(self, phase, batch)

    if after < len(whole.plan):
        monkeypatch.setattr(Trainer, "_loss", until)
        with pytest.raises(Stop):
            killed.fit(train, validation)
        monkeypatch.setattr(Trainer, "_loss", loss)
    else:
        killed.fit(train, validation)
    if after == 0:
        return  # nothing was saved yet, and nothing is there that claims to be
    torch.manual_seed(1234)  # whatever happened in between
    resumed = Distiller.load(tmp_path / "killed", net(8, seed=9), teacher, device="cpu")
    assert resumed.passes == min(after, len(whole.plan))
    resumed.fit(train, validation)
    assert same(weights(resumed.student), weights(whole.student))
    assert same(weights(resumed.method), weights(whole.method))
    assert resumed.history == whole.history
    logs = [
        pd.read_csv(tmp_path / name / "progress.csv", dtype=str).drop(columns="time/fps")
        for name in ("whole", "killed")
    ]
    assert logs[0].equals(logs[1])
    assert (tmp_path / "whole" / BEST).read_bytes() == (tmp_path / "killed" / BEST).read_bytes()


class Noisy(TensorDataset):
    """Augments inside."""

    def __getitem__(self, index):
        inputs, label = super().__getitem__(index)
        return inputs + torch.randn_like(inputs), label


def with_generators(seed=7):
    """A loader as torch's page on reproducibility has it, with a sampler for rare classes."""
    rows, generator = Noisy(*problem()), torch.Generator().manual_seed(seed)
    sampler = WeightedRandomSampler(torch.ones(len(rows)), len(rows), generator=generator)
    return DataLoader(rows, 16, sampler=sampler, generator=torch.Generator().manual_seed(8), num_workers=1)


def test_a_loaders_own_generators_begin_every_pass_anew(teacher, tmp_path):
    """They would go on from pass to pass, and a resumed run would see other examples."""
    whole = make("hinton", net(8), teacher, epochs=3).fit(with_generators())
    killed = make("hinton", net(8), teacher, tmp_path / "killed", epochs=3)

    def stop(distiller):
        if distiller.passes == 2:
            raise Stop

    with pytest.raises(Stop):
        killed.fit(with_generators(), callback=stop)
    resumed = Distiller.load(tmp_path / "killed", net(8, seed=9), teacher, device="cpu").fit(with_generators())
    assert same(weights(resumed.student), weights(whole.student))


def test_a_samplers_own_seed_counts(teacher):
    loaders = with_generators(7), with_generators(11)
    runs = [weights(make("hinton", net(8), teacher, epochs=1).fit(loader).student) for loader in [loaders[0], *loaders]]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_fit_called_again_goes_on(teacher, caplog):
    """A finished run stays as it is, and says so; an interrupted one keeps helpers and optimisers."""
    distiller = make("rid", net(8), teacher).fit(problem(), problem(seed=2))
    before = weights(distiller.student), weights(distiller.method)
    assert caplog.text == ""
    distiller.fit(problem(), problem(seed=2))
    assert f"fit: all {distiller.epochs} epochs are done: nothing was trained" in caplog.text
    assert same(before[0], weights(distiller.student)) and same(before[1], weights(distiller.method))


def stopped(teacher, data, validation=None, **changes):
    """A distiller whose training was stopped after two passes."""

    def stop(distiller):
        if distiller.passes == 2:
            raise Stop

    distiller = make("hinton", net(8), teacher, epochs=4, **changes)
    with pytest.raises(Stop):
        distiller.fit(data, validation, callback=stop)
    return distiller


@pytest.mark.parametrize("method", ["hinton", "rid"])
def test_a_check_changes_nothing(method, teacher, tmp_path):
    """Not before a run that was stopped, or read back, goes on: optimisers and helpers would begin anew."""
    whole = make(method, net(8), teacher).fit(problem())
    going, passes = make(method, net(8), teacher, tmp_path / "run"), len(whole.plan)

    def stop(distiller):
        if distiller.passes == passes - 2:
            raise Stop

    with pytest.raises(Stop):
        going.fit(problem(), callback=stop)
    read = Distiller.load(tmp_path / "run", net(8, seed=9), teacher, device="cpu")
    for distiller in (going, read):
        epochs = distiller.epochs
        distiller.check(problem())
        assert distiller.epochs == epochs
        assert same(weights(distiller.fit(problem()).student), weights(whole.student))
        distiller.check(problem())
        assert same(weights(distiller.method), weights(whole.method))


def test_clipping_unscales_once_also_where_fit_is_called_again(teacher, monkeypatch):
    """A GPU's fp16 scales losses; a second unscaling left gradients of almost nothing."""
    whole = make("hinton", net(8), teacher, max_grad_norm=0.1).fit(problem())
    scaled = make("hinton", net(8), teacher, max_grad_norm=0.1)
    monkeypatch.setattr(scaled.accelerator, "scaler", torch.amp.GradScaler("cpu", init_scale=1024.0))
    monkeypatch.setattr(scaled.accelerator, "native_amp", True)
    monkeypatch.setitem(scaled.accelerator.state.__dict__, "_mixed_precision", "fp16")

    def stop(distiller):
        if distiller.passes == 2:
            raise Stop

    with pytest.raises(Stop):
        scaled.fit(problem(), callback=stop)
    assert same(weights(scaled.fit(problem()).student), weights(whole.student))


def test_without_validation_the_last_student_is_kept_whatever_an_earlier_call_measured(teacher):
    distiller, latest = stopped(teacher, problem(), problem(seed=2)), []
    distiller.fit(problem(), callback=lambda d: latest.append(weights(d.student)))
    assert len(latest) == 2 and same(weights(distiller.student), latest[-1])


def test_the_learning_rate_falls_by_passes_also_on_data_of_another_length(teacher):
    inputs, labels = problem()
    half, rates = len(inputs) // 2, []

    def rate(distiller):
        rates.append(distiller.optimizers["student"].param_groups[0]["lr"])

    distiller = stopped(teacher, (inputs, labels), learning_rate_schedule="linear")
    distiller.fit((inputs[:half], labels[:half]), callback=rate)
    assert rates == pytest.approx([0.25e-2, 0.0])


def test_the_learning_rate_falls_to_its_end_after_a_pass_that_was_cut_short(teacher):
    seen = []

    def cut(inputs):
        seen.append(inputs)
        if len(seen) == 8:
            raise Stop
        return inputs

    distiller = make("hinton", net(8), teacher, epochs=4, learning_rate_schedule="linear")
    with pytest.raises(Stop):
        distiller.fit(problem(), augment=cut)
    rates = []
    distiller.fit(problem(), callback=lambda d: rates.append(d.schedulers["student"].get_last_lr()[0]))
    assert rates == pytest.approx([0.5e-2, 0.25e-2, 0.0])


def test_the_seed_decides_everything(teacher):
    runs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        student = net(8)
        make("vid", student, teacher, seed=seed).fit(problem())
        runs.append(weights(student))
        assert torch.initial_seed() == noise  # the caller's generators are left as they were
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


INPUTS, LABELS = problem()


class OneByOne(Dataset):
    """Rows that are not seen as a whole."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return INPUTS[index], LABELS[index]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            (INPUTS[:48], LABELS[:48]),
            r"training data differ from the run's \(shapes \[\[96, 6\], \[96\]\] then, \[\[48, 6\]",
        ),
        (
            (INPUTS.flip(0), LABELS.flip(0)),
            r"training data differ from the run's \(as many examples, but different ones\): give the same",
        ),
        ((INPUTS, LABELS.where(torch.arange(96) > 0, (LABELS + 1) % 3)), "as many examples, but different ones"),
        (DataLoader(TensorDataset(INPUTS + 1, LABELS), 16, shuffle=True), "as many examples, but different ones"),
        (OneByOne(range(95)), "rows 96 then, 95 now"),
    ],
)
def test_a_resumed_run_refuses_other_data(other, words, teacher, tmp_path):
    held = problem(seed=2)
    whole = make("hinton", net(8), teacher, epochs=4).fit(problem(), held)
    stopped(teacher, problem(), held, run_dir=tmp_path / "run")
    resumed = Distiller.load(tmp_path / "run", net(8, seed=9), teacher, device="cpu")
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    with pytest.raises(PolicyKDError, match=words):
        resumed.fit(other, held)
    with pytest.raises(PolicyKDError, match="the validation data differ from the run's"):
        resumed.fit(problem(), problem(seed=3))
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before
    resumed.save(tmp_path / "again")
    for distiller in (resumed, Distiller.load(tmp_path / "again", net(8, seed=9), teacher, device="cpu")):
        assert same(weights(distiller.fit(problem(), held).student), weights(whole.student))


@pytest.mark.parametrize(
    "alike",
    [
        (INPUTS.double().numpy(), LABELS.int().numpy()),
        (INPUTS * (1 + 1e-7), LABELS),
        OneByOne(range(96)),
        DataLoader(OneByOne(range(96)), 16),
    ],
)
def test_the_same_data_in_another_form_go_on(alike, teacher, tmp_path):
    stopped(teacher, problem(), run_dir=tmp_path / "run")
    assert Distiller.load(tmp_path / "run", net(8), teacher, device="cpu").fit(alike).passes == 4


def test_runs_from_before_their_data_were_noted_resume(teacher, tmp_path):
    whole = make("hinton", net(8), teacher, epochs=4).fit(problem())
    stopped(teacher, problem(), run_dir=tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / CHECKPOINT)
    assert list(saved.pop("data")) == ["training"]
    checkpoint.save(tmp_path / "run" / CHECKPOINT, saved)
    resumed = Distiller.load(tmp_path / "run", net(8, seed=9), teacher, device="cpu")
    assert same(weights(resumed.fit(problem()).student), weights(whole.student))


def test_checkpoints_from_before_the_loss_scaler_was_saved_resume(teacher, tmp_path):
    """Read and written again, they go on bit by bit as well."""
    whole = make("hinton", net(8), teacher).fit(problem())

    def stop(distiller):
        if distiller.passes == 2:
            raise Stop

    with pytest.raises(Stop):
        make("hinton", net(8), teacher, tmp_path / "run").fit(problem(), callback=stop)
    saved = checkpoint.load(tmp_path / "run" / CHECKPOINT)
    assert saved.pop("scaler") is None  # there is one in fp16 alone
    checkpoint.save(tmp_path / "older.safetensors", saved)
    Distiller.load(tmp_path / "older.safetensors", net(8, seed=9), teacher, device="cpu").save(tmp_path / "again")
    for name in ("older", "again"):
        resumed = Distiller.load(tmp_path / f"{name}.safetensors", net(8, seed=9), teacher, device="cpu")
        assert resumed.passes == 2
        assert same(weights(resumed.fit(problem()).student), weights(whole.student))
