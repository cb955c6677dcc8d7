"""Where members go on a cluster of several nodes, each a real one of Ray's, and how they wait for one."""

import subprocess
import sys
import time

import pytest
from _cluster import Cluster

from distens import registry
from distens.errors import ConfigError, RunError
from distens.lifecycle.tasks import task_from_json, task_to_json
from distens.lifecycle.work.train import Train
from distens.records import Resources, Task
from distens.runtime import _sizes
from distens.runtime._sizes import GIB

MODULE = """
import dataclasses, pathlib, time, typing, numpy, ray
from distens.records import State
@dataclasses.dataclass
class Small:
    uses_gpu: typing.ClassVar[typing.Literal[False]] = False
    together: int = 1
    def fit(self, examples, context):
        here = ray.get_runtime_context()
        assert here.get_actor_id() and here.get_assigned_resources().get("CPU")  # no run of a sweep
        node = next(n for n in ray.nodes() if n["NodeID"] == here.get_node_id())
        text = "special" if "special" in node["Resources"] else node["Labels"].get("kind", here.get_node_id())
        pathlib.Path(__file__).with_name("seen").joinpath(here.get_actor_id()).write_text(text)
        deadline = time.monotonic() + 100
        while len(list(pathlib.Path(__file__).with_name("seen").iterdir())) < self.together:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.shares_C = numpy.bincount(examples.targets, minlength=examples.classes) / len(examples.targets)
        return {"parameters": examples.classes}
    def predict(self, inputs):
        return numpy.tile(numpy.float32(self.shares_C), (len(inputs), 1))
    def state(self):
        return State({"shares_C": self.shares_C})
    def load(self, state):
        self.shares_C = state.arrays["shares_C"]
"""
CONFIG = """
name: iris
data: {source: sklearn:iris}
members: {mine: {kind: "nets:Small"}}
search: {kind: random, members: 2}
tracking: off
"""


@pytest.fixture(scope="module")
def cluster():
    """A head without room for members, and two nodes: one is labelled, one has something special."""
    with Cluster(cpus=0, jobs=False) as found:
        found.add(cpus=1, resources={"special": 1})
        found.add(cpus=1, labels={"kind": "blue"})
        yield found


@pytest.fixture
def project(tmp_path):
    (tmp_path / "nets.py").write_text(MODULE)
    (tmp_path / "iris.yaml").write_text(CONFIG)
    (tmp_path / "seen").mkdir()
    return tmp_path


def started(cluster, project, runtime, command="run", config="iris.yaml", more=()):
    command = [sys.executable, "-m", "distens.cli", command, config, "--set", f"runtime={runtime}", *more]
    return subprocess.Popen(
        command, cwd=project, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(run):
    text, _ = run.communicate(timeout=240)
    return run.returncode, text


@pytest.mark.parametrize(
    ("runtime", "where"),
    [
        ("{kind: ray_actors, custom_per_member: {special: 0.5}}", {"special"}),
        ("{kind: ray_actors, node_labels: {kind: blue}}", {"blue"}),
        ("{kind: ray_actors, placement: spread, cpus_per_member: 0.5, pack: 1}", {"special", "blue"}),
    ],
)
def test_members_are_where_they_were_asked_to_be(runtime, where, cluster, project):
    more = ["--set", f"members.mine.together={len(where)}"]  # else one actor may have done all before the other is up
    code, text = ended(started(cluster, project, runtime, more=more))
    assert code == 0, text
    assert {path.read_text() for path in (project / "seen").iterdir()} == where


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (
            "{kind: ray_actors, cpus_per_member: 2}",
            "runtime.cpus_per_member: 2 CPUs for one member, but no node",
        ),
        ("{kind: ray_actors, memory_gib_per_member: 1e6}", "runtime.memory_gib_per_member: 1e+06 GiB for one member"),
        ("{kind: ray_actors, custom_per_member: {moon: 1}}", "runtime.custom_per_member: 1 moon for one member"),
        (
            "{kind: ray_actors, node_labels: {kind: green}}",
            "runtime.node_labels: no node has kind=green",
        ),
    ],
)
def test_what_no_node_has_is_said_before_anything_is_trained(runtime, words, cluster, project):
    code, text = ended(started(cluster, project, runtime))
    assert code == 1 and words in text, text
    assert not list((project / "seen").iterdir())


def test_a_run_waits_for_a_node_that_is_large_enough(cluster, project):
    run = started(cluster, project, "{kind: ray_actors, cpus_per_member: 2, wait_seconds: 200}")
    for line in run.stdout:
        if "waiting up to 200 s" in line:
            break
    else:
        pytest.fail("it did not wait")
    assert "2 CPUs for one member, but no node has more than 1" in line
    node = cluster.add(cpus=2)
    code, text = ended(run)
    cluster.kill(node)
    assert code == 0 and "[2/2]" in text, text


def test_nodes_that_autoscaling_brings_are_waited_for_and_used(project):
    """None has a CPU at first; two members at once need two nodes of one CPU."""
    with Cluster(cpus=0, jobs=False, scaling=2) as scaled:
        runtime = "{kind: ray_actors, pack: 1, wait_seconds: 200, concurrency: 2}"
        more = ["--set", "members.mine.together=2"]
        code, text = ended(started(scaled, project, runtime, more=more))
    assert code == 0 and "no node has more than 0; waiting up to 200 s" in text and "[2/2]" in text, text
    assert len({path.read_text() for path in (project / "seen").iterdir()}) == 2


# Sweeps ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def swept(project):
    sweep = "sweep: {over: {select.size: {choices: [1, 2]}}, samples: 2, concurrency: 1}"
    (project / "sweep.yaml").write_text(f"{CONFIG}\n{sweep}\n")
    return project


@pytest.mark.timeout(300)
@pytest.mark.parametrize("placement", ["pack", "spread"])
def test_members_of_a_sweeps_runs_are_where_they_were_asked_to_be(placement, cluster, swept):
    runtime = f"{{kind: ray_actors, custom_per_member: {{special: 0.5}}, placement: {placement}, pack: 1}}"
    code, text = ended(started(cluster, swept, runtime, "sweep", "sweep.yaml"))
    assert code == 0 and "[2/2]" in text, text
    assert {path.read_text() for path in (swept / "seen").iterdir()} == {"special"}


@pytest.mark.timeout(300)
def test_a_sweep_goes_on_with_fewer_nodes_than_it_began_with(cluster, swept):
    node = cluster.add(cpus=1)
    run = started(cluster, swept, "{kind: ray_actors, pack: 1}", "sweep", "sweep.yaml")
    while not list(swept.glob("runs/*/*/run.json")) and run.poll() is None:
        time.sleep(0.02)
    cluster.kill(node)
    code, text = ended(run)
    assert code == 0 and "[2/2]" in text, text


def test_what_no_node_has_is_said_before_a_sweep_begins(cluster, swept):
    runtime = "{kind: ray_actors, custom_per_member: {moon: 1}}"
    code, text = ended(started(cluster, swept, runtime, "sweep", "sweep.yaml"))
    assert code == 1 and "runtime.custom_per_member: 1 moon for one member, but no node has more than 0" in text, text
    assert "[1/2]" not in text
    assert not list(swept.glob("runs/*/*/run.json"))


def test_a_wait_ends_and_says_what_was_missing(cluster, project):
    code, text = ended(started(cluster, project, "{kind: ray_actors, custom_per_member: {moon: 1}, wait_seconds: 3}"))
    assert code == 1 and "1 moon for one member, but no node has more than 0, after 3 s" in text, text


# Arithmetic -----------------------------------------------------------------------------------------------------------

LARGE = Resources(1.0, 0.0, 3.0, (("special", 0.5),))


def test_all_that_is_asked_for_counts():
    """8 CPUs, 7 GiB and 2 special: 8 by CPUs, 2 by memory, 4 by what is special."""
    node = {"CPU": 8.0, "memory": 7.0 * GIB, "special": 2.0}
    assert _sizes.count_actors(node, LARGE) == 2
    assert _sizes.count_actors({"CPU": 8.0, "memory": 70.0 * GIB}, LARGE) == 0
    assert _sizes.fits_side_by_side([LARGE, LARGE], _sizes.total_amounts([node])) and not _sizes.fits_side_by_side(
        [LARGE] * 3, _sizes.total_amounts([node])
    )
    assert _sizes.total_amounts([node, {"CPU": 0.5}]) == {"CPU": 8.5, "memory": 7.0 * GIB, "special": 2.0}


def test_who_holds_what_is_scarce_gives_way():
    plain, special = Resources(1.0), Resources(1.0, custom=(("special", 1.0),))
    room = {"CPU": 4.0, "special": 1.0}
    assert _sizes.actors_to_end([plain, special], [special], room) == [1]
    assert _sizes.actors_to_end([plain, special], [Resources(3.0)], room) == [0]


def test_sizes_must_be_on_one_node():
    nodes = [{"CPU": 1.0, "special": 1.0}, {"CPU": 4.0, "memory": 8.0 * GIB}]
    with pytest.raises(RunError, match=r"runtime: no node has 1 CPUs and 3 GiB and 0\.5 special, for one member"):
        _sizes.check_room(nodes, LARGE, {})


def test_sizes_survive_the_journal():
    task = Task("m0", "search", {}, 1, LARGE, work=Train())
    assert task_from_json(task_to_json(task)).resources == LARGE
    assert task_to_json(Task("m0", "search", {}, 1, work=Train()))["resources"] == {"cpus": 1.0, "gpus": 0.0}


def test_what_ray_counts_itself_is_not_custom():
    with pytest.raises(ConfigError, match="custom_per_member: GPU is not a custom resource"):
        registry.make_plugin("runtime", {"kind": "ray_actors", "custom_per_member": {"GPU": 1.0}}, "runtime")
