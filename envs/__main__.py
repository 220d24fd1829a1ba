"""``python -m policykd_envs`` prints the table of tasks in ``README.md``."""

from policykd_envs.registration import readme_table

print(readme_table(), end="")
