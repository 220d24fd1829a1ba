"""Exports learners for deployment: SB3, ONNX, TorchScript, C, or a folder for the Hugging Face Hub."""

from policykd.export.deployed import DeployedPolicy, deploy
from policykd.export.policy import Policy
from policykd.export.sb3 import (
    MODELS,
    check_trained_by_sb3,
    make_model,
    no_twin,
    read_sb3,
    to_sb3,
    vec_env,
    warn_of_normaliser,
    write_sb3,
)
from policykd.export.zoo_settings import zoo_settings

__all__ = [
    "MODELS",
    "DeployedPolicy",
    "Policy",
    "check_trained_by_sb3",
    "deploy",
    "make_model",
    "no_twin",
    "read_sb3",
    "to_sb3",
    "vec_env",
    "warn_of_normaliser",
    "write_sb3",
    "zoo_settings",
]
