"""Milvus in three ways, PostgreSQL and an object store: found by the settings, keeping what they are given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from serving.settings import IndexSettings
from tests.manifests.documents import Document, Rendered
from tests.manifests.rendering import Offer, rendered

ROOT = Path(__file__).parents[2]
COMPONENTS = ROOT / "manifests" / "components"
PLAIN = Offer("local")
STANDALONE = Offer("local", ("no-milvus", "object-storage", "milvus-operator-standalone"))
CLUSTER = Offer("eks", ("no-milvus", "object-storage", "milvus-operator-cluster"))
BY_OPERATOR = [STANDALONE, CLUSTER]


def one(given: Rendered, kind: str, name: str) -> Document:
    found = given.named(kind, name)
    assert found is not None, f"{kind}/{name} is not in {given}"
    return found


def container(given: Rendered, name: str) -> Document:
    """Of a StatefulSet with one."""
    (found,) = one(given, "StatefulSet", name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(given: Document) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in given["env"]}


@pytest.mark.parametrize("offer", [PLAIN, *BY_OPERATOR], ids=str)
def test_serving_and_ingestion_find_milvus(offer: Offer) -> None:
    """By one name, whichever Milvus there is; behind it are the pods that take requests, and no others."""
    given = rendered(offer)
    settings = next(each for each in given.of("ConfigMap") if each["metadata"]["name"].startswith("anchorage-settings"))
    addresses = {settings["data"]["ANCHORAGE_INDEX__MILVUS_URI"]}
    addresses.add(one(given, "ConfigMap", "anchorage-ingest")["data"]["milvus-uri"])
    (address,) = addresses
    assert IndexSettings(milvus_uri=address)
    service = one(given, "Service", str(urlsplit(address).hostname))
    assert [port["port"] for port in service["spec"]["ports"]] == [urlsplit(address).port]
    wanted = service["spec"]["selector"].items()
    behind = {pod.path for pod in given.pods() if wanted <= pod.labels.items()}
    assert len(behind) == 1
    assert behind <= {"spec.template", "spec.components.standalone", "spec.components.proxy"}


def test_plain_milvus_keeps_all_on_its_volume() -> None:
    """Etcd, the log of writes and the data lie on the volume; its files are those that its variables name."""
    given = rendered(PLAIN)
    milvus = container(given, "milvus")
    files = one(given, "ConfigMap", "milvus")["data"]
    mounts = {mount["mountPath"]: mount for mount in milvus["volumeMounts"]}
    values = environment(milvus)
    (data,) = [path for path, mount in mounts.items() if mount["name"] == "data"]
    settings = yaml.safe_load(files["user.yaml"])
    assert values["ETCD_DATA_DIR"].startswith(f"{data}/")
    assert settings["woodpecker"]["storage"]["rootPath"].startswith(f"{data}/")
    assert settings["mq"]["type"] == "woodpecker"
    assert settings["woodpecker"]["storage"]["type"] == values["COMMON_STORAGETYPE"] == "local"
    for path in (values["ETCD_CONFIG_PATH"], "/milvus/configs/user.yaml"):
        assert mounts[path]["subPath"] in files
    # Nobody else reads the metadata of all collections.
    assert "127.0.0.1" in yaml.safe_load(files["embedEtcd.yaml"])["listen-client-urls"]
    # The image's files are for group 0.
    assert one(given, "StatefulSet", "milvus")["spec"]["template"]["spec"]["securityContext"]["runAsGroup"] == 0


@pytest.mark.parametrize("offer", BY_OPERATOR, ids=str)
def test_the_operators_milvus_loses_nothing(offer: Offer) -> None:
    """The log of writes is named; etcd stays when the resource goes; data are in an object store outside of it."""
    given = rendered(offer)
    milvus = one(given, "Milvus", "anchorage")["spec"]
    needs = milvus["dependencies"]
    assert needs["msgStreamType"] == "woodpecker"
    assert needs["etcd"]["inCluster"]["deletionPolicy"] == "Retain"
    assert needs["etcd"]["inCluster"]["pvcDeletion"] is False
    assert needs["etcd"]["inCluster"]["values"]["persistence"]["enabled"] is True
    assert needs["storage"]["external"] is True
    assert "inCluster" not in needs["storage"], "the operator's own is MinIO, under the AGPL"
    host, _, port = needs["storage"]["endpoint"].partition(":")
    (offered,) = one(given, "Service", host)["spec"]["ports"]
    assert offered["port"] == int(port)
    store = container(given, "object-storage")
    assert f"-s3.port={port}" in store["args"]
    keys = {value["secretKeyRef"]["name"]: value["secretKeyRef"]["key"] for value in environment(store).values()}
    assert set(keys) == {needs["storage"]["secretRef"]}
    # The names that the operator reads (v1.3.8, GetStorageSecretRefEnv).
    assert {value["secretKeyRef"]["key"] for value in environment(store).values()} == {"accesskey", "secretkey"}


def test_a_cluster_has_no_part_alone_that_searches_need() -> None:
    """Two of each that a search passes through, three members of etcd on different nodes."""
    milvus = one(rendered(CLUSTER), "Milvus", "anchorage")["spec"]
    for part in ("proxy", "queryNode", "streamingNode"):
        assert milvus["components"][part]["replicas"] >= 2, part
    values = milvus["dependencies"]["etcd"]["inCluster"]["values"]
    assert (values["replicaCount"], values["podAntiAffinityPreset"]) == (3, "hard")
    assert values["pdb"]["minAvailable"] > values["replicaCount"] / 2


def test_every_milvus_is_the_same() -> None:
    """One version, by operator or not."""
    images = {container(rendered(PLAIN), "milvus")["image"]}
    images |= {one(rendered(offer), "Milvus", "anchorage")["spec"]["components"]["image"] for offer in BY_OPERATOR}
    assert len(images) == 1


def test_the_catalogs_address_is_the_one_that_is_told() -> None:
    """User, database, host and port of the README's URL are those of the StatefulSet; its password is a secret."""
    given = rendered(PLAIN)
    postgres = container(given, "postgres")
    values = environment(postgres)
    told = re.search(r"postgresql\+asyncpg://\S+(?=`)", (COMPONENTS / "postgres" / "README.md").read_text())
    assert told
    url = urlsplit(told[0])
    assert (url.username, url.path[1:]) == (values["POSTGRES_USER"], values["POSTGRES_DB"])
    (port,) = one(given, "Service", str(url.hostname))["spec"]["ports"]
    assert (port["port"], postgres["ports"][0]["containerPort"]) == (url.port, url.port)
    assert values["POSTGRES_PASSWORD"] == {"secretKeyRef": {"name": "anchorage-postgres", "key": "password"}}
    # The image fills a folder that is empty: a volume's own has a lost+found.
    (data,) = [mount["mountPath"] for mount in postgres["volumeMounts"] if mount["name"] == "data"]
    assert values["PGDATA"].startswith(f"{data}/")


@pytest.mark.parametrize(("offer", "names"), [(PLAIN, {"milvus", "postgres"}), (STANDALONE, {"object-storage"})])
def test_volumes_outlive_what_uses_them(offer: Offer, names: set[str]) -> None:
    """Deleting a StatefulSet is no way to lose data."""
    sets = {each["metadata"]["name"]: each["spec"] for each in rendered(offer).of("StatefulSet")}
    assert names <= sets.keys()
    for name, spec in sets.items():
        if spec.get("volumeClaimTemplates"):
            assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}, (
                name
            )


def test_stores_elsewhere_are_reached_by_their_ports() -> None:
    """Those of the stores here."""
    policy = one(rendered(Offer("eks", ("external-data",))), "NetworkPolicy", "anchorage-external-data")
    (rule,) = policy["spec"]["egress"]
    given = rendered(PLAIN)
    here = {port["port"] for name in ("milvus", "postgres") for port in one(given, "Service", name)["spec"]["ports"]}
    assert {port["port"] for port in rule["ports"]} == here


@pytest.mark.parametrize("offer", [Offer("eks"), STANDALONE], ids=str)
def test_no_password_is_an_argument(offer: Offer) -> None:
    """Kubernetes would put the value where every process of the node reads it."""
    for pod in rendered(offer).pods():
        for each in pod.spec["containers"]:
            secrets = {
                name
                for name, value in environment({"env": each.get("env") or []}).items()
                if "secretKeyRef" in str(value)
            }
            told = set(re.findall(r"\$\((\w+)\)", " ".join([*each.get("command", ()), *each.get("args", ())])))
            assert not secrets & told, pod.where


def test_what_keeps_data_keeps_it_when_it_is_deleted() -> None:
    """Redis, PostgreSQL, Milvus and the object store: their volumes stay, whatever goes."""
    found = [*rendered(Offer("eks")).of("StatefulSet"), *rendered(STANDALONE).of("StatefulSet")]
    assert {one["metadata"]["name"] for one in found} >= {"redis", "postgres", "milvus", "object-storage"}
    for each in found:
        kept = each["spec"]["persistentVolumeClaimRetentionPolicy"]
        assert kept == {"whenDeleted": "Retain", "whenScaled": "Retain"}, each["metadata"]["name"]
