"""The declared comparisons of protocol.md, by question."""

from __future__ import annotations

from typing import Any

from experiments.peers.report import WAYS

BETTER = "better"
NAMES = {**WAYS, BETTER: "better peer"}
"""Ways in words. The better peer is told by the final evaluation, as in the paper's rows "Max": biased upwards."""
FOUR = "four_mutual"
GATED = "four_mutual_2"
"""The row that the gate chose for Q1."""


def pairs_by_rule(*rows: tuple[str, str]) -> list[Any]:
    """Comparisons of a row that distils with the same without, for each way of making one policy of a group."""
    return [((row, way), (shared, way)) for row, shared in rows for way in ("trained", "final", "student")]


AGAINST_SB3 = [
    *(((GATED, way), ("sb3", "final")) for way in ("trained", "student")),
    *(((GATED, "trained"), (control, "final")) for control in ("single_2", "single_4", "single_8")),
    (("single_4", "final"), ("sb3", "final")),
]
QUESTIONS: dict[str, dict[str, Any]] = {
    "Q1": {
        "question": "Against SB3 at equal steps, do peers do better, in no more time?",
        "results": "results/peers_small",
        "pairs": AGAINST_SB3,
    },
    "Q1 with TD3": {
        "question": "The same with TD3: do peers do better than SB3 at equal steps?",
        "results": "results/peers_small",
        "backbone": "td3",
        "pairs": AGAINST_SB3,
    },
    "Q2": {
        "question": "Without knowing the learning rate, does a group of four do as well as the best rate alone?",
        "results": "results/peers_tuning",
        "pairs": [
            *(((FOUR, "trained"), (f"single_{rate}", "final")) for rate in ("1e-4", "3e-4", "1e-3", "3e-3")),
            ((FOUR, "trained"), ("sb3", "final")),
            ((FOUR, "student"), ("sb3", "final")),
            ((FOUR, "trained"), ("optuna", "final")),
        ],
    },
    "Q3": {
        "question": "Does distillation add anything to sharing the replay?",
        "results": "results/peers_tuning",
        "pairs": [
            *(((FOUR, way), ("four_share", way)) for way in ("trained", "final", "student")),
            (("four_dpd", "trained"), ("four_share", "trained")),
        ],
    },
    "Q3 in regimes": {
        "question": "Does distillation add to sharing where rewards are delayed, peers see parts, or updates are many?",
        "results": "results/peers_regimes",
        "pairs": pairs_by_rule(
            *(("mutual", "share"), ("paired", "share")),  # rewards are delayed
            *(("parts_mutual", "parts_share"), ("parts_paired", "parts_share")),  # each peer sees a part
            ("paired_8", "share_8"),  # updates are many
        ),
    },
    "Q3 sparse": {
        "question": "Does distillation add to sharing where the reward must first be found?",
        "results": "results/peers_sparse",
        "pairs": pairs_by_rule(("mutual", "share"), ("paired", "share"), ("four_mutual", "four_share")),
    },
    "Table 1": {
        "question": "Of the paper's Table 1, what holds with PPO at a tenth of its steps?",
        "results": "results/peers_table1",
        "backbone": "ppo",
        "pairs": [
            *(
                ((method, way), ("single", "final"))
                for method in ("dpd", "dpd_published_code")
                for way in ("final", BETTER)
            ),
            *((("independent", way), ("single", "final")) for way in ("final", BETTER)),
            *(((method, "final"), ("independent", "final")) for method in ("dpd", "dpd_published_code", "mutual")),
        ],
    },
}
"""The declared comparisons (protocol.md), SAC where nothing else is said. A side is a row and the way of making one
policy of its groups (``NAMES``); single agents have the way "final" alone. P is taken over the tasks of both sides."""
