"""The same matrix on a Ray cluster: the numbers of the local engine, whatever dies on the way."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import POINT
from tiny_benchmark import HERE, REFERENCE, SLOW, rows, write

from policykd.benchmark import ray_engine
from policykd.benchmark.engine import Failed, Finished
from policykd.benchmark.matrix import MatrixOptions, run_matrix
from policykd.benchmark.spec_file import load_spec
from policykd.core import plugins
from policykd.core.errors import PolicyKDError
from policykd.distillation import methods

NIGHTLY = pytest.mark.nightly
SLOW_TASK = {SLOW: {"backbones": ["td3"], "reference": REFERENCE}}
LONG = {"tasks": SLOW_TASK, "total_timesteps": 2000, "evaluations": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(HERE))
    return tmp_path


@pytest.fixture
def cluster(folder):
    """Two nodes of one core each on this machine; the driver is on a head that has none."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


@NIGHTLY
def test_a_node_that_is_killed_in_the_middle_changes_no_number(folder, cluster):
    nodes_of, nodes = cluster
    ray = pytest.importorskip("ray")
    here = ray.get_runtime_context().get_node_id()  # a driver does not outlive its own node
    node = next(node for node in nodes if node.node_id != here)
    file = write(**LONG, methods=["independent", "mutual", "dpd"])
    killed = []

    def kill_when_cells_run():
        checkpoints = Path("work")
        while not list(checkpoints.rglob("checkpoint.safetensors")):
            time.sleep(0.02)
        nodes_of.remove_node(node, allow_graceful=False)
        killed.append(time.monotonic())

    thread = threading.Thread(target=kill_when_cells_run)
    thread.start()
    assert run_matrix(file, MatrixOptions(engine="ray", env=(SLOW,), out="on_ray", work=Path("work"))) == []
    thread.join()
    assert killed
    assert run_matrix(file, MatrixOptions(out="local", jobs=1, work=Path("local_work"))) == []
    for method in ("independent", "mutual", "dpd"):
        assert rows(method, "Slow-v0", "on_ray") == rows(method, "Slow-v0", "local")


@NIGHTLY
def test_kill_9_of_a_worker_and_a_cell_that_raises(folder, cluster):
    tasks = {**SLOW_TASK, "faulty_tasks:Raises-v0": SLOW_TASK[SLOW]}
    cells = load_spec(write(**{**LONG, "tasks": tasks}, methods=["dpd"]), list(tasks)).cells
    slow = Path("work", cells[0].name).absolute()
    killed = []

    def kill_the_worker():
        while not (slow / "run" / "checkpoint.safetensors").exists():
            time.sleep(0.02)
        process = _holder(slow / "run")
        os.kill(process, signal.SIGKILL)
        killed.append(process)

    thread = threading.Thread(target=kill_the_worker)
    thread.start()
    ends = {e.cell.name: e for e in ray_engine.run(cells, Path("work"), None) if isinstance(e, Finished | Failed)}
    thread.join()
    assert killed and isinstance(ends[cells[0].name], Finished)
    failed = ends[cells[1].name]
    assert isinstance(failed, Failed) and 'raise RuntimeError("the simulator fell over")' in failed.text


def _holder(folder):
    """The process that has a file of this folder open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(folder) in os.readlink(file) for file in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError("no worker")


def test_without_ray_and_with_jobs_it_says_so(folder, monkeypatch):
    file = write(tasks={POINT: SLOW_TASK[SLOW]}, methods=["independent"])
    with pytest.raises(PolicyKDError, match="--jobs and --threads need the local engine"):
        run_matrix(file, MatrixOptions(engine="ray", env=(SLOW,), jobs=1))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PolicyKDError, match=r'pip install "policykd\[ray\]"'):
        run_matrix(file, MatrixOptions(engine="ray", env=(SLOW,)))


def test_progress_that_is_lost_with_its_node_ends_nothing():
    class RayError(Exception):
        """As Ray's."""

    def get(reference):
        if reference == "lost":
            raise RayError("the actor is temporarily unavailable")
        return {"cell": 3}

    ray = SimpleNamespace(get=get, exceptions=SimpleNamespace(RayError=RayError))
    for reference, expected in (("there", {"cell": 3}), ("lost", {})):
        all_of = SimpleNamespace(remote=lambda reference=reference: reference)
        assert ray_engine._known(ray, SimpleNamespace(all=all_of)) == expected


def test_a_worker_imports_the_modules_of_the_driver(folder, monkeypatch):
    monkeypatch.setattr(ray_engine, "work", lambda cell, folder, report: cell.base)
    Path("my_peers.py").write_text(
        "from policykd.distillation.methods import PEER_METHODS, PeerMethod\n"
        "PEER_METHODS['mine'] = PeerMethod('mine', 'A method of a module')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv(plugins.VARIABLE, "")
    cell = load_spec(write(methods=["dpd"])).cells[0].plain()
    try:
        assert ray_engine._work(cell, "work", None, "my_peers") == ("dpd", "")
        assert "mine" in methods.PEER_METHODS
    finally:
        methods.PEER_METHODS.pop("mine", None)
    assert "no_such_module cannot be imported" in ray_engine._work(cell, "work", None, "no_such_module")[1]
