"""What a user of the classification mode can do wrong: each time one clear line. And the data sets."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from classifiers import CLASSES, FAST, SIZE, net, problem
from PIL import Image
from scipy.sparse import csr_matrix
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from policykd import Distiller, PolicyKDError
from policykd.classification.data import sets as data
from policykd.classification.models import make_model, parameters
from policykd.cli import main

INPUTS, LABELS = problem()


def fit(train=(INPUTS, LABELS), validation=None, student=None, teacher=None, method="hinton", adaptor=None, **changes):
    more = {} if adaptor is None else {"adaptor": adaptor}
    config = {**FAST, "epochs": 1, **changes}
    Distiller(student or net(8), teacher or net(16), method=method, config=config, device="cpu", **more).fit(
        train, validation
    )


class Sequence(nn.Module):
    """Gives features (B, N, D)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 4))
        self.unused = nn.Linear(1, 1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, inputs):
        return self.head(self.body(inputs[:, :, None]).mean(1))


class Named(nn.Module):
    """Gives its answers under a name of its own."""

    def forward(self, inputs):
        return {"out": inputs}


def features(student, teacher):
    return {"student_features": tuple(student), "teacher_features": tuple(teacher)}


def poison(batch):
    """The inputs of one batch become infinite."""
    poison.batches += 1
    return (batch[0] * (torch.inf if poison.batches == 4 else 1), batch[1])


WRONG = {
    "classes": (lambda: fit(teacher=net(16, classes=5)), "student answers (16, 3) and the teacher (16, 5)"),
    "no such module": (
        lambda: fit(method="vid", **features(["bodi"], ["body"])),
        "features: the student has no module 'bodi'; nearest: body",
    ),
    "no such teacher module": (
        lambda: fit(method="vid", **features(["body"], ["body.9"])),
        "features: the teacher has no module 'body.9'; nearest: body.3, body.2, body.1",
    ),
    "no features": (lambda: fit(method="fitnets"), "name as many in student_features as in teacher_features"),
    "unequal numbers": (lambda: fit(method="rid", **features(["body"], ["body", "head"])), "now 1 and 2"),
    "ranks": (
        lambda: fit(method="vid", student=Sequence(), **features(["body"], ["body"])),
        "pair 0 of vid is (16, 6, 4) and (16, 16)",
    ),
    "not called": (
        lambda: fit(method="vid", student=Sequence(), **features(["unused"], ["body"])),
        "module 'unused' of the student is not called",
    ),
    "label too large": (lambda: fit((INPUTS, LABELS + 1)), "labels: 3 is out of range for 3 classes: use 0 to 2"),
    "negative label": (lambda: fit((INPUTS, LABELS - 1)), "labels: -1 is out of range"),
    "labels of another kind": (lambda: fit((INPUTS, LABELS.float())), "one whole number per example, (96,), got"),
    "one-hot labels": (lambda: fit((INPUTS, nn.functional.one_hot(LABELS))), "got torch.int64 (96, 3)"),
    "no labels": (lambda: fit((INPUTS,)), "have none, but this hinton uses them: give fit((inputs, labels))"),
    "wrong validation labels": (lambda: fit(validation=(INPUTS, LABELS + 1)), "labels: 3 is out of range"),
    "sparse inputs": (lambda: fit((INPUTS.to_sparse(), LABELS)), "give to_dense() of a tensor"),
    "a sparse matrix": (lambda: fit((csr_matrix(INPUTS.numpy()), LABELS)), "toarray() of a matrix"),
    "a dict of inputs": (lambda: fit(({"inputs": INPUTS}, LABELS)), "a dict has no rows: give a list or a Dataset of"),
    "no logits in a dict": (lambda: fit(student=Named()), "alone or as .logits; got dict"),
    "an adaptor for other batches": (
        lambda: fit(adaptor=lambda batch: batch["x"]),
        "adaptor: must return (inputs, labels) for each batch, here a tuple of 2: TypeError",
    ),
    "an adaptor without labels": (lambda: fit(adaptor=lambda batch: batch[0]), "adaptor: must return (inputs, labels)"),
    "tensors for a divergence": (
        lambda: fit(divergence=nn.functional.kl_div),
        "divergence: must return (B,) for two outputs with .logits (B, C), the student's and the teacher's: TypeError",
    ),
    "a weight of one": (lambda: fit(example_weight=lambda teacher: teacher), "example_weight: must return (1, B) for"),
    "a weight of another shape": (lambda: fit(example_weight=lambda a, b: a[:, :2]), "one number for each of (16,)"),
    "torch's schedule": (
        lambda: fit(learning_rate_schedule=torch.optim.lr_scheduler.CosineAnnealingLR),
        "fails at 0.5 (TypeError: CosineAnnealingLR",
    ),
    "a schedule without progress": (lambda: fit(alpha_schedule=lambda: 1.0), "fails at 0.5 (TypeError"),
    "an optimiser that is made": (
        lambda: fit(optimizer=torch.optim.SGD(net(4).parameters())),
        "must be str | function",
    ),
    "validation of NaN": (
        lambda: fit(validation=(INPUTS.index_fill(0, torch.arange(5), torch.nan), LABELS)),
        "the student's answers to 5 of 96 examples are NaN: check these inputs",
    ),
    "predictions for NaN": (
        lambda: Distiller(net(8), net(8)).predict(INPUTS.index_fill(0, torch.arange(5), torch.nan)),
        "the student's answers to 5 of 96 examples are NaN",
    ),
    "empty arrays": (lambda: fit((INPUTS[:0], LABELS[:0])), "data: the training data are empty"),
    "empty loader": (lambda: fit(DataLoader(TensorDataset(INPUTS[:0]), 4)), "data: the training data are empty"),
    "empty validation": (lambda: fit(validation=(INPUTS[:0], LABELS[:0])), "data: the validation data are empty"),
    "lengths": (lambda: fit((INPUTS, LABELS[:-1])), "inputs and labels differ in length: [96, 95]"),
    "no data": (lambda: fit(3), "data: a int is not arrays (inputs, labels), a Dataset or a DataLoader"),
    "a mapping": (lambda: fit({"inputs": INPUTS, "labels": LABELS}), "data: a dict is not arrays"),
    "examples without labels": (lambda: fit([(row, None) for row in INPUTS]), "data: examples cannot be collated"),
    "examples of many sizes": (lambda: fit([(row[: n % 6], 0) for n, row in enumerate(INPUTS)]), "cannot be collated"),
    "strange batch": (lambda: fit(DataLoader(["a", "b"], 2, collate_fn=str)), "a batch is a str"),
    "no logits": (
        lambda: fit(student=nn.Flatten(0)),
        "Flatten must return logits (B, C), alone or as .logits",
    ),
    "nan": (
        lambda: fit((INPUTS.index_fill(0, torch.arange(96), torch.nan), LABELS)),
        "kd_loss is nan at step 1 (student)",
    ),
    "later infinity": (lambda: fit(adaptor=poison), "at step 2 (student): look at the inputs, or lower learning_rate"),
    "mixup with labels": (lambda: fit(mixup=1.0), "mixup: only the teacher can label mixed examples"),
    "mixup with a warm-up": (lambda: fit(mixup=1.0, alpha=1.0, warm_up_epochs=1), "mixup: only the teacher"),
    "no teacher": (lambda: Distiller(net(4), None), "teacher: missing: hinton needs one"),
    "a teacher that is none": (
        lambda: Distiller(net(4), "resnet"),
        "a torch module, a Teacher, a list of them or None",
    ),
    "empty ensemble": (lambda: Distiller(net(4), []), "an ensemble needs at least one network"),
    "unknown method": (lambda: fit(method="hintn"), "method: 'hintn' is unknown; nearest: hinton"),
    "unknown setting": (lambda: fit(temprature=2.0), "unknown key 'temprature' for HintonConfig; nearest: temperature"),
    "setting of another method": (lambda: fit(top_k=2), "unknown key 'top_k' for HintonConfig"),
    "bad setting": (lambda: fit(alpha=1.5), "config: alpha=1.5 must lie in [0, 1]"),
    "bad temperature": (lambda: fit(temperature=0.0), "config: temperature=0.0 must be positive"),
    "long warm-up": (lambda: fit(warm_up_epochs=2), "config: warm_up_epochs=2 of 1 epochs"),
    "short cycle": (lambda: fit(method="rid", cycle_epochs=1), "must be at least 2, for both phases"),
    "budget": (lambda: fit(method="disk", warm_up_epochs=0, budget=(0.5,)), "needs two numbers >= 0, first and last"),
    "device": (lambda: Distiller(net(4), net(4), device="tpu"), "device: 'tpu' is unknown"),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_clear_line(case):
    poison.batches = 0
    attempt, message = WRONG[case]
    with pytest.raises(PolicyKDError) as error:
        attempt()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_failed_run_keeps_its_last_checkpoint(tmp_path):
    """NaN in the second pass: the checkpoint is that of the first, and the hooks are gone."""
    student, calls = net(8), []

    def later(batch):
        calls.append(1)
        return (batch[0] * (torch.nan if len(calls) > 10 else 1), batch[1])

    distiller = Distiller(
        student, net(16), config={**FAST, "epochs": 3}, device="cpu", run_dir=tmp_path / "run", adaptor=later
    )
    with pytest.raises(PolicyKDError, match="is nan at step"):
        distiller.fit((INPUTS, LABELS))
    kept = Distiller.load(tmp_path / "run", net(8), net(16), device="cpu")
    assert kept.passes == 1 and all(p.isfinite().all() for p in kept.student.parameters())


def test_run_folders_and_checkpoints(tmp_path):
    make = lambda folder: Distiller(net(8), net(16), config={**FAST, "epochs": 1}, device="cpu", run_dir=folder)  # noqa: E731
    make(tmp_path / "run").fit((INPUTS, LABELS))
    with pytest.raises(PolicyKDError, match="exists and is not empty"):
        make(tmp_path / "run")
    with pytest.raises(PolicyKDError, match="differs in shape from the saved one"):
        Distiller.load(tmp_path / "run", net(9), net(16))
    with pytest.raises(PolicyKDError, match="the teacher is not the one"):
        Distiller.load(tmp_path / "run", net(8), net(16, seed=7))
    with pytest.raises(PolicyKDError, match="no file"):
        Distiller.load(tmp_path / "nothing", net(8))
    content = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(PolicyKDError, match="damaged"):
        Distiller.load(tmp_path / "half.safetensors", net(8))


def test_digits_are_split_and_normalised():
    splits = data.load("digits", seed=3)
    assert splits.shape == (1, 8, 8) and splits.classes == 10
    assert [len(part.labels) for part in splits[:3]] == [1293, 144, 360]
    assert abs(splits.train.inputs.mean()) < 1e-3 and splits.train.inputs.std() == pytest.approx(1, abs=1e-3)
    rows = [{row.tobytes() for row in part.inputs} for part in splits[:3]]
    assert len(rows[0] & rows[1]) < 5 and len(rows[0] & rows[2]) < 5  # some digits are pixel for pixel the same
    again, other = data.load("digits", seed=3), data.load("digits", seed=4)
    assert np.array_equal(splits.train.inputs, again.train.inputs)
    assert not np.array_equal(splits.train.labels, other.train.labels)
    assert np.array_equal(splits.test.labels, other.test.labels)
    assert len(data.load("digits", examples=100).train.labels) == 90


def write_idx(path, array):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files(tmp_path, end, monkeypatch):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (n, 5, 4), dtype=np.uint8) for n in (30, 10)]
    labels = [np.arange(n, dtype=np.uint8) % 3 for n in (30, 10)]
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part, image, label in zip(("train", "t10k"), images, labels, strict=True):
        write_idx(folder / f"{part}-images-idx3-ubyte{end}", image)
        write_idx(folder / f"{part}-labels-idx1-ubyte{end}", label)
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    splits = data.load("fashion-mnist")
    assert splits.shape == (1, 5, 4) and len(splits.train.labels) == 27
    back = splits.test.inputs[:, 0] - splits.test.inputs.min()
    assert np.allclose(back / back.max(), (images[1] - images[1].min()) / np.ptp(images[1]), atol=1e-6)
    file = folder / f"train-images-idx3-ubyte{end}"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(PolicyKDError, match="cannot read"):
        data.load("fashion-mnist")


def test_npz_and_folders_of_images(tmp_path):
    arrays = {
        "train_inputs": INPUTS.numpy(),
        "train_labels": LABELS.numpy(),
        "test_inputs": INPUTS.numpy(),
        "test_labels": LABELS.numpy(),
    }
    np.savez(tmp_path / "set.npz", **arrays)
    assert data.load(str(tmp_path / "set.npz")).shape == (SIZE,)
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for n in range(4):
                pixels = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{n}.png")
    splits = data.load(str(tmp_path / "images"))
    assert splits.shape == (3, 6, 5) and splits.classes == 2 and len(splits.test.labels) == 8
    (tmp_path / "images" / "test" / "cats").mkdir()
    with pytest.raises(PolicyKDError, match=r"the test part of .*images has a class 'cats' .* lacks; nearest: cat"):
        data.load(str(tmp_path / "images"))
    (tmp_path / "images" / "test" / "cats").rmdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "train" / "cat" / "9.png")
    with pytest.raises(PolicyKDError, match="images of one size"):
        data.load(str(tmp_path / "images"))
    np.savez(tmp_path / "objects.npz", **{**arrays, "train_inputs": np.array([{}, {}], dtype=object)})
    with pytest.raises(PolicyKDError, match="cannot read"):  # nothing in a file is run
        data.load(str(tmp_path / "objects.npz"))


def test_images_of_16_bits_keep_their_values(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (2, 2, 4, 6, 5)).astype(np.uint16)
    for split, parts in zip(("train", "test"), pixels, strict=True):
        for name, images in zip(("cat", "dog"), parts, strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for number, image in enumerate(images):
                Image.fromarray(image).save(tmp_path / split / name / f"{number}.png")
    read = data.load(str(tmp_path)).test.inputs
    assert read.shape == (8, 1, 6, 5)
    assert np.corrcoef(read.ravel(), pixels[1].ravel())[0, 1] == pytest.approx(1)
    Image.fromarray((pixels[1, 0, 0] >> 8).astype(np.uint8)).save(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(PolicyKDError, match="images of one size and kind"):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("digts", "nearest: digits"), ("mnist", "set POLICYKD_DATA"), ("nothing.npz", "cannot read nothing.npz")],
)
def test_unknown_data(name, message, monkeypatch):
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)
    with pytest.raises(PolicyKDError, match=message):
        data.load(name)


def test_missing_files(tmp_path):
    with pytest.raises(PolicyKDError, match="IDX files"):
        data.load("mnist", tmp_path)
    with pytest.raises(PolicyKDError, match="asked for examples=9999"):
        data.load("digits", examples=9999)


def test_models():
    assert parameters(make_model("mlp", (32,), (1, 28, 28), 10, 0)) == 785 * 32 + 33 * 10
    cnn = make_model("cnn", (8, 16, 32, 64), (1, 28, 28), 10, 0)
    assert parameters(cnn) == 25_034 and cnn(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    first, second = (make_model("mlp", (4,), (6,), 3, seed) for seed in (0, 1))
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    for kind, widths in (("resnet", (8,)), ("mlp", ()), ("cnn", (8, 8, 8, 8, 8))):
        with pytest.raises(PolicyKDError, match="model:"):
            make_model(kind, widths, (1, 8, 8), 10, 0)


COMMAND = ["classify", "--method", "rid", "--student-widths", "4", "--teacher-widths", "8", "--teacher-epochs", "2"]
COMMAND += ["--examples", "200", "--epochs", "2", "--cycle-epochs", "2", "--filter-warm-up-epochs", "1"]
COMMAND += ["--student-features", "hidden", "--teacher-features", "hidden", "--device", "cpu"]


def test_command(tmp_path, capsys):
    run = tmp_path / "run"
    main([*COMMAND, "--run-dir", str(run)])
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert {"accuracy", "agreement", "kl", "ece", "nll"} <= result["test"].keys() and len(result["validation"]) == 2
    assert "policykd classify: rid on digits, 180 training examples" in capsys.readouterr().out
    main([*COMMAND, "--run-dir", str(run), "--resume"])  # all is done: the same result once more
    assert "resuming student, passes done: 5" in capsys.readouterr().out  # 2 of the student, 3 of filters
    assert json.loads((run / "result.json").read_text(encoding="utf-8")) == result
    for arguments, message in (
        ([*COMMAND, "--run-dir", str(run)], "is not empty"),
        ([*COMMAND, "--run-dir", str(run), "--resume", "--epochs", "3"], "made with other settings"),
        ([*COMMAND, "--resume"], "name the run"),
        (["classify", "--method", "rod"], "nearest: rkd, rid"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    weights = run / "teacher" / "best_model.safetensors"
    main([*COMMAND, "--teacher-files", str(weights), "--run-dir", str(tmp_path / "again")])
    assert json.loads((tmp_path / "again" / "result.json").read_text(encoding="utf-8"))["test"] == result["test"]
    both = ["--teacher-files", str(weights), str(weights), "--teacher-features", "members.1.hidden"]
    main([*COMMAND, *both, "--run-dir", str(tmp_path / "ensemble")])
    for arguments, message in (
        (["--teacher-files", str(weights), "--teacher-widths", "9"], "differs in shape from the saved one"),
        (["--teacher-files", str(run / "result.json")], "teacher: cannot read"),
        (["--teacher-files", "nothing"], "teacher: cannot read nothing"),
    ):
        with pytest.raises(SystemExit):
            main([*COMMAND, *arguments, "--run-dir", str(tmp_path / "wrong")])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()
