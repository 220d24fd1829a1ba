"""Hugging Face's transformers as teachers and students for text, loaded from local safetensors only."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policykd.classification.models import names_in
from policykd.core.errors import PolicyKDError, one_line
from policykd.core.extras import import_extra
from policykd.core.parsing import parse_json, read_text

EMBEDDING = "embedding"
"""Path of the embedding module of a ``TextClassifier``."""


class TextClassifier(nn.Module):
    """An encoder with a classification head, for texts from ``text.tokenise``.

    Its feature ``embedding`` is the last layer's output at the first token ``(B, D)``, BERT's [CLS].

    Args:
        model: a model from ``AutoModelForSequenceClassification``.
        padding: id of the padding token.
    """

    gives = "logits"

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model, self.padding = model, padding
        self.embedding = nn.Identity()
        self.positions = _positions(model)
        self.segments = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, C)`` for token ids and segment ids ``(B, 2, L)``.

        Raises:
            PolicyKDError: a text is longer than the model's maximum.
        """
        ids, segments = tokens.unbind(1)
        mask = ids != self.padding
        longest = int(mask.any(0).nonzero().max()) + 1  # not the count: a text may contain the padding token
        if longest > self.positions:
            raise PolicyKDError(f"text: {longest} tokens for a model of {self.positions} positions: cut texts shorter")
        arguments = {"input_ids": ids[:, :longest], "attention_mask": mask[:, :longest].long()}
        if self.segments:
            arguments["token_type_ids"] = segments[:, :longest]
        output = self.model(**arguments, output_hidden_states=True)
        self.embedding(output.hidden_states[-1][:, 0])
        return output.logits


def _positions(model: nn.Module) -> int:
    """A model's maximum number of tokens; RoBERTa-like models start counting after the padding position."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return part.num_embeddings - part.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize


def load_tokenizer(folder: str | Path) -> Any:
    """Load a tokenizer from a local folder.

    Raises:
        PolicyKDError: transformers is not installed, or the folder has no tokenizer with a padding token.
    """
    transformers, path = _transformers(), _checked(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, padding_side="right"
        )
    except Exception as error:  # a damaged file may raise anything
        raise PolicyKDError(f"model: no tokenizer in {folder}: {one_line(error)}") from None
    if tokenizer.pad_token_id is None:
        raise PolicyKDError(f"model: the tokenizer in {folder} has no padding token")
    return tokenizer


def load_classifier(
    folder: str | Path,
    classes: int | Sequence[str],
    padding: int,
    *,
    layers: int | None = None,
    freeze_embeddings: bool = True,
    trained_head: bool = False,
    seed: int = 0,
) -> TextClassifier:
    """Load a classifier from a local folder; missing weights, such as those of a head, are initialised by ``seed``.

    Args:
        folder: folder of ``config.json`` and ``*.safetensors``. Nothing is downloaded, and no code or pickle is run.
        classes: number of classes C, or class names in order, which are set as ``id2label``.
        padding: id of the tokenizer's padding token.
        layers: number of layers to keep, from the first; None keeps all.
        freeze_embeddings: whether to freeze the word embeddings, half of a small encoder's parameters.
        trained_head: require a head for these classes in the folder.
        seed: seed of the missing weights.

    Raises:
        PolicyKDError: transformers is not installed, or the folder does not fit, has fewer layers, weights that are not
            finite, or lacks weights other than a head's.
    """
    transformers, path = _transformers(), _checked(folder)
    number = classes if isinstance(classes, int) else len(classes)
    if not list(path.glob("*.safetensors")):
        raise PolicyKDError(f"model: {folder} has no .safetensors; other formats are not read, since they can run code")
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(path), num_labels=number, local_files_only=True, trust_remote_code=False
        )
        _shape(config, classes, layers, folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                str(path),
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # a head with other classes is reinitialised
                dtype=torch.float32,
                output_loading_info=True,
            )
    except PolicyKDError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise PolicyKDError(f"model: cannot load {folder}: {one_line(error)}") from None
    if bad := [name for name, weights in model.named_parameters() if not weights.isfinite().all()]:
        raise PolicyKDError(f"model: {folder} has weights that are not finite: {bad[0]}; take an earlier checkpoint")
    missing = _check_encoder(model, report, folder)
    if trained_head and missing:
        raise PolicyKDError(
            f"model: {folder} has no trained head of {number} classes: fine-tune it first (--teacher-epochs)"
        )
    if freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    return TextClassifier(model, padding)


def _shape(config: Any, classes: int | Sequence[str], layers: int | None, folder: str | Path) -> None:
    """Set the class names and the number of layers in a model's config."""
    if not isinstance(classes, int):
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: place for place, name in enumerate(classes)}
    if layers is not None and not 1 <= layers <= config.num_hidden_layers:
        raise PolicyKDError(f"model: {folder} has {config.num_hidden_layers} layers, but {layers} were asked for")
    config.num_hidden_layers = layers or config.num_hidden_layers


def model_classes(folder: str | Path) -> tuple[str, ...] | None:
    """Class names of a model in a folder, in order; None if it has only placeholders."""
    try:
        return names_in(parse_json(read_text(_checked(folder) / "config.json")))
    except (ValueError, AttributeError) as error:
        raise PolicyKDError(f"model: cannot read {folder}/config.json: {error}") from None


def _check_encoder(model: Any, report: dict[str, Any], folder: str | Path) -> bool:
    """Refuse an encoder with missing weights: only heads and poolers may be newly initialised.

    Returns:
        Whether weights of the head were missing.
    """
    drawn = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    encoder = sorted(name for name in drawn if name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name)
    if encoder:
        raise PolicyKDError(
            f"model: {folder} lacks weights of its encoder, or has them in different shapes: {encoder[0]}"
            + (f" and {len(encoder) - 1} more" if encoder[1:] else "")
        )
    return any("pooler" not in name for name in drawn)


def _transformers() -> Any:
    """Import transformers and silence its warnings: missing weights, such as a head's, are expected here."""
    transformers = import_extra("transformers", "transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _checked(folder: str | Path) -> Path:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise PolicyKDError(f"model: {folder} is not a model folder: it has no config.json")
    return path
