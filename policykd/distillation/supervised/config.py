"""The settings of every method, which need no torch; names in them are looked up by ``classification/settings.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from policykd.core.fields import fractions, not_negative, positive, require
from policykd.core.registry import NAME
from policykd.distillation.supervised.training_config import FeaturePaths, Function, TrainingConfig

Reduction = Literal["mean", "sum"]
"""What a loss takes over the channels and positions of a map."""


@dataclass(frozen=True)
class CrossEntropyConfig(TrainingConfig):
    """Settings of plain training."""

    label_smoothing: float = 0.0
    """Share of every label that is spread over all classes."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must lie in [0, 1)")


@dataclass(frozen=True)
class LabelSmoothingConfig(CrossEntropyConfig):
    """Settings of training on smoothed labels (Szegedy et al. 2016)."""

    label_smoothing: float = 0.1
    """Share of every label that is spread over all classes."""


@dataclass(frozen=True)
class HintonConfig(TrainingConfig):
    """Settings of Hinton's distillation."""

    alpha: float = 0.5
    """Weight of the teacher's loss in [0, 1]; that of the labels is 1 - alpha. 1 is the teacher alone, throughout."""
    alpha_schedule: Annotated[str | Function, NAME] = "linear"
    """How an alpha below 1 falls over the student's epochs, from the teacher to the labels (Clark et al. 2019):
    constant, linear, exponential, cosine, or a function of the progress from 0 to 1."""
    temperature: float = 1.0
    """Both logits are divided by it, and the term is multiplied by its square."""
    divergence: Annotated[str | Function, NAME] = "kl_forward"
    """How far apart teacher and student are: kl_forward, which is KL(teacher || student), kl_reverse, nll, mse,
    cross_entropy_forward, cross_entropy_reverse; action_mse and action_huber, of probabilities; or a function of two
    answers that have logits (``policykd.distillation.divergences``)."""
    example_weight: Annotated[str | Function, NAME] = "uniform"
    """How much the teacher's loss counts at each example: uniform; disadvantage, by how much likelier the teacher finds
    the label than the student does; hard_gate, only where it does (all of mean 1 over the batch); value_gate, 1 where
    it does and 0 elsewhere; or a function of both log-likelihoods ``(1, B)`` (``policykd.distillation.weights``). An
    example without a label passes no gate."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        fractions(self, "alpha")
        positive(self, "temperature")


@dataclass(frozen=True)
class FeatureConfig(FeaturePaths, HintonConfig):
    """Settings of methods that add a loss on features to Hinton's loss."""

    alpha: float = 0.0
    """Weight of the teacher's logits in [0, 1]; the labels weigh 1 - alpha. 0 is the features alone, as in papers."""


@dataclass(frozen=True)
class FitNetsConfig(FeatureConfig):
    """Settings of FitNets."""

    weight: float = 100.0
    """Weight of the hint beside Hinton's loss (RepDistiller's: 100)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        not_negative(self, "weight")


@dataclass(frozen=True)
class RKDConfig(FeatureConfig):
    """Settings of RKD. Without named features it compares logits."""

    distance_weight: float = 25.0
    """Weight of the loss on pairwise distances."""
    angle_weight: float = 50.0
    """Weight of the loss on angles of triplets."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        not_negative(self, "distance_weight", "angle_weight")


@dataclass(frozen=True)
class VIDConfig(FeatureConfig):
    """Settings of VID."""

    weight: float = 1.0
    """Weight of the Gaussian's negative log-likelihood beside Hinton's loss (RepDistiller's: 1)."""
    reduction: Reduction = "mean"
    """Over channels and positions: the author's code takes the mean, the papers' equations are sums. With sum, the
    same weight is as many times heavier as the teacher's map has entries."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        not_negative(self, "weight")


@dataclass(frozen=True)
class TEDConfig(FeaturePaths):
    """Settings of TED. Its stage 1 reads the student's features: begin with a warm student (``warm_up_epochs``)."""

    filter_epochs: int = 2
    """Passes of stage 1, between the warm-up and stage 2."""
    filter_width: int = 0
    """Channels after the filters; 0 is the teacher's."""
    kl_alpha: float = 5.0
    """Weight of T^2 * KL(teacher || student) in stage 2 (the scripts': 5 or 20)."""
    mse_alpha: float = 20.0
    """Weight of the mean squared error between filtered features (the scripts': 20 to 7500)."""
    temperature: float = 2.0
    """T of that divergence."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        not_negative(self, "filter_epochs", "filter_width", "kl_alpha", "mse_alpha")
        positive(self, "temperature")


@dataclass(frozen=True)
class DiSKConfig(TrainingConfig):
    """Settings of DiSK, the published code's for CIFAR-100 where not said otherwise."""

    warm_up_epochs: int = 2
    """How many of the student's passes, the first, learn from labels alone; 0 for a student that comes warm."""
    teacher_features: tuple[str, ...] = ()
    """The teacher's module, by path, that the guide sees; none: its logits."""
    student_temperature: float = 3.5
    """T of the student's probabilities."""
    teacher_temperature: float = 4.0
    """T of the teacher's."""
    hard_weight: float = 0.1
    """Weight of the labels beside the scaffolded loss."""
    soft_weight: float = 0.9
    """Weight of the scaffolded loss, which is multiplied by both temperatures."""
    top_k: int = 10
    """The teacher's K largest classes, with the true one, are those that the guide may help with."""
    guide_width: int = 64
    """Channels of the guide's hidden layers (the code's: 256 on maps; 64, 128 on vectors)."""
    guide_warm_up_epochs: int = 1
    """Passes of the guide before the first of the student (the code's: 5)."""
    student_passes: int = 3
    """Passes of the student in a row."""
    guide_passes: int = 3
    """Passes of the guide in a row."""
    budget: tuple[float, ...] = (0.6, 0.4)
    """How much help the guide may give: sum of g * cross-entropy, over what ``budget_per`` says, at the beginning and
    at the end of the run."""
    budget_per: Literal["mistake", "example"] = "mistake"
    """Whether that sum is divided by the number of misclassified examples, at least 1, as the published code does,
    whose budgets the default ones are; or by the number of examples, as the poster's formula is written."""
    penalty: tuple[float, ...] = (1.0, 5.0)
    """What help beyond the budget costs, at the beginning and at the end."""
    largest_cross_entropy: float = 5.0
    """Bound of an example's cross-entropy in the budget."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        positive(self, "student_temperature", "teacher_temperature", "guide_width", "largest_cross_entropy", "top_k")
        not_negative(self, "hard_weight", "soft_weight", "guide_warm_up_epochs")
        for name in ("student_passes", "guide_passes"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("budget", "penalty"):
            value = getattr(self, name)
            require(len(value) == 2 and min(value) >= 0, name, value, "needs two numbers, first and last, from 0 up")
        require(len(self.teacher_features) <= 1, "teacher_features", self.teacher_features, "names at most one module")

    @property
    def feature_paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """None of the student, the guide's of the teacher."""
        return (), self.teacher_features


@dataclass(frozen=True)
class RIDConfig(FeaturePaths):
    """Settings of RID."""

    filter_warm_up_epochs: int = 3
    """Passes in which the teacher's filters learn from labels alone, before the first cycle (the paper's n_w)."""
    cycle_epochs: int = 10
    """Passes of one cycle, both phases together (the paper's q)."""
    filter_share: float = 0.25
    """Share of each cycle that trains the teacher's filters (the paper's r)."""
    hard_weight: float = 1.0
    """Weight of the labels in the student's loss (lambda_1)."""
    weight: float = 10.0
    """Weight of the distance in the student's loss (lambda_2)."""
    reduction: Reduction = "mean"
    """Over channels and positions, in both phases: the released code takes means, equations 10 and 12 are sums."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        not_negative(self, "filter_warm_up_epochs", "hard_weight", "weight")
        require(self.cycle_epochs >= 2, "cycle_epochs", self.cycle_epochs, "needs room for both phases: at least 2")
        require(0 < self.filter_share < 1, "filter_share", self.filter_share, "must lie between 0 and 1")


@dataclass(frozen=True)
class ReAugKDConfig(FeaturePaths):
    """Settings of ReAugKD. ``student_features`` and ``teacher_features`` name one module each: the embeddings."""

    projection_epochs: int = 10
    """Passes of stage 1; 0 leaves a random projection."""
    projection_learning_rate: float = 1e-2
    """Learning rate of stage 1, where one linear layer learns, whatever the student's."""
    contrastive_temperature: float = 0.1
    """Temperature of the supervised contrastive loss."""
    alpha: float = 2.0
    """Weight of the relational loss; without it (0) the student's embeddings are of no use as queries."""
    temperature: float = 0.1
    """tau of the similarities in the relational loss."""
    keep_diagonal: bool = True
    """Whether an example is compared with its own teacher embedding, too. That is the entry where the teacher's
    distribution is largest, and the only one that pulls a student's embedding onto its own key."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        not_negative(self, "projection_epochs", "alpha")
        positive(self, "contrastive_temperature", "temperature", "projection_learning_rate")


CONFIGS: dict[str, type[TrainingConfig]] = {
    "cross_entropy": CrossEntropyConfig,
    "label_smoothing": LabelSmoothingConfig,
    "hinton": HintonConfig,
    "fitnets": FitNetsConfig,
    "rkd": RKDConfig,
    "vid": VIDConfig,
    "ted": TEDConfig,
    "disk": DiSKConfig,
    "rid": RIDConfig,
    "reaugkd": ReAugKDConfig,
}
"""Those of the methods that are here; ``METHODS`` also knows others."""
