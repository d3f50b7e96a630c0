"""What paths name: nothing that is sent crashes the parser, and no spelling of a name leads anywhere but to that name."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import BadRequest
from serving.frontends.http.head import parse_head, stream_head
from serving.frontends.http.paths import Hot, call_of, hot_face, model_of, target_of, wrong_with
from serving.runtime.invocation import Face

V2 = Face.OPEN_INFERENCE

HOT: list[tuple[str, Hot | None]] = [
    ("/invocations", (Face.CONTAINER, None, None, None)),
    ("/endpoints/fraud/invocations", (Face.RUNTIME, "fraud", None, None)),
    ("/v2/models/fraud/infer", (V2, "fraud", None, None)),
    ("/v2/models/fr%61ud/infer", (V2, "fraud", None, None)),
    ("/v2/models/fraud/versions/3/infer", (V2, "fraud", "3", None)),
    ("/v2/models/versions/versions/1/infer", (V2, "versions", "1", None)),
    ("/v2/models/infer/infer", (V2, "infer", None, None)),
    # ------------------------------------------------------------ targets
    ("/v2/models/fraud:a/infer", (V2, "fraud", None, "a")),
    ("/v2/models/fraud%3Aa/infer", (V2, "fraud", None, "a")),
    ("/v2/models/fraud%3aa/infer", (V2, "fraud", None, "a")),
    ("/v2/models/fraud:team%2Fa.tar.gz/infer", (V2, "fraud", None, "team/a.tar.gz")),
    ("/v2/models/fraud%3Ateam%2fa.tar.gz/infer", (V2, "fraud", None, "team/a.tar.gz")),
    ("/v2/models/fraud:team%2Fa.tar.gz/versions/1/infer", (V2, "fraud", "1", "team/a.tar.gz")),
    ("/v2/models/fraud:a:b%3Ac/infer", (V2, "fraud", None, "a:b:c")),
    ("/v2/models/fraud::/infer", (V2, "fraud", None, ":")),
    ("/v2/models/fraud:%252F/infer", (V2, "fraud", None, "%2F")),
    ("/v2/models/fraud:%25252e/infer", (V2, "fraud", None, "%252e")),
    ("/v2/models/fraud:%C3%A9%20%F0%9F%98%80/infer", (V2, "fraud", None, "é 😀")),
    ("/v2/models/fraud:a+b/infer", (V2, "fraud", None, "a+b")),
    # What the object store makes of these is not the parser's to judge.
    ("/v2/models/fraud:..%2F..%2Fx/infer", (V2, "fraud", None, "../../x")),
    ("/v2/models/fraud:%2Finvocations/infer", (V2, "fraud", None, "/invocations")),
    ("/v2/models/fraud:a%2Fversions%2F2/infer", (V2, "fraud", None, "a/versions/2")),
    ("/v2/models/fraud:a%2Fready/infer", (V2, "fraud", None, "a/ready")),
    # As Triton's clients send it: they do not encode a slash.
    ("/v2/models/fraud%3Ateam/a.tar.gz/infer", (V2, "fraud", None, "team/a.tar.gz")),
    ("/v2/models/fraud%3Ateam/a.tar.gz/versions/1/infer", (V2, "fraud", "1", "team/a.tar.gz")),
    ("/v2/models/fraud:../x/infer", (V2, "fraud", None, "../x")),
    ("/v2/models/fraud:a//infer", (V2, "fraud", None, "a/")),
    # ------------------------------------------------------------ the multi-model container
    ("/models/8f14e45f/invoke", (Face.CONTAINER, None, None, "8f14e45f")),
    ("/models/a%2Fb/invoke", (Face.CONTAINER, None, None, "a/b")),
    ("/models/a:b/invoke", (Face.CONTAINER, None, None, "a:b")),
    # ------------------------------------------------------------ no invocations
    ("/models/invoke", None),
    ("/models//invoke", None),
    ("/models/a/b/invoke", None),
    ("/models/a/invoke/", None),
    ("/v2/models/infer", None),
    ("/v2/models//infer", None),
    ("/v2/models/fraud/a/infer", None),
    ("/v2/models/fraud/a:b/infer", None),
    ("/v2/models/fraud/a:b/versions/1/infer", None),
    ("/v2/models/fraud/versions//infer", None),
    ("/v2/models/fraud:a/versions//infer", None),
    ("/v2/models/fraud:a/infer/infer", None),
    ("/v2/models/fraud:a/ready/infer", None),
    ("/v2/models//fraud:a/infer", None),
    ("/v2/models/fraud:a/inferx", None),
    ("/v2/models/fraud:a%2Finfer", None),
    ("/endpoints//invocations", None),
    ("/endpoints/a/b/invocations", None),
    ("/Models/a/invoke", None),
    ("/v2/models/fraud:a#b/infer", None),
    ("/models/a#b/invoke", None),
    ("//invocations", None),
]


@pytest.mark.parametrize(("path", "expected"), HOT, ids=[path for path, _ in HOT])
def test_hot_paths(path: str, expected: Hot | None) -> None:
    assert hot_face(path.encode()) == expected


IMPOSSIBLE = [
    ("/v2/models/fraud:/infer", "it is empty"),
    ("/v2/models/fraud%3A/infer", "it is empty"),
    ("/v2/models/:a/infer", "cannot be the name of a model"),
    ("/v2/models/%3A/infer", "cannot be the name of a model"),
    ("/v2/models/fra%2Fud:a/infer", "cannot be the name of a model"),
    ("/v2/models/fraud%253Aa/infer", "cannot be the name of a model"),
    ("/v2/models/fraud:a%00/infer", "control characters"),
    ("/v2/models/fraud:a%0D%0AX:%20y/infer", "control characters"),
    ("/v2/models/fraud:a%7F/infer", "control characters"),
    ("/v2/models/fraud:a%C2%85/infer", "control characters"),
    ("/v2/models/fraud:a%E2%80%A8/infer", "control characters"),
    ("/v2/models/fraud:%FF/infer", "not UTF-8"),
    ("/v2/models/fraud:%C0%AF/infer", "not UTF-8"),
    ("/v2/models/fraud:%ED%A0%80/infer", "not UTF-8"),
    ("/v2/models/fraud:\xe9/infer", "not UTF-8"),
    ("/v2/models/fraud:a%2/infer", "percent-encoded"),
    ("/v2/models/fraud:a%/infer", "percent-encoded"),
    ("/v2/models/fraud:a%zz/infer", "percent-encoded"),
    ("/v2/models/fraud:a b/infer", "percent-encoded"),
    ("/v2/models/fraud:a\\b/infer", "percent-encoded"),
    ("/v2/models/fraud:<b>/infer", "percent-encoded"),
    (f"/v2/models/fraud:{'a' * 1025}/infer", "1025 characters"),
    (f"/v2/models/fraud:{'%C3%A9' * 1025}/infer", "1025 characters"),
    (f"/v2/models/{'n' * 64}:a/infer", "at most 63"),
    (f"/models/{'a' * 1025}/invoke", "1025 characters"),
    ("/models/%00/invoke", "control characters"),
    ("/models/%/invoke", "percent-encoded"),
    ("/v2/models/fraud:a/versions/1%2F2/infer", "cannot be the name"),
]


@pytest.mark.parametrize(("path", "words"), IMPOSSIBLE, ids=[path[:60] for path, _ in IMPOSSIBLE])
def test_what_could_never_be_a_name_is_refused(path: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        hot_face(path.encode("latin-1"))
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("target", ["a" * 1024, "é" * 1024, "😀" * 1024], ids=["ASCII", "Latin", "emoji"])
def test_a_target_of_1024_characters_is_one(target: str) -> None:
    assert hot_face(b"/v2/models/e:%b/infer" % quote(target).encode()) == (V2, "e", None, target)


CALLS = [
    ("/v2/models/fraud", ("metadata", b"fraud", None)),
    ("/v2/models/ready", ("metadata", b"ready", None)),
    ("/v2/models/fraud/versions/2", ("metadata", b"fraud", b"2")),
    ("/v2/models/fraud/ready", ("ready", b"fraud", None)),
    ("/v2/models/fraud/versions/2/ready", ("ready", b"fraud", b"2")),
    ("/v2/models/fraud:a%2Fb", ("metadata", b"fraud:a%2Fb", None)),
    ("/v2/models/fraud:a%2Fready", ("metadata", b"fraud:a%2Fready", None)),
    ("/v2/models/fraud:a/b/ready", ("ready", b"fraud:a/b", None)),
    ("/v2/models/fraud%3Aa/b/versions/1/ready", ("ready", b"fraud%3Aa/b", b"1")),
    ("/v2/repository/models/fraud/load", ("load", b"fraud", None)),
    ("/v2/repository/models/fraud%3Ateam/a.tar.gz/unload", ("unload", b"fraud%3Ateam/a.tar.gz", None)),
    ("/debug/models/fraud:a/batches", ("batches", b"fraud:a", None)),
    ("/models/8f14e45f", ("container", b"8f14e45f", None)),
    ("/models/invoke", ("container", b"invoke", None)),
    ("/models/a%2Fb", ("container", b"a%2Fb", None)),
    ("/models/", None),
    ("/models/a/b", None),
    ("/v2/models/", None),
    ("/v2/models/fraud/", None),
    ("/v2/models/fraud/config", ("config", b"fraud", None)),
    ("/v2/models/fraud/versions/2/config", ("config", b"fraud", b"2")),
    ("/v2/models/config", ("metadata", b"config", None)),
    ("/v2/models/fraud:a/config", ("config", b"fraud:a", None)),
    ("/v2/models/fraud:a/stats", ("stats", b"fraud:a", None)),
    ("/v2/models/fraud:a/b/versions/1/stats", ("stats", b"fraud:a/b", b"1")),
    ("/v2/models/fraud/trace/setting", ("trace", b"fraud", None)),
    ("/v2/models/fraud:a/b/trace/setting", ("trace", b"fraud:a/b", None)),
    ("/v2/models/fraud/versions/2/trace/setting", None),
    ("/v2/models/fraud:a/versions/2/trace/setting", None),
    ("/v2/models/fraud/trace", None),
    ("/v2/models/fraud:a/ready/ready", None),
    ("/v2/models/fraud%2Fready/x", None),
    ("/v2/models/fraud%2Fready", None),
    ("/v2/repository/models/..%2ffraud/load", None),
    ("/v2/repository/models//load", None),
    ("/v2/repository/models/a/b/load", None),
    ("/v2/repository/models/fraud:a/versions/1/load", None),
    ("/debug/models/a/versions/1/batches", None),
]


@pytest.mark.parametrize(("path", "expected"), CALLS, ids=[path for path, _ in CALLS])
def test_calls(path: str, expected: tuple[str, bytes, bytes | None] | None) -> None:
    found = call_of(path.encode())
    assert (None if found is None else tuple(found)) == expected


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
targets = st.one_of(
    st.text(min_size=1, max_size=40),
    st.lists(st.sampled_from(["..", ".", "", "a", "versions", "1", "infer", "ready", ":", "%2F", "é"]), min_size=1).map(
        "/".join
    ),
).filter(lambda text: not wrong_with(text) and text.isprintable())


def spelt(text: str, chance: st.DataObject) -> str:
    """A text percent-encoded, as one client or another does it: what needs no encoding may be encoded all the same."""
    more = chance.draw(st.sets(st.sampled_from(text)))
    return "".join(
        "".join(f"%{byte:02x}" for byte in character.encode()) if character in more else quote(character, safe="")
        for character in text
    )


@given(name=names, target=targets, data=st.data())
def test_every_spelling_of_a_name_names_it(name: str, target: str, data: st.DataObject) -> None:
    raw = spelt(f"{name}:{target}", data).encode()
    assert hot_face(b"/v2/models/%b/infer" % raw) == (V2, name, None, target)
    assert hot_face(b"/v2/models/%b/versions/1/infer" % raw) == (V2, name, "1", target)
    assert hot_face(b"/models/%b/invoke" % spelt(target, data).encode()) == (Face.CONTAINER, None, None, target)
    for path, what in (
        (b"/v2/models/%b", "metadata"),
        (b"/v2/models/%b/ready", "ready"),
        (b"/v2/models/%b/config", "config"),
        (b"/v2/models/%b/stats", "stats"),
        (b"/v2/models/%b/trace/setting", "trace"),
    ):
        call = call_of(path % raw)
        assert call is not None
        assert (call.what, model_of(call.raw)) == (what, (name, target))
        assert call.names_target


RESERVED = ("/ready", "/config", "/stats", "/trace/setting", "/infer", "/generate", "/generate_stream")


@given(name=names, target=targets.filter(lambda text: "versions" not in text and not text.endswith(RESERVED)))
def test_tritons_clients_name_it_too(name: str, target: str) -> None:
    """Which leave slashes as they are; only a target that ends like another path has to be encoded by their caller."""
    raw = quote(f"{name}:{target}").encode()
    assert hot_face(b"/v2/models/%b/infer" % raw) == (V2, name, None, target)
    call = call_of(b"/v2/models/%b/ready" % raw)
    assert call is not None
    assert (call.what, model_of(call.raw)) == ("ready", (name, target))


pieces = st.sampled_from(
    [
        *("/invocations", "/endpoints/", "/v2/models/", "/v2/repository/models/", "/debug/models/", "/models/"),
        *("/infer", "/invoke", "/ready", "/load", "/unload", "/batches", "/versions/", "/generate", "/generate_stream"),
        *("/config", "/stats", "/trace", "/trace/setting"),
        *("e", "e:", ":", "%3A", "%3a", "/", "//", "..", "%2F", "%2f", "%252F", "%00", "%0a", "%", "%2", "%ff", "é", "#", "?"),
    ]
)  # fmt: skip
paths = st.one_of(
    st.lists(pieces, max_size=8).map("".join).map(lambda text: text.encode("latin-1")),
    st.builds(
        lambda start, middle, end: start + middle + end,
        st.sampled_from([b"/v2/models/", b"/models/", b"/endpoints/", b"/v2/models/e:"]),
        st.binary(max_size=40),
        st.sampled_from([b"/infer", b"/invoke", b"/invocations", b"/ready", b""]),
    ),
    st.binary(max_size=60),
)


@settings(max_examples=800)
@given(path=paths)
def test_no_path_crashes_the_parser_or_leads_elsewhere(path: bytes) -> None:
    found: Hot | None = None
    with suppress(BadRequest):
        found = hot_face(path)
    with suppress(BadRequest):
        stream_head(path, [])
    if (call := call_of(path)) is not None:
        for parse in (model_of, target_of):
            with suppress(BadRequest):
                parse(call.raw)
    if found is None or found[0] is not V2:
        return
    _, name, version, target = found
    assert name is not None
    # Written as it is meant, it is the same one; and what was sent is what is meant, once decoded.
    whole = name if target is None else f"{name}:{target}"
    canonical = f"/v2/models/{quote(whole, safe='')}{'' if version is None else f'/versions/{version}'}/infer"
    assert hot_face(canonical.encode()) == found
    assert unquote(canonical) == unquote(path.decode())


# ---------------------------------------------------------------- a target by path and by header

TARGET = b"x-amzn-sagemaker-target-model"


def test_a_target_is_named_by_the_header() -> None:
    head = parse_head(Face.RUNTIME, "e", None, None, [(TARGET, b"team/a.tar.gz")])
    assert (head.name, head.target_model) == ("e", "team/a.tar.gz")
    assert parse_head(Face.CONTAINER, None, None, None, [(TARGET, b"a")]).target_model == "a"


def test_path_and_header_may_name_the_same_target() -> None:
    assert parse_head(V2, "e", None, "team/a", [(TARGET, b"team/a")]).target_model == "team/a"
    assert parse_head(V2, "e", None, "a", [(TARGET, b"")]).target_model == "a"


@pytest.mark.parametrize("other", [b"b", b"A", b"a ", b"team%2Fa"])
def test_path_and_header_must_not_differ(other: bytes) -> None:
    with pytest.raises(BadRequest, match="the path another; name one of them"):
        parse_head(V2, "e", None, "a", [(TARGET, other)])


@pytest.mark.parametrize(
    ("value", "words"),
    [(b"a" * 1025, "1025 characters; at most 1024"), (b"\xc3\xa9", "printable ASCII"), (b"a\tb", "printable ASCII")],
)
def test_a_header_that_could_never_name_a_target_is_refused(value: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        parse_head(Face.RUNTIME, "e", None, None, [(TARGET, value)])


def test_a_stream_may_be_a_targets() -> None:
    head = stream_head(b"/v2/models/e:team%2Fa/generate_stream", [])
    assert head is not None
    assert (head.name, head.target_model, head.streamed, head.generate) == ("e", "team/a", True, True)
    head = stream_head(b"/endpoints/e/invocations-response-stream", [(TARGET, b"a")])
    assert head is not None
    assert (head.name, head.target_model, head.streamed, head.generate) == ("e", "a", True, False)
