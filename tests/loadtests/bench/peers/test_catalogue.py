"""How peers are pinned and started; that they answer is what the benchmark itself checks."""

import re
from pathlib import Path

import pytest

from loadtests.bench import models
from loadtests.bench.models import ENCODER, FRAUD, BenchModel
from loadtests.bench.peers.catalogue import HERE, PEERS, Peer, Place
from loadtests.bench.servers import CannotStart

each_peer = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)


@each_peer
def test_peers_are_pinned_exactly(peer: Peer) -> None:
    lines = peer.requirements.read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line) for line in lines)
    assert lines[0].partition("==")[0].removeprefix("nvidia-") == peer.needs
    assert "onnxruntime==1.31.1" in lines  # as in this project: the peers run the same kernels


def test_names_tell_peers_and_versions_apart() -> None:
    assert len({peer.name for peer in PEERS}) == len({peer.system for peer in PEERS}) == len(PEERS)
    assert all(re.search(r" \d+\.\d+", peer.system) for peer in PEERS)


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def place(model: BenchModel, folder: Path) -> Place:
    """Where a launch finds the model, and may write."""
    (folder / "scratch").mkdir()
    return Place(folder / "home", model, models.write(FRAUD, folder / "models"), 12345, folder / "scratch")


@pytest.mark.usefixtures("java")
@pytest.mark.parametrize("model", [FRAUD, ENCODER], ids=lambda model: model.name)
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.name != "triton"], ids=lambda peer: peer.name)
def test_every_file_of_a_launch_is_there(peer: Peer, model: BenchModel, tmp_path: Path) -> None:
    where = place(model, tmp_path)
    launch = peer.launch(where)
    assert launch.ready_path.startswith("/")
    assert launch.command[0].startswith(str(where.home))
    ours = [part for part in launch.command if part.startswith(str(HERE))]
    assert all(Path(part).exists() for part in ours)
    told = " ".join([*launch.command, *launch.environment.values()])
    told += " ".join(file.read_text() for file in where.scratch.rglob("*") if file.suffix in (".json", ".properties"))
    assert "12345" in told
    assert "0.0.0.0" not in told


@pytest.mark.parametrize("name", ["torchserve", "multi-model-server"])
def test_without_java_the_reason_says_how_to_get_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    peer = next(peer for peer in PEERS if peer.name == name)
    with pytest.raises(CannotStart, match="java is not installed: `apt-get install openjdk-17-jre-headless`"):
        peer.launch(place(FRAUD, tmp_path))
