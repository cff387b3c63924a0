"""Containers of a manifest as command lines of this machine; their volumes, ports and probes."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from sampler_operator.errors import InvalidSpec
from sampler_operator.local.command import arguments, environment, in_place
from sampler_operator.local.devices import Devices, found_devices
from sampler_operator.local.places import Places
from sampler_operator.local.ports import Ports, port_map
from sampler_operator.local.probes import Probe, Tally
from sampler_operator.local.volumes import Volumes, check_volumes, write_config_map

MOUNTS = {"/models": "/m", "/models/cache": "/c", "/tmp": "/t"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/models", "/m", id="a mount path itself"),
        pytest.param("/models/a/b", "/m/a/b", id="a path below it"),
        pytest.param("/models/cache/x", "/c/x", id="the innermost mount counts"),
        pytest.param("/tmp", "/t", id="the folder for temporary files"),
        pytest.param("/tmp/mine", "/tmp/mine", id="what somebody keeps in it"),
        pytest.param("/modelsx", "/modelsx", id="a path that only begins alike"),
        pytest.param("--root=/models/a", "--root=/m/a", id="the value of an option"),
        pytest.param("a/models/b", "a/models/b", id="a relative path"),
    ],
)
def test_paths_of_a_container_become_paths_of_this_machine(text: str, expected: str) -> None:
    assert in_place(text, MOUNTS) == expected


def test_a_server_listens_on_its_own_ports_of_the_loopback_address() -> None:
    container = {
        "command": ["sampler"],
        "args": [
            *("serve", "--host", "*", "--port", "8000", "--manage-host", "*"),
            *("--manage-port", "9000", "--adapters-config", "/models/cache"),
        ],
    }
    words = arguments(container, MOUNTS, {8000: 41, 9000: 51})
    assert words == [
        *(sys.executable, "-m", "sampler_cli.main", "serve", "--listen-seconds", "1"),
        *("--host", "127.0.0.1", "--port", "41", "--manage-host", "127.0.0.1"),
        *("--manage-port", "51", "--adapters-config", "/c"),
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param("/models/link/model", "/l/model", id="a model that is fetched"),
        pytest.param("/srv/models/a", "/srv/models/a", id="a directory of this machine"),
    ],
)
def test_a_model_is_a_path_of_this_machine_unless_it_is_fetched(model: str, expected: str) -> None:
    container = {"command": ["sampler"], "args": ["serve", "--model", model]}
    words = arguments(container, {"/models/link": "/l", "/srv/models": "/h"}, {})
    assert words[-1] == expected


def test_other_programs_run_as_they_are() -> None:
    container = {"command": ["sh", "-c"], "args": ["/models/x"]}
    assert arguments(container, MOUNTS, {}) == ["sh", "-c", "/m/x"]


def test_variables_have_values_fields_of_the_pod_and_secrets() -> None:
    pod = {"metadata": {"name": "p", "labels": {"pod-template-hash": "abc"}}}
    variables: list[dict[str, Any]] = [
        {"name": "HOME", "value": "/models/home"},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {
            "name": "HASH",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pod-template-hash']"}},
        },
        {"name": "NONE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    found = environment(variables, MOUNTS, pod, lambda ref: f"{ref['name']}/{ref['key']}")
    assert found == {
        "HOME": "/m/home",
        "NAME": "p",
        "HASH": "abc",
        "NONE": "",
        "TOKEN": "hub/token",
    }


# -- volumes ---------------------------------------------------------------------------------------


def test_a_config_map_changes_all_at_once(tmp_path: Path) -> None:
    write_config_map(tmp_path, {"a": "1", "b": "1"})
    link = (tmp_path / "..data").readlink()
    write_config_map(tmp_path, {"a": "2", "c": "2"})
    assert (tmp_path / "..data").readlink() != link
    shown = {p.name: p.read_text() for p in tmp_path.iterdir() if not p.name.startswith("..")}
    assert shown == {"a": "2", "c": "2"}
    assert sum(p.is_dir() and not p.is_symlink() for p in tmp_path.iterdir()) == 1


def test_volumes_of_a_pod_are_its_own_or_those_that_were_given(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text("me:sample:x")
    spec = {
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "config", "configMap": {"name": "fleet-adapters"}},
            {"name": "model-cache", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
            {
                "name": "tokens",
                "secret": {"secretName": "s", "items": [{"key": "token", "path": "tokens"}]},
            },
        ]
    }
    places = Places({"claim": "/data"}, {"s": str(secret)})
    own, scratch, downloads = tmp_path / "own", tmp_path / "scratch", tmp_path / "downloads"
    volumes = Volumes(spec, places, own, scratch, {"model-cache": downloads, "data": tmp_path})
    volumes.make(places, {"fleet-adapters": {"adapters.json": "{}"}})
    mounts = volumes.mounts(
        {
            "volumeMounts": [
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "home", "mountPath": "/home/sampler"},
                {"name": "shm", "mountPath": "/dev/shm"},
                {"name": "config", "mountPath": "/etc/config"},
                {"name": "model-cache", "mountPath": "/models/cache"},
                {"name": "data", "mountPath": "/data", "subPath": "part"},
                {"name": "tokens", "mountPath": "/etc/tokens"},
            ]
        }
    )
    assert mounts == {
        "/tmp": str(scratch),
        "/home/sampler": str(own / "home"),
        "/etc/config": str(own / "config"),
        "/models/cache": str(downloads),
        "/data": "/data/part",
        "/etc/tokens": str(own / "tokens"),
    }
    assert Path(mounts["/etc/tokens"], "tokens").read_text() == "me:sample:x"
    assert Path(mounts["/etc/config"], "adapters.json").read_text() == "{}"
    volumes.remove()
    assert (secret / "token").exists()
    assert downloads.exists()
    assert not own.exists()
    assert not scratch.exists()


CONTAINERS = {"containers": [{"name": "server"}]}


@pytest.mark.parametrize(
    ("spec", "flag"),
    [
        pytest.param(
            {
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
                **CONTAINERS,
            },
            "--volume c=DIRECTORY",
            id="a claim",
        ),
        pytest.param(
            {"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}], **CONTAINERS},
            "--volume v=DIRECTORY",
            id="a volume without a claim",
        ),
        pytest.param(
            {"volumes": [{"name": "v", "secret": {"secretName": "s"}}], **CONTAINERS},
            "--secret s=DIRECTORY",
            id="a Secret as files",
        ),
        pytest.param(
            {
                "containers": [
                    {
                        "name": "server",
                        "env": [
                            {
                                "name": "TOKEN",
                                "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
                            }
                        ],
                    }
                ]
            },
            "--secret s=DIRECTORY",
            id="a Secret as a variable",
        ),
    ],
)
def test_what_only_a_cluster_has_is_refused_with_the_flag_that_gives_it(
    spec: dict[str, object], flag: str
) -> None:
    with pytest.raises(InvalidSpec, match=flag):
        check_volumes(spec, Places())


# -- ports, probes, devices ------------------------------------------------------------------------


def test_ports_in_a_row_stay_in_a_row_with_room_for_those_that_engines_count_up_to() -> None:
    found = port_map([8001, 9000, 8000, 8002], Ports())
    assert [found[n] - found[8000] for n in (8000, 8001, 8002)] == [0, 1, 2]
    assert [found[n] - found[9000] for n in (9000, 9001, 9002, 9003)] == [0, 1, 2, 3]
    assert len(set(found.values())) == 8
    assert len(port_map([8000, 9000], Ports())) == 2


def test_no_port_is_given_twice_nor_one_in_use() -> None:
    ports = Ports()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [ports.take(1) for _ in range(50)]
        assert taken.getsockname()[1] not in given
    assert len(set(given)) == 50


@pytest.mark.parametrize(
    ("answers", "verdicts"),
    [
        pytest.param("+", [True], id="one success is enough"),
        pytest.param("-+", [None, True], id="a first failure says nothing yet"),
        pytest.param("+--", [True, True, False], id="two failures in a row are enough"),
        pytest.param("+-+-", [True, True, True, True], id="failures apart are not"),
    ],
)
def test_a_probe_makes_up_its_mind(answers: str, verdicts: list[bool | None]) -> None:
    tally = Tally(Probe("/readyz", 1, failures=2, successes=1))
    assert [tally.took(answer == "+") for answer in answers] == verdicts


def test_a_probe_is_asked_at_the_port_of_this_machine() -> None:
    given = {"httpGet": {"path": "/livez", "port": "manage"}, "periodSeconds": 3}
    probe = Probe.of(given, {"manage": 5, 9000: 5})
    assert probe == Probe("/livez", 5, period=3)
    assert Probe.of(None, {}) is None


def test_devices_are_handed_out_once_also_between_runtimes(tmp_path: Path) -> None:
    one, other = Devices(("0", "1", "2"), tmp_path), Devices(("0", "1", "2"), tmp_path)
    assert one.take(2) == ("0", "1")
    assert other.take(2) is None
    assert other.free() == 1
    assert other.take(1) == ("2",)
    one.give_back(("1",))
    assert other.take(1) == ("1",)
    assert one.take(0) == ()
    one.give_back(("0",))
    other.give_back(("1", "2"))
    assert one.free() == 3


def test_the_devices_of_this_process_are_those_it_may_see() -> None:
    assert found_devices({"CUDA_VISIBLE_DEVICES": "3, GPU-1"}) == ("3", "GPU-1")
    assert found_devices({"CUDA_VISIBLE_DEVICES": ""}) == ()
