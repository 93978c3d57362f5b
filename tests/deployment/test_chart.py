"""The Helm chart: rendered by Helm, checked by the schemas of Kubernetes and the models of KEDA, and its query run.

`make chart` installs what this needs. Without it these tests are skipped.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text, update

from cli.supervisor.roles import ROLES
from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import jobs, queue
from db.models import Upload, User
from db.settings import Settings

PROJECT = Path(__file__).parents[2]
CHART = PROJECT / ".helm/ctbatch"
TOOLS = PROJECT / ".build/chart"
STORAGE = ("--set", "storage.url=s3://bucket/prefix")
VARIANTS = {
    "default": STORAGE,
    "all": (*STORAGE, "--set", "ingress.enabled=true,metricsToken=true,workers.inference-gpu.enabled=true"),
    "gpu": (*STORAGE, "-f", str(CHART / "values-gpu.yaml")),
    "claim": ("--set", "storage.claim=files,keda.enabled=false"),
    "paused": (*STORAGE, "--set", "paused=true"),
}
KEDA = """
import json, sys
from cloudcoil.models.keda import v1alpha1
for document in json.load(sys.stdin):
    known = getattr(v1alpha1, document["kind"]).model_validate(document)
    kept = json.loads(known.model_dump_json(by_alias=True, exclude_unset=True))
    assert kept == document, (kept, document)
"""


@cache
def helm() -> str:
    own = TOOLS / "helm"
    found = str(own) if own.exists() else shutil.which("helm")
    if found is None:
        pytest.skip("Helm is not installed; `make chart` gets it")
    return found


@cache
def rendered(variant: str) -> list[dict[str, Any]]:
    command = [helm(), "template", "demo", str(CHART), *VARIANTS[variant]]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def of_kind(variant: str, kind: str) -> dict[str, dict[str, Any]]:
    documents = (document for document in rendered(variant) if document["kind"] == kind)
    return {document["metadata"]["name"].removeprefix("demo-"): document for document in documents}


def tool(name: str) -> str:
    path = TOOLS / "venv/bin" / name
    if not path.exists():
        pytest.skip(f"{name} is not installed; `make chart` gets it")
    return str(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_accepts_what_the_chart_renders(variant: str, tmp_path: Path) -> None:
    own = [document for document in rendered(variant) if not document["apiVersion"].startswith("keda.sh")]
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(yaml.safe_dump_all(own))
    for version in ("1.30", "1.37"):
        command = [tool("kubernetes-validate"), "--strict", "--quiet", "-k", version, str(manifest)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize("variant", ["all", "gpu", "paused"])
def test_keda_knows_every_member_that_the_chart_renders(variant: str) -> None:
    scaled = [document for document in rendered(variant) if document["apiVersion"].startswith("keda.sh")]
    assert scaled
    subprocess.run([tool("python"), "-c", KEDA], input=json.dumps(scaled), text=True, check=True)


def test_helm_finds_no_fault_and_misses_no_setting() -> None:
    subprocess.run([helm(), "lint", "--strict", str(CHART), *STORAGE], check=True, capture_output=True)
    unset = subprocess.run([helm(), "template", str(CHART)], capture_output=True, text=True, check=False)
    assert unset.returncode != 0
    assert "storage.url" in unset.stderr


def test_ingress_serves_metrics_only_with_a_token() -> None:
    command = [helm(), "template", "demo", str(CHART), *STORAGE, "--set", "ingress.enabled=true"]
    open_metrics = subprocess.run(command, capture_output=True, text=True, check=False)
    assert open_metrics.returncode != 0
    assert "metricsToken" in open_metrics.stderr
    (ingress,) = of_kind("all", "Ingress").values()
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/enable-access-log"] == "false"


def containers(variant: str) -> dict[str, dict[str, Any]]:
    pods = of_kind(variant, "Deployment") | of_kind(variant, "Job")
    return {name: pod["spec"]["template"]["spec"] for name, pod in pods.items()}


UNITS = {"Gi": 2**30, "Mi": 2**20}


def size_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def test_caches_and_the_largest_upload_fit_into_each_home() -> None:
    """Kubernetes evicts a pod whose home is larger than its limit. The free disk of its node does not show this."""
    pods = containers("all")
    environments = {
        name: {one["name"]: one.get("value") for one in pod["containers"][0]["env"]} for name, pod in pods.items()
    }
    upload = int(environments["web"]["CTBATCH_MAX_UPLOAD_BYTES"])
    assert environments["web"]["CTBATCH_CACHE_BYTES"] == "0", "nothing in web reads an upload"
    for name in of_kind("all", "Deployment"):
        (home,) = (one["emptyDir"]["sizeLimit"] for one in pods[name]["volumes"] if one["name"] == "home")
        files_and_models = 2 * int(environments[name]["CTBATCH_CACHE_BYTES"])
        largest = upload if name in ("web", "ingest", "evaluation") else 0
        assert files_and_models + largest < size_of(home), name


def test_numbers_of_a_values_file_may_stand_without_quotes(tmp_path: Path) -> None:
    numbers = {
        "web": {"maxUploadBytes": 34359738368, "trustedProxies": 2, "secureCookies": False},
        "environment": {"CTBATCH_MAX_UNPACKED_BYTES": 68719476736, "CTBATCH_DECODER_SECONDS": 0.5},
        "workers": {"ingest": {"environment": {"CTBATCH_CACHE_BYTES": 42949672960}}},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(numbers))
    command = [helm(), "template", "demo", str(CHART), *STORAGE, "-f", str(tmp_path / "values.yaml")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    documents = [document for document in yaml.safe_load_all(result.stdout) if document]
    assert values_of(documents, "web", "CTBATCH_MAX_UPLOAD_BYTES", "CTBATCH_TRUSTED_PROXIES") == ["34359738368", "2"]
    assert values_of(documents, "web", "CTBATCH_SECURE_COOKIES", "CTBATCH_DECODER_SECONDS") == ["false", "0.5"]
    assert values_of(documents, "ingest", "CTBATCH_CACHE_BYTES") == ["42949672960"]
    assert values_of(documents, "ingest", "CTBATCH_MAX_UNPACKED_BYTES") == ["68719476736"]


def values_of(documents: list[dict[str, Any]], name: str, *keys: str) -> list[str]:
    """The values of these variables in the Deployment of this name."""
    (own,) = (one for one in documents if (one["kind"], one["metadata"]["name"]) == ("Deployment", f"demo-{name}"))
    (container,) = own["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    return [environment[key] for key in keys]


@pytest.mark.parametrize("key", ["CTBATCH_MAX_UPLOAD_BYTES", "CTBATCH_CACHE_BYTES"])
def test_setting_of_every_pod_that_web_would_ignore_is_refused(key: str) -> None:
    command = [helm(), "template", "demo", str(CHART), *STORAGE, "--set-string", f"environment.{key}=999"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert f"environment.{key}" in result.stderr


def test_ingress_waits_as_long_as_the_proxy_of_compose() -> None:
    (ingress,) = of_kind("all", "Ingress").values()
    proxy = (PROJECT / ".docker/nginx.conf").read_text()
    for name in ("read", "send"):
        hours = max(int(hours) for hours in re.findall(rf"proxy_{name}_timeout (\d+)h;", proxy))
        annotation = ingress["metadata"]["annotations"][f"nginx.ingress.kubernetes.io/proxy-{name}-timeout"]
        assert int(annotation) == hours * 3600


def test_chart_runs_every_role() -> None:
    commands: dict[str, Sequence[str]] = {name: pod["containers"][0]["args"] for name, pod in containers("all").items()}
    assert {words[1] for name, words in commands.items() if name != "migrate"} == set(ROLES)
    assert commands["migrate"] == ["db", "upgrade"]
    assert commands["inference-gpu"] == ["worker", "inference", "--name", "inference-gpu"]


def test_pods_are_confined_and_end_within_a_lease() -> None:
    for name, pod in containers("all").items():
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert pod["automountServiceAccountToken"] is False
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        if name != "migrate":
            assert 30 < pod["terminationGracePeriodSeconds"] < Settings().lease_seconds


def test_no_secret_stands_in_the_chart_and_only_web_reads_its_key() -> None:
    for name, pod in containers("all").items():
        for variable in pod["containers"][0]["env"]:
            if any(word in variable["name"] for word in ("SECRET", "TOKEN", "DATABASE_URL", "BROKER_URL")):
                assert (
                    variable["name"].endswith("_FILE")
                    or "secretKeyRef" in variable["valueFrom"]
                    or (variable["name"] == "CTBATCH_SECURE_COOKIES")
                )
        (secret,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "secrets")
        assert ("secret_key" in {item["key"] for item in secret["items"]}) is (name == "web")


def test_every_deployment_has_a_disruption_budget_and_a_probe() -> None:
    deployments, budgets = of_kind("all", "Deployment"), of_kind("all", "PodDisruptionBudget")
    assert set(budgets) == set(deployments)
    for name, deployment in deployments.items():
        assert budgets[name]["spec"]["selector"] == deployment["spec"]["selector"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert "readinessProbe" in container
        assert ("livenessProbe" in container) is (name == "web")


def test_replicas_are_kedas_where_it_scales_and_none_run_while_paused() -> None:
    scaled = of_kind("all", "ScaledObject")
    assert set(scaled) == {"ingest", "inference", "inference-gpu"}
    for name, deployment in of_kind("all", "Deployment").items():
        assert ("replicas" in deployment["spec"]) is (name not in scaled)
    assert {one["spec"]["replicas"] for one in of_kind("paused", "Deployment").values()} == {0}
    for one in of_kind("paused", "ScaledObject").values():
        assert one["metadata"]["annotations"] == {"autoscaling.keda.sh/paused-replicas": "0"}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_scaling_query_gives_the_age_of_the_oldest_work_that_can_be_claimed(
    database: Settings, champion: object, ann: User
) -> None:
    trigger = of_kind("default", "ScaledObject")["ingest"]["spec"]["triggers"][0]

    def age() -> float:
        with read_scope() as s:
            return float(s.execute(text(trigger["metadata"]["query"])).scalar_one())

    assert age() == 0
    with session_scope() as s:
        jobs.create_job(s, owner=ann, files=[jobs.ReceivedFile("a.zip", "0" * 64, 10, "zip", 4)])
        s.execute(update(Upload).values(created_at=from_now(-90)))
    assert 90 <= age() < 300
    with session_scope() as s:
        queue.claim_upload(s, "w")
    assert age() == 1
