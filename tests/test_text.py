"""Text: files of GLUE's kinds, tokens in batches of like length, transformers from a folder, the command."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file, save_file

from policykd import Distiller, PolicyKDError
from policykd.classification.data.text import Texts, bucketed, class_metrics, read_texts, split, tokenise
from policykd.cli import main

transformers = pytest.importorskip("transformers", reason="needs policykd[transformers]")
from policykd.classification.retrieval import build_memory  # noqa: E402
from policykd.classification.transformer import (  # noqa: E402
    EMBEDDING,
    TextClassifier,
    load_classifier,
    load_tokenizer,
    model_classes,
)
from policykd.cli.text_run import agreed_class_names  # noqa: E402

GOOD, BAD = ["good", "fine", "great"], ["bad", "poor", "awful"]
WORDS = [*GOOD, *BAD, "a", "the", "film", "was", "very"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of three tiny layers with random weights, and a tokenizer of a few words."""
    path = tmp_path_factory.mktemp("model")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    transformers.BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(path)
    return path


def reviews(count, seed):
    """Sentences of any length that are good or bad."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(2, size=count)
    first = [
        " ".join([*draw.choice(["the", "a", "film", "was", "very"], draw.integers(1, 8)), draw.choice((BAD, GOOD)[y])])
        for y in labels
    ]
    return Texts(first, None, labels)


def write(folder, train, dev):
    folder.mkdir()
    (folder / "train.tsv").write_bytes(train.encode())
    (folder / "dev.tsv").write_bytes(dev.encode())
    return folder


def test_files_of_glue(tmp_path):
    single = 'sentence\tlabel\nan "odd quote\t1\nsecond\t0\n'
    train, dev = read_texts(write(tmp_path / "sst", single, single))
    assert train.first == ['an "odd quote', "second"] and train.second is None and train.labels.tolist() == [1, 0]
    cola = "gj04\t1\t\tFine.\ngj04\t0\t*\tNot fine.\n"
    train, dev = read_texts(write(tmp_path / "cola", cola, cola))
    assert dev.first == ["Fine.", "Not fine."] and dev.labels.tolist() == [1, 0]
    mrpc = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tone\ttwo\n0\t7\t9\tthree\tfour\n"
    train, dev = read_texts(write(tmp_path / "mrpc", mrpc, mrpc))
    assert (train.first, train.second, train.labels.tolist()) == (["one", "three"], ["two", "four"], [1, 0])
    rte = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n"
    train, dev = read_texts(write(tmp_path / "rte", rte, rte))
    assert train.second == ["b", "d"] and train.labels.tolist() == [1, 0]


def test_files_of_other_kinds(tmp_path):
    qnli = "index\tquestion\tsentence\tlabel\n0\tWho?\tHe did.\tentailment\n1\tWhen?\tHe did.\tnot_entailment\n"
    train, _ = read_texts(write(tmp_path / "qnli", qnli, qnli))
    assert (train.first, train.second) == (["Who?", "When?"], ["He did.", "He did."])
    other = "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n"
    with pytest.raises(PolicyKDError, match="needs rows with label and sentence"):
        read_texts(write(tmp_path / "other", other, other))
    scores = "sentence\tlabel\nx\t3.8\ny\t0.5\n"
    with pytest.raises(PolicyKDError, match=r"has labels such as 0\.5: scores, not classes"):
        read_texts(write(tmp_path / "scores", scores, scores))


def test_labels_beyond_nine_keep_their_order(tmp_path):
    rows = "sentence\tlabel\n" + "".join(f"x\t{label}\n" for label in range(12))
    assert read_texts(write(tmp_path / "many", rows, rows))[0].labels.tolist() == list(range(12))


def test_saved_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    part = datasets.Dataset.from_dict(
        {"sentence1": ["a", "c"], "sentence2": ["b", "d"], "label": [1, 0], "idx": [0, 1]}
    )
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / "saved"))
    train, dev = read_texts(tmp_path / "saved")
    assert train.first == dev.first == ["a", "c"] and train.second == ["b", "d"] and train.labels.tolist() == [1, 0]
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "halved"))
    with pytest.raises(PolicyKDError, match="has no split validation, only train, test"):
        read_texts(tmp_path / "halved")


def test_faults_of_files(tmp_path):
    with pytest.raises(PolicyKDError, match=r"cannot read .*train.tsv"):
        read_texts(tmp_path)
    broken = {
        "is empty": "",
        r"row 2 of .* has 1 columns, not 2": "sentence\tlabel\ngood\t1\nbad\n",
        "has no rows, only a header": "sentence\tlabel\n",
        "needs rows with label and sentence": "text\tclass\ngood\t1\n",
    }
    for number, (line, content) in enumerate(broken.items()):
        with pytest.raises(PolicyKDError, match=line):
            read_texts(write(tmp_path / str(number), content, content))
    train, dev = (f"sentence\tlabel\nx\tbad\ny\t{other}\n" for other in ("good", "1"))
    with pytest.raises(PolicyKDError, match=r"the test part of .* has a class '1' that its training part lacks"):
        read_texts(write(tmp_path / "other", train, dev))
    with pytest.raises(PolicyKDError, match="examples=11 of 10 texts"):
        split(reviews(10, 0), 11, 0.1, 0)


def test_split_draws_apart():
    train, held = split(reviews(50, 0), 40, 0.25, 3)
    assert (len(train.first), len(held.first)) == (30, 10)
    assert split(reviews(50, 0), 40, 0.25, 3)[1].first == held.first


def test_tokens(folder):
    texts = Texts(["the film was very good", "bad"], ["good", "the film"], np.array([1, 0]))
    tokens = tokenise(load_tokenizer(folder), texts, max_length=8)
    assert tokens.labels.tolist() == [0, 1]  # the short one first
    ids, segments = tokens.inputs[:, 0], tokens.inputs[:, 1]
    assert ids.shape == (2, 8) and ids[0].tolist() == [2, 8, 3, 12, 13, 3, 0, 0]
    assert segments[0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert ids[1].tolist()[0] == 2 and ids[1].tolist()[-1] == 3  # cut, its ends kept


def test_a_text_with_the_padding_token_keeps_its_end(folder):
    model = load_classifier(folder, 2, 0).eval()
    ids = torch.tensor([[2, 6, 0, 7, 8, 3, 0, 0]])
    tokens = torch.stack((ids, torch.zeros_like(ids)), 1)
    with torch.no_grad():
        whole = model.model(input_ids=ids[:, :6], attention_mask=(ids[:, :6] != 0).long()).logits
        torch.testing.assert_close(model(tokens), whole)


@pytest.mark.parametrize(("kind", "read"), [("Bert", 32), ("Roberta", 30)])
def test_a_text_as_long_as_a_model_reads_is_read(kind, read):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=20, max_position_embeddings=32, **sizes)
    network = TextClassifier(getattr(transformers, f"{kind}ForSequenceClassification")(config), config.pad_token_id)
    tokens = torch.full((1, 2, read + 1), 5)
    tokens[:, 1] = 0
    assert network(tokens[..., :read]).shape == (1, 2)
    with pytest.raises(PolicyKDError, match=f"text: {read + 1} tokens for a model of {read} positions"):
        network(tokens)


def test_longer_than_the_model_is_one_line(folder):
    with pytest.raises(PolicyKDError, match="text: 40 tokens for a model of 32 positions"):
        load_classifier(folder, 2, 0)(torch.ones(1, 2, 40, dtype=torch.long))


def test_what_leaves_nothing_of_a_text_or_no_epoch_is_refused_before_the_run_folder(folder, tmp_path, capsys):
    rows = "sentence\tlabel\n" + "good\t1\nbad\t0\n" * 10 + "good " * 40 + "\t1\n"
    words = ["text", "--data", str(write(tmp_path / "data", rows, rows)), "--teacher", str(folder)]
    for changes, message in (
        (["--max-length", "-1"], "max_length=-1 must be above 2"),
        (["--max-length", "2"], "max_length=2 must be above 2, the number of special tokens"),
        (["--teacher-epochs", "-1"], "teacher_epochs=-1 must not be negative"),
        (
            ["--max-length", "64"],
            "max_length=64 leaves 42 tokens of a text, and the model reads 32: lower --max-length",
        ),
    ):
        with pytest.raises(SystemExit):
            main([*words, "--run-dir", str(tmp_path / "run"), *changes])
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1 and not (tmp_path / "run").exists()


def test_an_encoder_that_is_not_whole_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(PolicyKDError, match="lacks weights of its encoder, or has them in different shapes: bert"):
        load_classifier(copy, 2, 0)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(PolicyKDError, match="model: cannot load") as error:
        load_classifier(copy, 2, 0)
    (copy / "tokenizer.json").write_text("{}")
    (copy / "vocab.txt").unlink()
    with pytest.raises(PolicyKDError, match="model: no tokenizer") as error:
        load_tokenizer(copy)
    assert "\n" not in str(error.value)


def test_batches_of_like_length_hold_every_row_once(folder):
    tokens = tokenise(load_tokenizer(folder), reviews(103, 1))
    batches = bucketed(tokens, 8, seed=4)
    length = (tokens.inputs[:, 0] != 0).sum(1)

    def one_pass(number):
        batches.batch_sampler.set_epoch(number)
        return [batch.rows for batch in batches]

    first = one_pass(0)
    assert sorted(torch.cat(first).tolist()) == list(range(103)) and len(first) == len(batches) == 13
    spread = torch.tensor([float(length[rows].max() - length[rows].min()) for rows in first])
    assert spread.mean() < 2 < float(length.max() - length.min())
    assert any(not torch.equal(a, b) for a, b in zip(first, one_pass(1), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, one_pass(0), strict=True))


def test_every_row_is_seen_where_processes_share_batches(folder):
    """accelerate passes over a short batch that others follow."""
    batches = bucketed(tokenise(load_tokenizer(folder), reviews(103, 1)), 8, seed=4, processes=2).batch_sampler
    halves = [BatchSamplerShard(batches, 2, which, split_batches=True) for which in range(2)]
    for number in range(3):
        batches.set_epoch(number)
        steps = [list(half) for half in halves]
        assert [len(own) for own in steps] == [len(batches)] * 2
        assert {row for own in steps for batch in own for row in batch} == set(range(103))


def test_first_layers_are_copied_and_padding_does_not_matter(folder):
    whole, part = (load_classifier(folder, 2, 0, layers=layers).eval() for layers in (None, 2))
    assert len(whole.model.bert.encoder.layer) == 3 and len(part.model.bert.encoder.layer) == 2
    own, source = part.state_dict(), whole.state_dict()
    copied = [name for name in own if torch.equal(own[name], source[name])]
    assert any("encoder.layer.1" in name for name in copied) and len(copied) == len(own)  # heads are of one seed
    assert not torch.equal(load_classifier(folder, 2, 0, seed=1).model.classifier.weight, whole.model.classifier.weight)
    assert not whole.model.get_input_embeddings().weight.requires_grad
    assert load_classifier(folder, 2, 0, freeze_embeddings=False).model.get_input_embeddings().weight.requires_grad
    tokens = tokenise(load_tokenizer(folder), reviews(20, 2)).inputs
    with torch.no_grad():
        alone = torch.cat([whole(tokens[row : row + 1]) for row in range(20)])
        torch.testing.assert_close(whole(tokens), alone, rtol=1e-4, atol=1e-5)


def test_faults_of_folders(folder, tmp_path):
    lines = {
        "has no config.json": lambda: load_tokenizer(tmp_path / "none"),
        "has 3 layers, but 4 were asked for": lambda: load_classifier(folder, 2, 0, layers=4),
        "has 3 layers, but 0 were asked for": lambda: load_classifier(folder, 2, 0, layers=0),
        "has no .safetensors": lambda: load_classifier(_without_weights(folder, tmp_path), 2, 0),
        "not finite: bert.encoder.layer.0.output.dense.bias;": lambda: load_classifier(
            _diverged(folder, tmp_path), 2, 0
        ),
    }
    for line, cause in lines.items():
        with pytest.raises(PolicyKDError, match=line) as error:
            cause()
        assert "\n" not in str(error.value)


def _without_weights(folder, tmp_path):
    """Only the pickle that torch would load."""
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "config.json").write_text((folder / "config.json").read_text(encoding="utf-8"))
    torch.save({}, tmp_path / "pickle" / "pytorch_model.bin")
    return tmp_path / "pickle"


def _diverged(folder, tmp_path):
    """One weight that is no number."""
    shutil.copytree(folder, tmp_path / "diverged")
    (file,) = (tmp_path / "diverged").glob("*.safetensors")
    weights = load_file(file)
    weights[next(name for name in weights if name.endswith("layer.0.output.dense.bias"))][3] = float("nan")
    save_file(weights, file, {"format": "pt"})
    return tmp_path / "diverged"


def test_a_transformer_learns_from_a_transformer(folder):
    """The teacher is run once per row, and the memory is of the training rows."""
    tokenizer = load_tokenizer(folder)
    train, test = tokenise(tokenizer, reviews(300, 3)), tokenise(tokenizer, reviews(100, 4))
    teacher, student = (load_classifier(folder, 2, 0, layers=layers, freeze_embeddings=False) for layers in (2, 1))
    config = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3}
    batches = bucketed(train, 16, 0)
    Distiller(teacher, None, method="cross_entropy", config=config, device="cpu").fit(batches)
    calls = []
    teacher.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    features = {"student_features": (EMBEDDING,), "teacher_features": (EMBEDDING,), "projection_epochs": 2}
    config |= {**features, "epochs": 6}
    distiller = Distiller(student, teacher, method="reaugkd", config=config, device="cpu")
    distiller.fit(batches, tuple(test))
    assert sum(calls) == 16 + 300 + 100  # shapes, cache, validation
    assert distiller.evaluate(tuple(test))["accuracy"] > 0.9
    memory = build_memory(distiller, tuple(train))
    assert memory.keys.shape == (300, 16)


def test_layers_of_texts_are_compared_at_the_length_of_the_batch(folder):
    """The teacher's are not kept: they would be as long as the longest text of another batch."""
    train = tokenise(load_tokenizer(folder), reviews(40, 3))
    teacher, student = (load_classifier(folder, 2, 0, layers=layers) for layers in (2, 1))
    paths = {f"{who}_features": (f"model.bert.encoder.layer.{n}",) for who, n in (("student", 0), ("teacher", 1))}
    config = {**paths, "epochs": 1, "batch_size": 8}
    for method, own in {"ted": {"filter_epochs": 1}, "fitnets": {}}.items():
        distiller = Distiller(student, teacher, method=method, config=config | own, device="cpu")
        assert distiller.fit(bucketed(train, 8, 0)).n_updates == 5 * (1 + len(own))
    distiller = Distiller(student, teacher, method="rid", config=config, device="cpu")
    with pytest.raises(PolicyKDError, match="features: rid needs maps of one size in all batches"):
        distiller.fit(bucketed(train, 8, 0))


def test_class_metrics_by_hand():
    # 2 hits of class 1, 1 false alarm, 1 miss, 1 right 0: F1 = 4/6, Matthews = (2*1 - 1*1) / sqrt(3*3*2*2)
    found = class_metrics([1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert found == pytest.approx({"accuracy": 0.6, "f1": 2 / 3, "matthews": 1 / 6})
    assert "f1" not in class_metrics([0, 1, 2], [0, 1, 2])
    assert "f1" not in class_metrics([0, 1, 2], [0, 1, 1])


def test_command_line(folder, tmp_path, capsys):
    lines = [f"{text}\t{label}" for text, label in zip(*reviews(60, 5)[::2], strict=True)]
    data = write(tmp_path / "data", *["sentence\tlabel\n" + "\n".join(lines) + "\n"] * 2)
    run = tmp_path / "run"
    options = ["--data", str(data), "--teacher", str(folder), "--student-layers", "1", "--teacher-epochs", "1"]
    main(["text", *options, "--epochs", "1", "--projection-epochs", "1", "--run-dir", str(run), "--device", "cpu"])
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert {"test", "test_of_labels_alone", "test_with_retrieval", "lookup", "validation"} == result.keys()
    student = transformers.AutoModelForSequenceClassification.from_pretrained(run / "student_model")
    assert student.config.num_hidden_layers == 1
    assert (run / "teacher_model" / "tokenizer.json").exists()
    assert "policykd text: reaugkd" in capsys.readouterr().out


def test_command_line_without_a_teacher_trains_none(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{text}\t{label}\n" for text, label in zip(*reviews(40, 5)[::2], strict=True))
    data = write(tmp_path / "data", "sentence\tlabel\n" + rows, "sentence\tlabel\n" + rows)
    main(["text", "--data", str(data), "--teacher", str(folder), "--method", "cross_entropy", "--epochs", "1",
          "--device", "cpu"])  # fmt: skip
    assert "fine-tuning the teacher" not in capsys.readouterr().out
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "text_data_cross_entropy_1"
    assert not (run / "teacher_model").exists() and (run / "student_model").exists()


def named_teacher(folder, where, names):
    """The same network with a trained head, whose classes have these names in this order."""
    tokenizer = load_tokenizer(folder)
    load_classifier(folder, names, tokenizer.pad_token_id).model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def test_the_data_take_the_order_of_the_teachers_classes(folder, tmp_path):
    """As the Hub's MNLI models have another order than GLUE: by position such a teacher would teach wrongly."""
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    label = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features({"sentence": datasets.Value("string"), "label": label})
    part = datasets.Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [0, 1, 2]}, features=features)
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / "data"))
    alone, _ = read_texts(tmp_path / "data")
    assert alone.names == ("entailment", "neutral", "contradiction") and alone.labels.tolist() == [0, 1, 2]
    teacher = named_teacher(folder, tmp_path / "teacher", ["CONTRADICTION", "neutral", "entailment"])
    train, dev = read_texts(tmp_path / "data", model_classes(teacher))
    assert train.names == ("contradiction", "neutral", "entailment")
    assert train.labels.tolist() == dev.labels.tolist() == [2, 1, 0]
    assert agreed_class_names(train.names, model_classes(teacher), learns=False) == train.names
    student = load_classifier(teacher, train.names, 0, layers=1)
    assert student.model.config.id2label == {0: "contradiction", 1: "neutral", 2: "entailment"}


def test_a_teacher_of_other_classes_is_refused_before_training(folder, tmp_path, capsys):
    lines = "".join(f"{text}\t{('bad', 'good')[label]}\n" for text, label in zip(*reviews(20, 5)[::2], strict=True))
    data = write(tmp_path / "data", "sentence\tlabel\n" + lines, "sentence\tlabel\n" + lines)
    for names, line in (
        (["happy", "sad"], "the data have bad, good, but the teacher has happy, sad: choose another teacher"),
        (None, "has no trained head of 2 classes: fine-tune it first"),
    ):
        teacher = folder if names is None else named_teacher(folder, tmp_path / "teacher", names)
        with pytest.raises(SystemExit):
            main(["text", "--data", str(data), "--teacher", str(teacher), "--teacher-epochs", "0", "--method", "hinton",
                  "--run-dir", str(tmp_path / "run"), "--device", "cpu"])  # fmt: skip
        assert line in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert agreed_class_names(("0", "1"), ("NEGATIVE", "POSITIVE"), learns=False) == ("NEGATIVE", "POSITIVE")
    assert "0 is NEGATIVE, 1 is POSITIVE" in capsys.readouterr().out
    assert agreed_class_names(("bad", "good"), ("happy", "sad"), learns=True) == ("bad", "good")


def test_nothing_of_transformers_is_imported_otherwise():
    code = (
        "import sys, policykd.cli.text_run, policykd.classification.data.text, policykd.classification.transformer;"
        "from policykd import Distiller; from policykd.classification.retrieval import Retrieval;"
        "sys.exit(any(name in sys.modules for name in ('transformers', 'tokenizers', 'datasets', 'faiss')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_the_extra_is_named_where_it_is_missing(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PolicyKDError, match=r'pip install "policykd\[transformers\]"'):
        load_tokenizer(folder)
