"""The manifests for KubeRay, without Kubernetes: their fields, and that they agree with each other and the image."""

import pytest
from containers import DOCKER, UID, config_of_the_job, constraint, mebibytes, read, release

SETTINGS, CLUSTER, JOB = read("settings.yaml"), read("raycluster.yaml"), read("rayjob.yaml")
PODS = {
    "head": CLUSTER["spec"]["headGroupSpec"]["template"]["spec"],
    **{group["groupName"]: group["template"]["spec"] for group in CLUSTER["spec"]["workerGroupSpecs"]},
    "submitter": JOB["spec"]["submitterPodTemplate"]["spec"],
}
RAY_PODS = [name for name in PODS if name != "submitter"]

KUBERAY_CLUSTER = [
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "headGroupSpec",
    "rayVersion",
    "workerGroupSpecs",
]
KUBERAY_JOB = [
    "backoffLimit",
    "entrypoint",
    "rayClusterSpec",
    "shutdownAfterJobFinishes",
    "submitterConfig",
    "submitterPodTemplate",
    "ttlSecondsAfterFinished",
]
KUBERAY_GROUP = ["groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"]
"""The fields in use, as KubeRay's API reference spells them: an API server may drop others without a word."""


def test_kuberay_knows_every_field():
    assert sorted(CLUSTER["spec"]) == KUBERAY_CLUSTER and sorted(JOB["spec"]) == KUBERAY_JOB
    assert {CLUSTER["apiVersion"], JOB["apiVersion"]} == {"ray.io/v1"}
    assert sorted(CLUSTER["spec"]["headGroupSpec"]) == ["rayStartParams", "template"]
    assert all(sorted(group) == KUBERAY_GROUP for group in CLUSTER["spec"]["workerGroupSpecs"])


def test_a_job_has_the_cluster_of_the_other_manifest():
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]


def test_a_lost_cluster_is_replaced_and_nothing_is_submitted_twice():
    assert JOB["spec"]["backoffLimit"] > 0 and JOB["spec"]["submitterConfig"] == {"backoffLimit": 0}
    assert JOB["spec"]["shutdownAfterJobFinishes"] and config_of_the_job().storage.startswith("s3://")


def test_the_cluster_wants_a_token_and_grows_within_bounds():
    spec = CLUSTER["spec"]
    assert spec["rayVersion"] == constraint("ray")
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"]
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] and group["maxReplicas"] > 0


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_more_rights_than_it_needs(name: str):
    pod = PODS[name]
    (container,) = pod["containers"]
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == UID
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == confined
    assert name == "head" or pod["automountServiceAccountToken"] is False  # the head's autoscaler asks for pods
    assert CLUSTER["spec"]["autoscalerOptions"]["securityContext"] == confined
    assert container["image"] == f"distens:{release()}-{'cuda' if name == 'gpu' else 'cpu'}"
    assert {"cpu", "memory"} <= set(container["resources"]["requests"]) & set(container["resources"]["limits"])


@pytest.mark.parametrize("name", RAY_PODS)
def test_a_ray_pod_is_watched_and_has_settings_and_shared_memory(name: str):
    (container,) = PODS[name]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    sources = [next(iter(source.values()))["name"] for source in container["envFrom"]]
    assert sources == [SETTINGS["metadata"]["name"], "distens-credentials"]
    assert "--from-env-file" in (DOCKER / "README.md").read_text()
    (mount,), (volume,) = container["volumeMounts"], PODS[name]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/dev/shm"} and volume["emptyDir"]["medium"] == "Memory"
    assert mebibytes(volume["emptyDir"]["sizeLimit"]) >= 0.3 * mebibytes(container["resources"]["limits"]["memory"])
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name == "gpu")
