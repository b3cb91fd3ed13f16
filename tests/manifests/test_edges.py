"""The ways in and out: what clients reach, how long an answer may take on the way, and what is closed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.settings import ApiSettings
from tests.api.conftest import Stage, Staging, catalog, stage, staged
from tests.manifests.documents import Document, Rendered
from tests.manifests.flows import leaves_to
from tests.manifests.rendering import Offer, kustomize, parsed, rendered

__all__ = ["Staging", "catalog", "stage", "staged"]

MANIFESTS = Path(__file__).parents[2] / "manifests"
POLICIES = MANIFESTS / "base" / "policies"
GATEWAY = Offer("eks", ("gateway", "tls"))
INGRESS = Offer("eks", ("ingress", "tls"))
GOOGLE = Offer("gke", ("gateway", "gateway-gke", "tls"))
#: What watches over the server is open without a key: not for everybody outside.
INSIDE = {"/metrics"}


def one(given: Rendered, kind: str, name: str) -> Document:
    found = given.named(kind, name)
    assert found is not None, f"{kind}/{name} is not in {given}"
    return found


def paths_of(offer: Offer) -> dict[str, str]:
    """What is let through, by kind of match."""
    given = rendered(offer)
    if offer is GATEWAY:
        (rule,) = one(given, "HTTPRoute", "anchorage")["spec"]["rules"]
        return {match["path"]["value"]: match["path"]["type"].removeprefix("Path") for match in rule["matches"]}
    (rule,) = one(given, "Ingress", "anchorage")["spec"]["rules"]
    return {path["path"]: path["pathType"] for path in rule["http"]["paths"]}


@pytest.mark.parametrize("offer", [GATEWAY, INGRESS], ids=str)
async def test_the_api_is_let_through_and_nothing_else(offer: Offer, stage: Stage) -> None:
    """Every path of the real app but those for insiders; no path that it does not have."""
    routes = set((await stage.http.get("/openapi.json")).json()["paths"]) | {"/docs", "/openapi.json"}
    allowed = paths_of(offer)

    def passes(route: str) -> bool:
        return any(
            route == path or (kind == "Prefix" and route.startswith(f"{path}/")) for path, kind in allowed.items()
        )

    assert {route for route in routes if passes(route)} == routes - INSIDE
    assert routes >= INSIDE
    for path, kind in allowed.items():
        assert path in routes or (kind == "Prefix" and any(route.startswith(path) for route in routes)), path


def test_an_answer_has_time_on_the_way() -> None:
    """Longer than the longest answer; and an upload as large as the Api takes."""
    api = ApiSettings()
    (rule,) = one(rendered(GATEWAY), "HTTPRoute", "anchorage")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}, "0s: no limit"
    said = {
        name.rpartition("/")[2]: value
        for name, value in one(rendered(INGRESS), "Ingress", "anchorage")["metadata"]["annotations"].items()
    }
    assert min(int(said["proxy-read-timeout"]), int(said["proxy-send-timeout"])) > api.deadline_s
    assert int(said["proxy-body-size"].removesuffix("m")) * 1024**2 >= api.max_upload_bytes
    assert (said["proxy-buffering"], said["proxy-request-buffering"]) == ("off", "off")
    assert said["proxy-next-upstream"] == "error", "a question that was read is not asked again"


def test_google_is_told_what_a_route_cannot_say() -> None:
    """How long an answer may take and a pod may drain, and how pods are asked for their health: as Kubernetes asks."""
    given = rendered(GOOGLE)
    policy = one(given, "GCPBackendPolicy", "anchorage")["spec"]
    assert policy["default"]["timeoutSec"] > ApiSettings().deadline_s
    assert policy["default"]["connectionDraining"]["drainingTimeoutSec"] > ApiSettings().deadline_s
    health = one(given, "HealthCheckPolicy", "anchorage")["spec"]
    (pod,) = [pod for pod in given.pods() if pod.labels.get("ray.io/group") == "cpu"]
    probed = pod.spec["containers"][0]["readinessProbe"]["httpGet"]["path"]
    assert health["default"]["config"]["httpHealthCheck"]["requestPath"] == probed
    service = one(given, "RayService", "anchorage")["spec"]["serveService"]["metadata"]["name"]
    assert {policy["targetRef"]["name"], health["targetRef"]["name"]} == {service}


@pytest.mark.parametrize("offer", [GATEWAY, INGRESS], ids=str)
def test_keys_travel_encrypted(offer: Offer) -> None:
    """One certificate for all; plain HTTP only tells where HTTPS is."""
    given = rendered(offer)
    secret = one(given, "Certificate", "anchorage")["spec"]["secretName"]
    if offer is INGRESS:
        ingress = one(given, "Ingress", "anchorage")
        assert [tls["secretName"] for tls in ingress["spec"]["tls"]] == [secret]
        assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/ssl-redirect"] == "true"
        return
    listeners = {each["name"]: each for each in one(given, "Gateway", "anchorage")["spec"]["listeners"]}
    assert [each["name"] for each in listeners["https"]["tls"]["certificateRefs"]] == [secret]
    routes = {each["metadata"]["name"]: each["spec"] for each in given.of("HTTPRoute")}
    sections = {name: {parent["sectionName"] for parent in spec["parentRefs"]} for name, spec in routes.items()}
    assert sections == {"anchorage": {"https"}, "anchorage-redirect": {"http"}}
    ((filter_,),) = [rule["filters"] for rule in routes["anchorage-redirect"]["rules"]]
    # Of the permanent redirects the one that keeps method and body.
    assert filter_["requestRedirect"] == {"scheme": "https", "statusCode": 308}
    assert all("backendRefs" not in rule for rule in routes["anchorage-redirect"]["rules"])


@pytest.mark.parametrize("offer", [GATEWAY, INGRESS], ids=str)
def test_clients_end_at_the_cpu_pods(offer: Offer) -> None:
    """The backend is KubeRay's Service under our name, whose port only the pods of the CPU group have."""
    given = rendered(offer)
    service = one(given, "RayService", "anchorage")["spec"]["serveService"]
    ports = {port["port"]: port["targetPort"] for port in service["spec"]["ports"]}
    for name, port in backends(given):
        assert name == service["metadata"]["name"]
        having = {
            pod.labels["ray.io/group"]
            for pod in given.pods()
            if pod.labels.get("app.kubernetes.io/component") == "serving" and "ray.io/group" in pod.labels
            for each in pod.spec["containers"]
            if ports[port] in {own.get("name") for own in each.get("ports", ())}
        }
        # The head has it for its metrics, and is kept out of the Service.
        assert having == {"cpu", "headgroup"}
    assert one(given, "RayService", "anchorage")["spec"]["excludeHeadPodFromServeSvc"] is True


def backends(given: Rendered) -> set[tuple[str, int]]:
    found = {
        (backend["name"], backend["port"])
        for route in given.of("HTTPRoute")
        for rule in route["spec"]["rules"]
        for backend in rule.get("backendRefs", ())
    }
    for ingress in given.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            services = [path["backend"]["service"] for path in rule["http"]["paths"]]
            found |= {(service["name"], service["port"]["number"]) for service in services}
    assert found
    return found


def test_all_is_closed_that_is_not_opened() -> None:
    """In both directions, for every pod of the namespace; each policy is applied, one a file, with its reason."""
    closed = one(rendered(Offer("local")), "NetworkPolicy", "anchorage-default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for path in MANIFESTS.rglob("networkpolicy*.yaml"):
        assert path.read_text().startswith("# "), path
        (policy,) = yaml.safe_load_all(path.read_text())
        spec = policy["spec"]
        assert {kind.lower() for kind in spec["policyTypes"]} >= spec.keys() & {"ingress", "egress"}, path
        listed = yaml.safe_load((path.parent / "kustomization.yaml").read_text())["resources"]
        assert path.name in listed, path


def test_no_policy_opens_the_clouds_metadata_service() -> None:
    """Where credentials of the node are: not for a pod that fetches what others tell it to."""
    for policy in rendered(GATEWAY).of("NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            for peer in rule.get("to", ()):
                block = peer.get("ipBlock", {})
                ports = {port["port"] for port in rule.get("ports", ())}
                if block.get("cidr") == "0.0.0.0/0" and not ports <= {443, 6443}:
                    raise AssertionError(policy["metadata"]["name"])
                if block.get("cidr") == "0.0.0.0/0" and "api-server" not in policy["metadata"]["name"]:
                    assert "169.254.0.0/16" in block["except"], policy["metadata"]["name"]


@pytest.mark.parametrize(
    ("overlay", "opened"),
    [
        ("local", set()),
        ("eks", {("169.254.170.23", 80)}),
        ("gke", {("169.254.169.254", 80), ("169.254.169.252", 988)}),
        ("aks", set()),
        ("onprem", set()),
    ],
)
def test_only_what_hands_out_a_pods_own_identity_is_open(overlay: str, opened: set[tuple[str, int]]) -> None:
    """For the pods that read buckets and no others, and on EKS never what has the node's credentials."""
    given = rendered(Offer(overlay))
    every = {("169.254.170.23", 80), ("169.254.169.254", 80), ("169.254.169.252", 988), ("169.254.170.2", 80)}
    for pod in given.pods():
        reads = pod.labels.get("app.kubernetes.io/component") == "ingestion" or pod.labels.get("ray.io/group") == "gpu"
        assert {each for each in every if leaves_to(pod, given, *each)} == (opened if reads else set()), pod.where


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        ("eks", "eks.amazonaws.com/role-arn"),
        ("gke", "iam.gke.io/gcp-service-account"),
        ("aks", "azure.workload.identity/client-id"),
    ],
)
def test_the_identity_that_an_overlay_shows_works(overlay: str, key: str, tmp_path: Path) -> None:
    """Its lines, when they are no comment any more, give the account of ingestion its annotation."""
    shutil.copytree(MANIFESTS, tmp_path / "manifests", ignore=shutil.ignore_patterns("images", "infrastructure"))
    path = tmp_path / "manifests" / "overlays" / overlay / "kustomization.yaml"
    path.write_text(re.sub(r"(?m)^  #(- |  )", r"  \1", path.read_text()))
    given = Rendered(overlay, tuple(parsed(kustomize(path.parent.resolve()))))
    assert key in one(given, "ServiceAccount", "anchorage-ingestion")["metadata"]["annotations"]
    pods = [pod for pod in given.pods() if pod.spec.get("serviceAccountName") == "anchorage-ingestion"]
    assert len(pods) == 3
    wanted = overlay == "aks"
    assert all((pod.labels.get("azure.workload.identity/use") == "true") is wanted for pod in pods)


def shown(readme: Path) -> list[Any]:
    """The patches that a README shows."""
    (block,) = re.findall(r"```yaml\n(.*?)```", readme.read_text(), re.DOTALL)
    return list(yaml.safe_load(block)["patches"])


@pytest.mark.parametrize(
    ("readme", "components", "changed"),
    [
        (
            POLICIES / "README.md",
            [],
            {"anchorage-api-server": "10.0.0.1/32", "anchorage-api-server-head": "10.0.0.1/32"},
        ),
        (
            MANIFESTS / "components" / "gateway" / "README.md",
            ["components/gateway"],
            {
                "anchorage": "azure-alb-external",
                "anchorage-redirect": "statusCode: 301",
                "anchorage-gateway-clients": "10.225.0.0/24",
            },
        ),
        (MANIFESTS / "components" / "tls" / "README.md", ["components/tls"], {"anchorage": "rag.company.example"}),
    ],
    ids=["policies", "azure", "tls"],
)
def test_patches_that_are_told_work(
    readme: Path, components: list[str], changed: dict[str, str], tmp_path: Path
) -> None:
    """As an overlay of one's own would have them."""
    above = Path("/".join([".."] * (len(tmp_path.resolve().parts) - 1))) / str(MANIFESTS.resolve())[1:]
    kustomization = {
        "resources": [str(above / "overlays" / "local")],
        "components": [str(above / each) for each in components],
        "patches": shown(readme),
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = parsed(kustomize(tmp_path))
    found: dict[str, str] = {}
    for document in documents:
        if document["kind"] in ("NetworkPolicy", "Certificate", "Gateway", "HTTPRoute"):
            name = document["metadata"]["name"]
            found[name] = found.get(name, "") + yaml.safe_dump(document["spec"])
    for name, value in changed.items():
        assert value in found[name]
