"""Partial information decomposition of what teacher and student know about the label.

Bertschinger et al. 2014 (BROJA), used for distillation by Dissanayake et al., AISTATS 2025 (arXiv 2411.07483). With
label Y, teacher representation T and student representation S, over all Q with Q(y,t) = P(y,t) and Q(y,s) = P(y,s):

    unique to the teacher    min_Q I_Q(Y; T | S)                   what is left to distil
    redundant                I(Y; T) - unique to the teacher       what has been distilled
    unique to the student    I(Y; S) - redundant
    synergistic              I(Y; T, S) - the other three          what only both together reveal

All values are in bits. Representations are discretised first, as in the paper (appendix D.3): rows normalised to
length 1, PCA, k-means. See ``docs/pid.md`` for the limits of such estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.core.extras import import_extra

TOLERANCE = 1e-5
"""Largest accepted error of an optimum, in bits."""


class PID(NamedTuple):
    """The four parts of I(Y; T, S), in bits."""

    redundant: float
    unique_teacher: float
    unique_student: float
    synergistic: float

    @property
    def teacher(self) -> float:
        """I(Y; T): the teacher's information about the label."""
        return self.redundant + self.unique_teacher

    @property
    def student(self) -> float:
        """I(Y; S): the student's information about the label."""
        return self.redundant + self.unique_student


def mutual_information(joint: np.ndarray) -> float:
    """I(A; B) in bits, for a joint distribution ``(|A|, |B|)``."""
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    inside = joint > 0
    return float((joint[inside] * np.log2(joint[inside] / independent[inside])).sum())


def decompose(joint: np.ndarray) -> PID:
    """Decompose a joint distribution P(y, t, s).

    Args:
        joint: probabilities or counts ``(|Y|, |T|, |S|)``, which are normalised to sum 1.

    Raises:
        PolicyKDError: it is not a distribution over three variables, or the convex programme found no optimum whose
            duality gap is within ``TOLERANCE``.
    """
    joint = np.asarray(joint, np.float64)
    if joint.ndim != 3 or not np.isfinite(joint).all() or joint.min(initial=0) < 0 or not joint.sum() > 0:
        raise PolicyKDError(
            f"pid: needs probabilities or counts (labels, teacher, student), not {joint.shape} as given"
        )
    joint = joint / joint.sum()
    with_teacher = mutual_information(joint.sum(2))
    with_student = mutual_information(joint.sum(1))
    with_both = mutual_information(joint.reshape(len(joint), -1))
    optimum, gap = least_informative(joint)
    if gap > TOLERANCE:
        raise PolicyKDError(f"pid: the optimum is known to {gap:.1g} bits only: try fewer clusters")
    least = mutual_information(optimum.reshape(len(joint), -1))
    # Exact optima satisfy max(I(Y;T), I(Y;S)) <= least <= I(Y;T,S); the solver's meets it up to its tolerance.
    least = min(max(least, with_teacher, with_student), with_both)
    return PID(
        redundant=max(with_teacher + with_student - least, 0.0),
        unique_teacher=least - with_student,
        unique_student=least - with_teacher,
        synergistic=with_both - least,
    )


def least_informative(joint: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise I_Q(Y; T, S), that is maximise H_Q(Y | T, S), over all Q with the marginals (Y,T) and (Y,S) of P.

    Returns:
        Q, and the duality gap of H_Q(Y | T, S) in bits. Its upper bound is the sum of P(y,t) m(y,t) and
        P(y,s) n(y,s), for any m and n with sum_y exp(-m(y,t) - n(y,s)) <= 1 for all t and s.
    """
    cp, sparse = import_extra("cvxpy", "pid"), import_extra("scipy.sparse", "pid")
    label_teacher, label_student = joint.sum(2), joint.sum(1)
    # Q must be 0 where a pair has probability 0, so such cells are not variables.
    y, t, s = np.nonzero((label_teacher[:, :, None] > 0) & (label_student[:, None, :] > 0))
    cells = np.arange(len(y))

    def sums(groups: np.ndarray) -> Any:
        """Matrix that sums the cells of each group."""
        _, rows = np.unique(groups, return_inverse=True)
        return sparse.csr_array((np.ones(len(cells)), (rows, cells)))

    same_pair = sums(t * joint.shape[2] + s)
    pairs = sparse.vstack([sums(y * joint.shape[1] + t), sums(y * joint.shape[2] + s)])
    given = np.concatenate([label_teacher[label_teacher > 0], label_student[label_student > 0]])
    q = cp.Variable(len(cells), nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.rel_entr(q, same_pair.T @ (same_pair @ q)))), [pairs @ q == given])
    try:
        problem.solve(solver=cp.CLARABEL)
    except cp.error.SolverError as error:
        raise PolicyKDError(f"pid: the convex programme failed ({error}): try fewer clusters") from None
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise PolicyKDError(f"pid: the convex programme ended as {problem.status}: try fewer clusters")
    found = np.maximum(q.value, 0) / np.maximum(q.value, 0).sum()
    optimum = np.zeros_like(joint)
    optimum[y, t, s] = found
    inside, whole = found > 0, same_pair.T @ (same_pair @ found)
    entropy = -found[inside] @ np.log(found[inside] / whole[inside])
    multipliers = problem.constraints[0].dual_value
    beyond = np.log(same_pair @ np.exp(-(pairs.T @ multipliers))).max()  # makes the multipliers feasible
    return optimum, float(given @ multipliers + beyond - entropy) / np.log(2)


def discretise(features: np.ndarray, *, clusters: int = 10, components: int = 10, seed: int = 0) -> np.ndarray:
    """Assign each row to a k-means cluster ``(N,)``, after normalisation to length 1 and PCA.

    Args:
        features: representations ``(N, ...)`` of N examples.
        clusters: k; I(Y; cluster) is at most log2(k) bits.
        components: number of principal components; fewer if the features have fewer.
        seed: seed of PCA and k-means.

    Raises:
        PolicyKDError: there are fewer examples than clusters, or features are not finite.
    """
    cluster, decomposition, preprocessing = (
        import_extra(f"sklearn.{part}", "pid") for part in ("cluster", "decomposition", "preprocessing")
    )
    rows = np.asarray(features, np.float64).reshape(len(features), -1)
    if len(rows) < clusters or clusters < 1 or components < 1:
        raise PolicyKDError(f"pid: {len(rows)} examples give no {clusters} clusters of {components} components")
    if not np.isfinite(rows).all():
        raise PolicyKDError("pid: the representation holds values that are not finite")
    rows = preprocessing.normalize(rows)
    distinct = len(np.unique(rows, axis=0))  # limits the clusters; constants have no PCA
    if components < min(rows.shape) and distinct > 1:
        rows = decomposition.PCA(components, random_state=seed).fit_transform(rows)
    return cluster.KMeans(min(clusters, distinct), n_init=10, random_state=seed).fit_predict(rows)


class PIDEstimate(NamedTuple):
    """Estimates from one set of representations."""

    pid: PID
    """Mean over the k-means seeds."""
    std: PID
    """Standard deviation over the k-means seeds."""
    chance: PID
    """The same mean with shuffled labels: the bias due to finite data when there is no information."""


def estimate(
    labels: np.ndarray,
    teacher: np.ndarray,
    student: np.ndarray,
    *,
    clusters: int = 10,
    components: int = 10,
    seeds: Sequence[int] = (0, 1, 2),
) -> PIDEstimate:
    """Decompose what two representations of the same examples reveal about the labels.

    Use examples that neither network was trained on.

    Args:
        labels: classes ``(N,)``.
        teacher: the teacher's representations ``(N, ...)``.
        student: the student's representations ``(N, ...)``.
        clusters: k of k-means, for either representation.
        components: principal components, for either representation.
        seeds: seeds of PCA, k-means and shuffling; one estimate each.

    Raises:
        PolicyKDError: the numbers of examples differ or are too small.
    """
    labels = np.asarray(labels)
    if not len(labels) == len(teacher) == len(student):
        counts = f"{len(labels)} labels, {len(teacher)} teacher and {len(student)} student representations"
        raise PolicyKDError(f"pid: {counts}: they must be of the same examples")
    found, chance = [], []
    for seed in seeds:
        t = discretise(teacher, clusters=clusters, components=components, seed=seed)
        s = discretise(student, clusters=clusters, components=components, seed=seed)
        found.append(decompose(histogram(labels, t, s)))
        shuffled = np.random.default_rng(seed).permutation(labels)
        chance.append(decompose(histogram(shuffled, t, s)))
    return PIDEstimate(*(PID(*values.tolist()) for values in (np.mean(found, 0), np.std(found, 0), np.mean(chance, 0))))


def histogram(*columns: np.ndarray) -> np.ndarray:
    """Count each combination of values, with one axis per column ``(N,)``."""
    codes = [np.unique(column, return_inverse=True)[1] for column in columns]
    counts = np.zeros([code.max() + 1 for code in codes])
    np.add.at(counts, tuple(codes), 1)
    return counts
