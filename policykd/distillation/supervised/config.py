"""Settings of all methods; needs no torch. Names are resolved by ``classification/settings.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from policykd.core.fields import fractions, not_negative, positive, require
from policykd.core.registry import NAME
from policykd.distillation.supervised.training_config import FeaturePaths, Function, TrainingConfig

Reduction = Literal["mean", "sum"]
"""Reduction over the channels and positions of a map."""


@dataclass(frozen=True)
class CrossEntropyConfig(TrainingConfig):
    """Settings of plain training."""

    label_smoothing: float = 0.0
    """Fraction of each label's probability that is spread over all classes."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must lie in [0, 1)")


@dataclass(frozen=True)
class LabelSmoothingConfig(CrossEntropyConfig):
    """Settings of training on smoothed labels (Szegedy et al. 2016)."""

    label_smoothing: float = 0.1
    """Fraction of each label's probability that is spread over all classes."""


@dataclass(frozen=True)
class HintonConfig(TrainingConfig):
    """Settings of Hinton's distillation."""

    alpha: float = 0.5
    """Weight of the teacher's loss in [0, 1]; the labels have 1 - alpha. 1 uses only the teacher, without schedule."""
    alpha_schedule: Annotated[str | Function, NAME] = "linear"
    """How an alpha below 1 decays over the student's epochs, from the teacher to the labels (Clark et al. 2019):
    constant, linear, exponential, cosine, or a function of the progress from 0 to 1."""
    temperature: float = 1.0
    """Temperature T of both softmaxes; the loss is multiplied by T^2."""
    divergence: Annotated[str | Function, NAME] = "kl_forward"
    """Divergence of teacher and student: kl_forward, which is KL(teacher || student), kl_reverse, nll, mse,
    cross_entropy_forward, cross_entropy_reverse; action_mse and action_huber, of probabilities; or a function of two
    outputs with logits (``policykd.distillation.divergences``)."""
    example_weight: Annotated[str | Function, NAME] = "uniform"
    """Weight of the teacher's loss at each example: uniform; disadvantage, by how much more likely the teacher finds
    the label than the student does; hard_gate, only where it does (all with mean 1 over the batch); value_gate, 1
    where it does and 0 elsewhere; or a function of both log-likelihoods ``(1, B)`` (``policykd.distillation.weights``).
    Examples without a label pass no gate."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        fractions(self, "alpha")
        positive(self, "temperature")


@dataclass(frozen=True)
class FeatureConfig(FeaturePaths, HintonConfig):
    """Settings of methods that add a loss on features to Hinton's loss."""

    alpha: float = 0.0
    """Weight of the teacher's logits in [0, 1]; the labels have 1 - alpha. 0 distils only features, as in papers."""


@dataclass(frozen=True)
class FitNetsConfig(FeatureConfig):
    """Settings of FitNets."""

    weight: float = 100.0
    """Weight of the hint loss relative to Hinton's loss (RepDistiller's: 100)."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
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
        """Refuse invalid values."""
        super().__post_init__()
        not_negative(self, "distance_weight", "angle_weight")


@dataclass(frozen=True)
class VIDConfig(FeatureConfig):
    """Settings of VID."""

    weight: float = 1.0
    """Weight of the Gaussian's negative log-likelihood relative to Hinton's loss (RepDistiller's: 1)."""
    reduction: Reduction = "mean"
    """Reduction over channels and positions: the author's code takes the mean, the papers' equations are sums. With
    sum, the same weight has as many times more effect as the teacher's map has entries."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        not_negative(self, "weight")


@dataclass(frozen=True)
class TEDConfig(FeaturePaths):
    """Settings of TED. Its stage 1 uses the student's features, so train the student first (``warm_up_epochs``)."""

    filter_epochs: int = 2
    """Epochs of stage 1, between the warm-up and stage 2."""
    filter_width: int = 0
    """Output channels of the filters; 0 takes the teacher's."""
    kl_alpha: float = 5.0
    """Weight of T^2 * KL(teacher || student) in stage 2 (the scripts': 5 or 20)."""
    mse_alpha: float = 20.0
    """Weight of the mean squared error between filtered features (the scripts': 20 to 7500)."""
    temperature: float = 2.0
    """Temperature T of that divergence."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        not_negative(self, "filter_epochs", "filter_width", "kl_alpha", "mse_alpha")
        positive(self, "temperature")


@dataclass(frozen=True)
class DiSKConfig(TrainingConfig):
    """Settings of DiSK; defaults are those of the published code for CIFAR-100 unless noted."""

    warm_up_epochs: int = 2
    """Initial epochs of the student on labels only; 0 for a student that is already trained."""
    teacher_features: tuple[str, ...] = ()
    """Path of the teacher's module that the guide reads; empty: its logits."""
    student_temperature: float = 3.5
    """Temperature of the student's probabilities."""
    teacher_temperature: float = 4.0
    """Temperature of the teacher's probabilities."""
    hard_weight: float = 0.1
    """Weight of the cross-entropy with labels."""
    soft_weight: float = 0.9
    """Weight of the scaffolded loss, which is multiplied by both temperatures."""
    top_k: int = 10
    """K: the guide may help with the teacher's K most likely classes and the true one."""
    guide_width: int = 64
    """Channels of the guide's hidden layers (the code's: 256 on maps; 64, 128 on vectors)."""
    guide_warm_up_epochs: int = 1
    """Epochs of the guide before the student's first (the code's: 5)."""
    student_passes: int = 3
    """Consecutive epochs of the student."""
    guide_passes: int = 3
    """Consecutive epochs of the guide."""
    budget: tuple[float, ...] = (0.6, 0.4)
    """Budget of the guide's help, sum of g * cross-entropy divided as ``budget_per`` says, at the beginning and at the
    end of the run."""
    budget_per: Literal["mistake", "example"] = "mistake"
    """Whether that sum is divided by the number of misclassified examples (at least 1), as in the published code, from
    which the default budgets are; or by the number of examples, as in the poster's formula."""
    penalty: tuple[float, ...] = (1.0, 5.0)
    """Penalty on help beyond the budget, at the beginning and at the end of the run."""
    largest_cross_entropy: float = 5.0
    """Bound of an example's cross-entropy in the budget."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        positive(self, "student_temperature", "teacher_temperature", "guide_width", "largest_cross_entropy", "top_k")
        not_negative(self, "hard_weight", "soft_weight", "guide_warm_up_epochs")
        for name in ("student_passes", "guide_passes"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("budget", "penalty"):
            value = getattr(self, name)
            require(len(value) == 2 and min(value) >= 0, name, value, "needs two numbers >= 0, first and last")
        require(len(self.teacher_features) <= 1, "teacher_features", self.teacher_features, "names at most one module")

    @property
    def feature_paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """No student features, and the teacher's for the guide."""
        return (), self.teacher_features


@dataclass(frozen=True)
class RIDConfig(FeaturePaths):
    """Settings of RID."""

    filter_warm_up_epochs: int = 3
    """Epochs that train the teacher's filters on labels only, before the first cycle (the paper's n_w)."""
    cycle_epochs: int = 10
    """Epochs per cycle of both phases (the paper's q)."""
    filter_share: float = 0.25
    """Fraction of each cycle that trains the teacher's filters (the paper's r)."""
    hard_weight: float = 1.0
    """Weight of the labels in the student's loss (lambda_1)."""
    weight: float = 10.0
    """Weight of the distance in the student's loss (lambda_2)."""
    reduction: Reduction = "mean"
    """Reduction over channels and positions in both phases: the released code takes means, equations 10 and 12 sums."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        not_negative(self, "filter_warm_up_epochs", "hard_weight", "weight")
        require(self.cycle_epochs >= 2, "cycle_epochs", self.cycle_epochs, "must be at least 2, for both phases")
        require(0 < self.filter_share < 1, "filter_share", self.filter_share, "must lie between 0 and 1")


@dataclass(frozen=True)
class ReAugKDConfig(FeaturePaths):
    """Settings of ReAugKD. ``student_features`` and ``teacher_features`` name one module each: the embeddings."""

    projection_epochs: int = 10
    """Epochs of stage 1; 0 keeps a random projection."""
    projection_learning_rate: float = 1e-2
    """Learning rate of stage 1, which trains a single linear layer."""
    contrastive_temperature: float = 0.1
    """Temperature of the supervised contrastive loss."""
    alpha: float = 2.0
    """Weight of the relational loss; at 0 the student's embeddings are useless as queries."""
    temperature: float = 0.1
    """Temperature tau of the similarities in the relational loss."""
    keep_diagonal: bool = True
    """Whether an example is also compared with its own teacher embedding. There the teacher's distribution is largest,
    and no other entry pulls a student's embedding towards its own key."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
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
"""Config classes by method; ``METHODS`` has further methods."""
