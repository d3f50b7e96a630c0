"""Paths, names, methods and media types."""

from __future__ import annotations

from tests.frontends.rows.row import JSON, ROW, Row, infer, inputs, invocation, tensor, to_model
from tests.support.wire import request

V2 = inputs(tensor(data=[1, 2, 3, 4]))


def endpoint(name: str, raw: str | bytes, status: int, *words: str) -> Row:
    """An endpoint of that name, as it stands in the path."""
    path = b"/endpoints/" + (raw if isinstance(raw, bytes) else raw.encode()) + b"/invocations"
    return Row(name, request(path, ROW, JSON), status, words)


def model(name: str, path: str, status: int, *words: str) -> Row:
    """An inference at a path under /v2/models/."""
    return Row(name, request(f"/v2/models/{path}", infer("linear", V2).partition(b"\r\n\r\n")[2]), status, words)


def method(verb: str, path: str, *words: str, status: int = 405) -> Row:
    """A method that the path does not answer."""
    return Row(f"{verb} {path}", request(path, b"", method=verb), status, words or (verb,), method=verb)


def media(name: str, content_type: str, status: int, *words: str) -> Row:
    """A body of that Content-Type."""
    return Row(name, invocation(ROW, content_type=content_type), status, words)


def accept(name: str, value: str) -> Row:
    """An Accept that cannot be met."""
    return Row(name, invocation(ROW, f"Accept: {value}"), 406, ("application/json", value[:40]))


GETS = (
    "/ping",
    "/metrics",
    "/debug/models",
    "/debug/models/linear/batches",
    "/v2",
    "/v2/health/ready",
    "/v2/models/linear",
    "/v2/models/linear:a%2Fb",
    "/v2/models/linear/ready",
)
POSTS = (
    "/invocations",
    "/endpoints/linear/invocations",
    "/v2/models/linear/infer",
    "/v2/models/linear:a%2Fb/infer",
    "/models/a/invoke",
    "/v2/repository/models/linear:a/load",
)

ROWS = [
    # ------------------------------------------------------------ names
    endpoint("an unknown endpoint", "other", 400, "Endpoint other of account 123456789012 not found."),
    endpoint("dots as an endpoint", "..", 400, "'..'", "name"),
    endpoint("dots that escape", "..%2f..%2fetc%2fpasswd", 400, "name"),
    endpoint("a slash in a name", "linear%2fx", 400, "name"),
    endpoint("NUL in a name", "linear%00", 400, "name"),
    endpoint("a newline in a name", "linear%0d%0aX:%20y", 400, "name"),
    endpoint("a space in a name", "lin%20ear", 400, "name"),
    endpoint("1,000 characters", "n" * 1000, 400, "name", "63"),
    endpoint("64 characters", "n" * 64, 400, "name", "63"),
    endpoint("a name in Unicode", "mod%C3%A8le", 400, "name"),
    endpoint("a name not in UTF-8", "mod%ff", 400, "name"),
    endpoint("half a percent sign", "linear%2", 400, "name"),
    endpoint("a percent sign", "%", 400, "name"),
    endpoint("a name in markup", "%3Cscript%3E", 400, "name"),
    endpoint("another letter case", "LINEAR", 400, "LINEAR", "not found"),
    Row("no endpoint name", request("/endpoints//invocations", ROW, JSON), 404, ("no POST",)),
    Row("a deeper endpoint", request("/endpoints/a/b/invocations", ROW, JSON), 404, ("no POST",)),
    Row("more than a stream", request("/endpoints/linear/invocations-response-streams", ROW, JSON), 404, ("no POST",)),
    model("an unknown model", "other/infer", 404, "Request for unknown model: 'other' is not found"),
    model("an unknown version", "linear/versions/9/infer", 404, "version 9", "version 1"),
    model("a version that is no number", "linear/versions/new/infer", 404, "version new"),
    model("a version with a slash", "linear/versions/1%2f1/infer", 400, "name"),
    model("dots as a model", "../infer", 400, "'..'"),
    model("dots escaped as a model", "%2e%2e/infer", 400, "name"),
    model("NUL in a model", "linear%00/infer", 400, "name"),
    model("a model of 1,000 characters", "m" * 1000 + "/infer", 400, "name"),
    model("versions of nothing", "linear/versions//infer", 404, "no POST"),
    # ------------------------------------------------------------ targets, on a server without any
    model("a target of a model that has none", "linear:a/infer", 400, "linear", "not a multi-model endpoint"),
    model("a target with an encoded colon", "linear%3Aa%2Fb/infer", 400, "linear", "not a multi-model endpoint"),
    model("a target of an unknown model", "other:a%2Fb/infer", 404, "unknown model: 'other:a/b' is not found"),
    model("no target after the colon", "linear:/infer", 400, "empty"),
    model("no model before the colon", ":a/infer", 400, "name"),
    model("a target with NUL", "linear:a%00/infer", 400, "control characters"),
    model("a target with a newline", "linear:a%0d%0aX:%20y/infer", 400, "control characters"),
    model("a target not in UTF-8", "linear:%ff/infer", 400, "not UTF-8"),
    model("half a percent sign in a target", "linear:a%2/infer", 400, "percent-encoded"),
    model("a target of 1,025 characters", f"linear:{'a' * 1025}/infer", 400, "1025", "1024"),
    model("a target that climbs", "linear:..%2F..%2Finvocations/infer", 400, "not a multi-model endpoint"),
    Row(
        "a target by path and another by header",
        infer("linear:a", V2, "X-Amzn-SageMaker-Target-Model: b"),
        400,
        ("'b'", "path another"),
    ),
    Row(
        "a target for /invocations",
        invocation(ROW, "X-Amzn-SageMaker-Target-Model: a"),
        400,
        ("linear", "not a multi-model endpoint"),
    ),
    Row("an invocation by id", request("/models/a/invoke", ROW, JSON), 400, ("linear", "not a multi-model endpoint")),
    Row(
        "metadata of a target", request("/v2/models/linear:a", method="GET", length=False), 400, ("not a multi-model",)
    ),
    Row("metadata of a bad target", request("/v2/models/linear:%00", method="GET", length=False), 400, ("control",)),
    Row("a stream of a target", request("/v2/models/linear:a/generate_stream", ROW), 400, ("not a multi-model",)),
    Row(
        "batches of a target", request("/debug/models/linear:a/batches", method="GET", length=False), 404, ("no model",)
    ),
    Row("models of no container", request("/models", method="GET", length=False), 404, ("--multi-model",)),
    Row("a model for no container", request("/models", b"{}", JSON), 404, ("--multi-model",)),
    Row("a model of no container", request("/models/a", method="DELETE", length=False), 404, ("--multi-model",)),
    Row("models in another case", request("/Models", method="GET", length=False), 404, ("no GET",)),
    Row("models with a newline", request("/models%0a", method="GET", length=False), 404, ("no GET",)),
    Row("a deeper model", request("/models/a/b", method="GET", length=False), 404, ("no GET",)),
    Row("a load of a bad target", request("/v2/repository/models/linear:%00/load", b""), 400, ("control",)),
    Row("metadata of an unknown model", request("/v2/models/other", method="GET", length=False), 404, ("other",)),
    Row(
        "metadata of an unknown version",
        request("/v2/models/linear/versions/7", method="GET", length=False),
        404,
        ("version 7",),
    ),
    Row(
        "batches of an unknown model",
        request("/debug/models/other/batches", method="GET", length=False),
        404,
        ("other",),
    ),
    Row("batches of markup", request("/debug/models/%3Cb%3E/batches", method="GET", length=False), 404, ("no model",)),
    # ------------------------------------------------------------ paths
    Row("an unknown path", request("/nothing", ROW, JSON), 404, ("POST /nothing",)),
    Row("a path in another case", request("/Invocations", ROW, JSON), 404, ("POST /Invocations",)),
    Row("a slash at the end", request("/invocations/", ROW, JSON), 404, ("POST /invocations/",)),
    Row("an encoded path", request("/%69nvocations", ROW, JSON), 404, ("no POST",)),
    Row("dots in a path", request("/v2/../invocations", ROW, JSON), 404, ("no POST",)),
    Row("an encoded slash", request("/endpoints%2flinear%2finvocations", ROW, JSON), 404, ("no POST",)),
    Row("a model with a hidden slash", request("/v2/models/linear%2fready", method="GET", length=False), 404, ("no",)),
    Row("a path in markup", request("/<script>", method="GET", length=False), 404, ("no GET",)),
    Row("another server's path", request("http://localhost/nothing", method="GET", length=False), 404, ("/nothing",)),
    # ------------------------------------------------------------ methods
    *(
        method(verb, path, verb, "GET")
        for verb in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
        for path in GETS
    ),
    *(
        method(verb, path, verb, "POST")
        for verb in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
        for path in POSTS
    ),
    *(method("HEAD", path, "-") for path in POSTS),
    Row("OPTIONS *", request("*", method="OPTIONS", length=False), 404, ("OPTIONS",)),
    Row("PROPFIND", request("/", method="PROPFIND", length=False), 405, ("PROPFIND",)),
    # ------------------------------------------------------------ media types
    media("an unknown media type", "application/xml", 415, "application/xml", "application/json"),
    media("a form", "application/x-www-form-urlencoded", 415, "x-www-form-urlencoded"),
    media("a pickle's media type", "application/python-pickle", 415, "python-pickle"),
    media("an image", "image/png", 415, "image/png"),
    media("no media type at all", "json", 415, "'json'"),
    media("a media type of semicolons", "x;;;;", 415, "'x'"),
    media("a media type of 2,000 characters", "a/" + "b" * 2000, 400, "content-type", "1024"),
    media("a media type not in ASCII", "text/é", 400, "content-type", "ASCII"),
    media("several media types", "text/csv, application/json", 415, "text/csv, application/json"),
    Row("CSV in v2", infer("linear", b"1,2,3,4", "Content-Type: text/csv"), 415, ("text/csv",)),
    Row(
        "npy for two inputs",
        to_model("pair", ROW).replace(b"application/json", b"application/x-npy"),
        424,
        ("x-npy", "pair"),
    ),
    accept("an Accept that cannot be met", "image/png"),
    accept("an Accept that refuses all", "*/*;q=0"),
    accept("an Accept that refuses JSON", "application/json;q=0"),
    accept("a garbled Accept", ";;;"),
    accept("a word for Accept", "json"),
    accept("a quality that is none", "application/json;q=high"),
    accept("a quality over 1", "application/json;q=7"),
    Row("an Accept that v2 cannot meet", infer("linear", V2, "Accept: text/csv"), 406, ("text/csv",)),
    Row(
        "npy of two outputs",
        to_model("pair", {"instances": [{"a": [1, 2], "b": [3]}]}, "Accept: application/x-npy"),
        424,
        ("x-npy",),
    ),
]
