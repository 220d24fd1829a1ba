"""Hugging Face's transformers as teachers and students of text, from a local folder and from safetensors only."""

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
from policykd.core.extras import needs
from policykd.core.parsing import parse_json, read_text

EMBEDDING = "embedding"
"""Path of the module of a ``TextClassifier`` that gives its embedding."""


class TextClassifier(nn.Module):
    """An encoder with a classification head, for texts as ``text.tokenise`` makes them.

    Its feature ``embedding`` is the last layer at the first token ``(B, D)``, BERT's [CLS].

    Args:
        model: what ``AutoModelForSequenceClassification`` gives.
        padding: the id of the padding token.
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
            PolicyKDError: a text is longer than the model can read.
        """
        ids, segments = tokens.unbind(1)
        mask = ids != self.padding
        longest = int(mask.any(0).nonzero().max()) + 1  # not the count: a text may hold the padding token itself
        if longest > self.positions:
            raise PolicyKDError(f"text: {longest} tokens for a model of {self.positions} positions: cut texts shorter")
        arguments = {"input_ids": ids[:, :longest], "attention_mask": mask[:, :longest].long()}
        if self.segments:
            arguments["token_type_ids"] = segments[:, :longest]
        output = self.model(**arguments, output_hidden_states=True)
        self.embedding(output.hidden_states[-1][:, 0])
        return output.logits


def _positions(model: nn.Module) -> int:
    """How many tokens of a text a model reads; RoBERTa and its kin count from behind the padding token's position."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return part.num_embeddings - part.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a local folder.

    Raises:
        PolicyKDError: transformers is not installed, or there is no tokenizer, or none that can pad.
    """
    transformers, path = _transformers(), _checked(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, padding_side="right"
        )
    except Exception as error:  # whatever a damaged file makes of it
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
    """A classifier from a local folder; what the folder lacks, such as a head, is drawn by the seed.

    Args:
        folder: ``config.json`` and ``*.safetensors``. Nothing is downloaded, no code or pickle of it is run.
        classes: C, or the names of the classes in order, which its ``id2label`` says from now on.
        padding: the id of the tokenizer's padding token.
        layers: only the first so many layers; None is all.
        freeze_embeddings: the word embeddings, half of a small encoder's numbers, do not learn.
        trained_head: the head must be there, for these classes.
        seed: of what is drawn.

    Raises:
        PolicyKDError: transformers is not installed, the folder does not fit, has fewer layers, weights that are not
            finite, or lacks weights other than a head's.
    """
    transformers, path = _transformers(), _checked(folder)
    number = classes if isinstance(classes, int) else len(classes)
    if not list(path.glob("*.safetensors")):
        raise PolicyKDError(f"model: {folder} has no .safetensors; other weights are not read, since they can run code")
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
                ignore_mismatched_sizes=True,  # a head of other classes is re-initialised
                dtype=torch.float32,
                output_loading_info=True,
            )
    except PolicyKDError:
        raise
    except Exception as error:  # whatever a damaged file makes of it
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
    """Write into a model's config the names of its classes, and how many of its layers are wanted."""
    if not isinstance(classes, int):
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: place for place, name in enumerate(classes)}
    if layers is not None and not 1 <= layers <= config.num_hidden_layers:
        raise PolicyKDError(f"model: {folder} has {config.num_hidden_layers} layers, asked for {layers}")
    config.num_hidden_layers = layers or config.num_hidden_layers


def model_classes(folder: str | Path) -> tuple[str, ...] | None:
    """The names of the classes of a model in a folder, in order; None where it only numbers them."""
    try:
        return names_in(parse_json(read_text(_checked(folder) / "config.json")))
    except (ValueError, AttributeError) as error:
        raise PolicyKDError(f"model: cannot read {folder}/config.json: {error}") from None


def _check_encoder(model: Any, report: dict[str, Any], folder: str | Path) -> bool:
    """Refuse an encoder of which some was not in the folder, and was drawn: only heads and poolers may be.

    Returns:
        whether something of the head was drawn.
    """
    drawn = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    encoder = sorted(name for name in drawn if name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name)
    if encoder:
        raise PolicyKDError(
            f"model: {folder} lacks weights of its encoder, or has them in other shapes: {encoder[0]}"
            + (f" and {len(encoder) - 1} more" if encoder[1:] else "")
        )
    return any("pooler" not in name for name in drawn)


def _transformers() -> Any:
    """The package, told to be quiet: what is missing in a folder, such as a head, is expected here."""
    transformers = needs("transformers", "transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _checked(folder: str | Path) -> Path:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise PolicyKDError(f"model: {folder} is no folder of a model: it has no config.json")
    return path
