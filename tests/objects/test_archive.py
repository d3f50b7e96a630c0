"""Archives: what comes out of a good one, and that a hostile one leaves nothing behind, inside or outside."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.errors import ArtifactError
from serving.objects.archive import Archives, Limits

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x", **fields: object) -> Member:
    """A plain file; `fields` are TarInfo's."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def special(name: str, kind: bytes, linkname: str = "") -> Member:
    """A member that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = linkname
    return info, b""


def tar(*members: Member, form: int = tarfile.PAX_FORMAT, end: bool = True) -> bytes:
    """A tar of the members, without its two closing blocks where `end` is false."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content))
        size = made.offset
    return out.getvalue() if end else out.getvalue()[:size]


def raw_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header with a size field of our own, its checksum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124 : 124 + len(size)] = size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


ZEROS = bytes(8 * 1024 * 1024)

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent": (lambda: tar(file("../evil")), "'../evil' leaves the archive's directory by '..'"),
    "parent in the middle": (lambda: tar(file("a/../../evil")), "leaves the archive's directory"),
    "parent that comes back": (lambda: tar(file("a/../evil")), "leaves the archive's directory"),
    "parent directory": (lambda: tar(special("..", tarfile.DIRTYPE)), "leaves the archive's directory"),
    "absolute": (lambda: tar(file("/tmp/evil")), "'/tmp/evil' has an absolute path"),
    "absolute with two slashes": (lambda: tar(file("//tmp/evil")), "has an absolute path"),
    "symbolic link out": (
        lambda: tar(special("l", tarfile.SYMTYPE, "/etc"), file("l/evil")),
        "'l' is a link; pack the",
    ),
    "symbolic link inside": (lambda: tar(file("a"), special("l", tarfile.SYMTYPE, "a")), "'l' is a link"),
    "link to the parent": (lambda: tar(special("d", tarfile.SYMTYPE, ".."), file("d/evil")), "'d' is a link"),
    "hard link out": (lambda: tar(special("h", tarfile.LNKTYPE, "/etc/passwd")), "'h' is a link"),
    "hard link inside": (lambda: tar(file("a"), special("h", tarfile.LNKTYPE, "a")), "'h' is a link"),
    "character device": (lambda: tar(special("null", tarfile.CHRTYPE)), "neither a plain file nor a directory"),
    "block device": (lambda: tar(special("disk", tarfile.BLKTYPE)), "neither a plain file nor a directory"),
    "fifo": (lambda: tar(special("pipe", tarfile.FIFOTYPE)), "neither a plain file nor a directory"),
    "unknown type": (lambda: tar(file("odd", type=b"Z")), "tar type is b'Z'"),
    "sparse": (lambda: raw_header(b"s", b"00000000000\0", b"S") + bytes(1024), "neither a plain file nor a directory"),
    "newline in a name": (lambda: tar(file("a\nb")), "has a control character"),
    "escape in a name": (lambda: tar(file("\x1b[31mred")), "has a control character"),
    "name that is not UTF-8": (lambda: raw_header(b"\xff\xfe", b"0" * 11) + bytes(1024), "bytes that are not UTF-8"),
    "backslash": (lambda: tar(file("..\\evil")), "a backslash"),
    "long part": (lambda: tar(file("n" * 300)), "has a name that is too long"),
    "long path": (lambda: tar(file("/".join(["d" * 200] * 6))), "has a name that is too long"),
    "deep": (lambda: tar(file("/".join("d" * 50))), "lies 50 directories deep"),
    "twice": (lambda: tar(file("a"), file("a")), "'a' is there twice"),
    "twice by another name": (lambda: tar(file("a"), file("./a")), "is there twice"),
    "a file as a directory": (lambda: tar(file("a"), file("a/b")), "as a file and as a directory"),
    "a directory as a file": (lambda: tar(file("a/b"), file("a")), "as a file and as a directory"),
    "a file that is also a directory": (lambda: tar(file("a"), special("a", tarfile.DIRTYPE)), "is there twice"),
    "many members": (lambda: tar(*[file(f"{number}") for number in range(60)]), "more than 50 members"),
    "many bytes": (lambda: tar(file("big", os.urandom(3_000_000))), "more than 2000000 bytes, the limit"),
    "many bytes in one that is skipped": (lambda: tar(file("._b", os.urandom(3_000_000))), "more than 2000000 bytes"),
    "many bytes after the end": (lambda: tar(file("a")) + os.urandom(3_000_000), "more than 2000000 bytes"),
    "huge extended header": (
        lambda: raw_header(b"h", b"%011o\0" % len(ZEROS), b"x") + ZEROS,
        "a header in it takes more than",
    ),
    "huge long name": (
        lambda: raw_header(b"n", b"%011o\0" % len(ZEROS), b"L") + ZEROS,
        "a header in it takes more than",
    ),
    "negative size": (
        lambda: raw_header(b"n", b"\xff" * 12) + bytes(1024),
        "has a size of -1 bytes, which is not possible",
    ),
    "long names without end": (
        lambda: (raw_header(b"n", b"00000000001\0", b"L") + b"a".ljust(512, b"\0")) * 1500 + bytes(1024),
        "is not a tar inside",
    ),
    "cut in a file": (lambda: tar(file("a", bytes(5000)))[:2000], "cut short|is not a tar"),
    "cut in a header": (lambda: tar(file("a"))[:300], "is not a tar inside"),
    "no tar": (lambda: b"hello" * 1000, "is not a tar inside"),
    "nothing in it": (lambda: b"", "is empty"),
    "no members": (lambda: bytes(10240), "is empty"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def write(place: Path, content: bytes) -> Path:
    place.mkdir(exist_ok=True)
    path = place / "model.tar.gz"
    path.write_bytes(content)
    return path


def everything(directory: Path) -> set[str]:
    """Every file below, but for the lock."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.name != ".lock"}


def refused(place: Path, content: bytes, limits: Limits, message: str) -> str:
    archive = write(place, content)
    archives = Archives(place / "state", limits)
    with pytest.raises(ArtifactError, match=message) as caught:
        archives.unpack(archive)
    assert str(archive) in caught.value.message
    assert "\n" not in caught.value.message
    assert everything(place) <= {"model.tar.gz", "state"}
    assert not (place.parent / "evil").exists()
    return caught.value.message


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(place: Path, case: str) -> None:
    content, message = HOSTILE[case]
    if message.startswith("'"):
        message = message.replace(".", r"\.")
    refused(place, gzip.compress(content(), 1), Limits(max_members=50, max_bytes=2_000_000), message)


def test_the_table_is_long_enough() -> None:
    assert len(HOSTILE) >= 25


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _: b"", "is empty"),
        (lambda _: b"PK\x03\x04 a zip", "is not a gzip file"),
        (lambda good: good[: len(good) // 2], "is cut short; copy it again"),
        (lambda good: good[:-4], "is cut short"),
        (lambda good: good[:-8] + bytes(8), "is damaged"),
        (lambda good: good[:200] + bytes(50) + good[250:], "is damaged|is not a tar|cut short"),
        (lambda good: good + b"trailing rubbish", "is damaged"),
    ],
)
def test_a_damaged_archive_is_refused(place: Path, spoil: Callable[[bytes], bytes], message: str) -> None:
    good = gzip.compress(tar(file("model.onnx", os.urandom(100_000))))
    refused(place, spoil(good), Limits(), message)


def test_a_bomb_is_refused_early(place: Path) -> None:
    bomb = gzip.compress(tar(file("zeros", bytes(40_000_000))), 9)
    limits = Limits(ratio_from_bytes=1_000_000)
    tracemalloc.start()
    try:
        refused(place, bomb, limits, "more than 200 times its size, as a bomb does")
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
    assert Archives(place / "other", Limits()).unpack(place / "model.tar.gz").is_dir()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_good_archive_comes_out_whole(place: Path, form: int) -> None:
    big = os.urandom(3_000_001)
    members = [
        special(".", tarfile.DIRTYPE),
        file("./model.onnx", big),
        special("code", tarfile.DIRTYPE),
        file("code/lib/inference.py", b"pass"),
        file("empty", b""),
        file("d" * 90 + "/" + "n" * 99, b"long"),
    ]
    root = Archives(place / "state").unpack(write(place, gzip.compress(tar(*members, form=form))))
    assert (root / "model.onnx").read_bytes() == big
    assert (root / "code" / "lib" / "inference.py").read_bytes() == b"pass"
    assert (root / "empty").read_bytes() == b""
    assert (root / ("d" * 90) / ("n" * 99)).read_bytes() == b"long"


def test_permissions_and_owners_are_not_taken_over(place: Path) -> None:
    members = [file("run", b"#!", mode=0o6777, uid=0, gid=0), special("d", tarfile.DIRTYPE), file("d/none", mode=0)]
    root = Archives(place / "state").unpack(write(place, gzip.compress(tar(*members))))
    assert [(root / name).stat().st_mode & 0o7777 for name in ("run", "d/none")] == [0o644, 0o644]
    assert (root / "d").stat().st_mode & 0o7777 == 0o755
    assert root.stat().st_mode & 0o7777 == 0o755


def test_the_rubbish_of_other_systems_is_passed_over(place: Path) -> None:
    members = [
        file("._model.onnx"),
        file("__MACOSX/x"),
        file(".DS_Store"),
        file("PaxHeader.12/model"),
        file("model.onnx"),
    ]
    root = Archives(place / "state").unpack(write(place, gzip.compress(tar(*members))))
    assert everything(root) == {"model.onnx"}


def test_a_tar_without_its_closing_blocks_is_read(place: Path) -> None:
    content = gzip.compress(tar(file("model.onnx"), end=False))
    assert (Archives(place / "state").unpack(write(place, content)) / "model.onnx").is_file()


def test_what_the_tar_program_packs_comes_out(place: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "1").mkdir(parents=True)
    (source / "1" / "model.onnx").write_bytes(b"m" * 1000)
    archive = place / "model.tar.gz"
    place.mkdir()
    subprocess.run(["tar", "-czf", archive, "-C", source, "."], check=True)
    assert (Archives(place / "state").unpack(archive) / "1" / "model.onnx").read_bytes() == b"m" * 1000


def test_the_same_bytes_are_unpacked_once(place: Path) -> None:
    archives = Archives(place / "state")
    content = gzip.compress(tar(file("model.onnx", b"one")), mtime=0)
    root = archives.unpack(write(place, content))
    (root / "model.onnx").write_bytes(b"kept")
    copy = place / "copy.tar.gz"
    copy.write_bytes(content)
    assert archives.unpack(copy) == root
    assert (root / "model.onnx").read_bytes() == b"kept"
    other = archives.unpack(write(place, gzip.compress(tar(file("model.onnx", b"two")))))
    assert other != root
    assert (other / "model.onnx").read_bytes() == b"two"


def test_what_a_killed_process_left_is_cleared(place: Path) -> None:
    left = place / "state" / ".part-killed"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    Archives(place / "state").unpack(write(place, gzip.compress(tar(file("model.onnx")))))
    assert not left.exists()


def test_several_at_once_agree(place: Path) -> None:
    archive = write(place, gzip.compress(tar(file("model.onnx", os.urandom(2_000_000)))))
    with ThreadPoolExecutor(8) as pool:
        roots = set(pool.map(lambda _: Archives(place / "state").unpack(archive), range(8)))
    assert len(roots) == 1
    assert everything(place / "state") == {roots.pop().name, f"{next((place / 'state').glob('[!.]*')).name}/model.onnx"}


def test_an_archive_that_is_not_there(place: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone\.tar\.gz cannot be unpacked: No such file"):
        Archives(place / "state").unpack(place / "gone.tar.gz")


def test_sizes_in_base_256_are_read(place: Path) -> None:
    size = b"\x80" + struct.pack(">11s", (5).to_bytes(11, "big"))
    content = raw_header(b"model.onnx", size) + b"hello".ljust(512, b"\0") + bytes(1024)
    root = Archives(place / "state").unpack(write(place, gzip.compress(content)))
    assert (root / "model.onnx").read_bytes() == b"hello"
