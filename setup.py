"""Which folders are packages; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["policykd", "policykd.*"]), "policykd_envs"],
    package_dir={"policykd_envs": "envs"},
)
