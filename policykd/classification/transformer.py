"""Hugging Face's transformers as teachers and students of text, from a local folder and from safetensors only."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policykd.errors import PolicyKDError
from policykd.extras import needs

EMBEDDING = "embedding"
"""Path of the module of a ``TextClassifier`` that gives its embedding."""


class TextClassifier(nn.Module):
    """An encoder with a classification head, for texts as ``text.tokenise`` makes them.

    Its feature ``embedding`` is the last layer at the first token ``(B, D)``, BERT's [CLS].

    Args:
        model: what ``AutoModelForSequenceClassification`` gives.
        padding: the id of the padding token.
    """

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model, self.padding = model, padding
        self.embedding = nn.Identity()
        self.segments = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, C)`` for token ids and segment ids ``(B, 2, L)``."""
        ids, segments = tokens.unbind(1)
        mask = ids != self.padding
        longest = int(mask.sum(1).max())
        arguments = {"input_ids": ids[:, :longest], "attention_mask": mask[:, :longest].long()}
        if self.segments:
            arguments["token_type_ids"] = segments[:, :longest]
        output = self.model(**arguments, output_hidden_states=True)
        self.embedding(output.hidden_states[-1][:, 0])
        return output.logits


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a local folder.

    Raises:
        PolicyKDError: transformers is not installed, or there is no tokenizer.
    """
    transformers = _transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(_checked(folder)), local_files_only=True, trust_remote_code=False, padding_side="right"
        )
    except (OSError, ValueError) as error:
        raise PolicyKDError(f"model: no tokenizer in {folder}: {_first_line(error)}") from None


def load_classifier(
    folder: str | Path,
    classes: int,
    padding: int,
    *,
    layers: int | None = None,
    freeze_embeddings: bool = True,
    seed: int = 0,
) -> TextClassifier:
    """A classifier from a local folder; what the folder lacks, such as a head, is drawn by the seed.

    Args:
        folder: ``config.json`` and ``*.safetensors``. Nothing is downloaded, no code or pickle of it is run.
        classes: C.
        padding: the id of the tokenizer's padding token.
        layers: only the first so many layers; None is all.
        freeze_embeddings: the word embeddings, half of a small encoder's numbers, do not learn.
        seed: of what is drawn.

    Raises:
        PolicyKDError: transformers is not installed, the folder does not fit, or it has fewer layers.
    """
    transformers, path = _transformers(), _checked(folder)
    if not list(path.glob("*.safetensors")):
        raise PolicyKDError(f"model: {folder} has no .safetensors; other weights are not read, since they can run code")
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(path), num_labels=classes, local_files_only=True, trust_remote_code=False
        )
        if layers is not None and not 1 <= layers <= config.num_hidden_layers:
            raise PolicyKDError(f"model: {folder} has {config.num_hidden_layers} layers, asked for {layers}")
        config.num_hidden_layers = layers or config.num_hidden_layers
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                str(path),
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # a head of other classes is drawn anew
                dtype=torch.float32,
            )
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, PolicyKDError):
            raise
        raise PolicyKDError(f"model: cannot load {folder}: {_first_line(error)}") from None
    if freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    return TextClassifier(model, padding)


def _transformers() -> Any:
    """The package, told to be quiet: what is missing in a folder, such as a head, is no surprise here."""
    transformers = needs("transformers", "transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _checked(folder: str | Path) -> Path:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise PolicyKDError(f"model: {folder} is no folder of a model: it has no config.json")
    return path


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
