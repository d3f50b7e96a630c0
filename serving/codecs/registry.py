"""Which codec reads a Content-Type and which one writes an Accept: chosen once for each distinct request head.

Source: RFC 9110 section 12.5.1 (Accept).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from serving.codecs import (
    arrow,
    csv,
    json,
    jsonlines,
    libsvm,
    npy,
    octet,
    open_inference,
    open_inference_encoder,
    predictions,
    recordio,
    wav,
)
from serving.codecs.base import Asked, Buffer, Decode, Decoded, Encode, Style
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec
from serving.errors import InvalidInput, NotAcceptable, UnsupportedMediaType

JSON: Final = "application/json"
CSV: Final = "text/csv"
NPY: Final = "application/x-npy"
OCTET: Final = "application/octet-stream"
JSON_LINES: Final = jsonlines.MEDIA_TYPES[0]
RECORDIO: Final = recordio.MEDIA_TYPE
ARROW: Final = arrow.MEDIA_TYPE

LIBSVM: Final = libsvm.MEDIA_TYPES[0]
WAV: Final = wav.MEDIA_TYPES[0]

_SAME: Final = {
    name: names[0] for names in (jsonlines.MEDIA_TYPES, libsvm.MEDIA_TYPES, wav.MEDIA_TYPES) for name in names
}
"""Media types that go by several names."""

_WITH_JSON_HEADER: Final = frozenset({"", JSON, OCTET, "application/vnd.sagemaker-triton.binary+json"})
# What clients of the v2 routes send with JSON: tritonclient nothing, curl -d a form's type.
_V2_JSON: Final = frozenset({"", JSON, OCTET, "application/x-www-form-urlencoded"})

_BARE: Final = Asked(Style.BARE)


def decoder(plan: InputPlan, media_type: str, json_header_length: int | None, *, face_v2: bool = False) -> Decode:
    """The decoder of a Content-Type ("" = the model's convention, or JSON); parameters after `;` are ignored.

    One is read: `label_size` of CSV, see `csv.check_parameters`.

    `json_header_length`: the value of Inference-Header-Content-Length, which makes the body v2 binary. `face_v2`: the
    route takes v2 bodies only. Raises `UnsupportedMediaType` naming what the model reads, and `InvalidInput`.
    """
    media_type, _, parameters = media_type.lower().partition(";")
    media_type = media_type.strip()
    if json_header_length is not None and media_type in _WITH_JSON_HEADER:
        if json_header_length < 0:
            raise InvalidInput(f"Inference-Header-Content-Length is {json_header_length}; it cannot be negative")
        return open_inference.binary_decoder(plan, json_header_length)
    if face_v2:
        if media_type in _V2_JSON:
            return open_inference.json_decoder(plan)
        raise UnsupportedMediaType(
            f"Content-Type '{media_type[:64]}' is not read here; {JSON}, or {OCTET} with "
            "Inference-Header-Content-Length, was expected"
        )
    media_type = media_type or plan.spec.conventions.content_type or JSON
    if media_type == JSON:
        return json.decoder(plan)
    if media_type == CSV:
        csv.check_parameters(parameters)
    if media_type == ARROW or _SAME.get(media_type, media_type) in readable(plan):
        decode = _DECODERS[_SAME.get(media_type, media_type)](plan)
        return _answered_bare(decode) if plan.spec.conventions.bare else decode
    raise UnsupportedMediaType(
        f"Content-Type '{media_type[:64]}' is not read; model '{plan.model_name}' reads {', '.join(readable(plan))}"
    )


def _answered_bare(decode: Decode) -> Decode:
    """Decodes as `decode` does, and asks for a bare list where the answer is JSON."""

    def decode_bare(body: Buffer) -> Decoded:
        rows, columns, signature, _ = decode(body)
        return rows, columns, signature, _BARE

    return decode_bare


def readable(plan: InputPlan) -> list[str]:
    """The media types that the model reads here; each under its first name."""
    single = plan.single is not None
    conditions = {
        JSON: True,
        JSON_LINES: True,
        CSV: csv.readable(plan),
        LIBSVM: libsvm.readable(plan),
        RECORDIO: True,
        ARROW: arrow.installed(),
        NPY: single,
        OCTET: single,
        WAV: wav.readable(plan),
    }
    return [media_type for media_type, reads in conditions.items() if reads]


def writable(spec: ModelSpec) -> list[str]:
    """The media types in which the model's answers can be written here."""
    found = [JSON, JSON_LINES, CSV, RECORDIO, *([ARROW] if arrow.installed() else [])]
    return [*found, NPY, OCTET] if len(spec.outputs) == 1 else found


def _octet(plan: InputPlan) -> Decode:
    return octet.decoder(plan, None)


_DECODERS: Final[dict[str, Callable[[InputPlan], Decode]]] = {
    JSON_LINES: jsonlines.decoder,
    CSV: csv.decoder,
    LIBSVM: libsvm.decoder,
    RECORDIO: recordio.decoder,
    ARROW: arrow.decoder,
    NPY: npy.decoder,
    OCTET: _octet,
    WAV: wav.decoder,
}


def encoder(spec: ModelSpec, model_name: str, version: str, accept: str | None, *, face_v2: bool = False) -> Encode:
    """The encoder that Accept chooses; the model's convention, or JSON, where it leaves the choice.

    Raises `NotAcceptable`, and `MissingExtra` where Accept names a media type whose library is not installed.

    `face_v2`: answers are v2's, JSON or (where the body asks for binary outputs) binary.
    """
    open_inference_encode = open_inference_encoder.encoder(spec, model_name, version)
    if face_v2:
        negotiate(accept, [JSON, OCTET], JSON)
        return open_inference_encode
    conventions = spec.conventions
    default = _SAME.get(conventions.accept, conventions.accept) or JSON
    offered = writable(spec)
    if not arrow.installed() and ARROW in (accept or "").lower():
        offered.append(ARROW)
    match negotiate(accept, offered, default):
        case "text/csv":
            own = conventions.predictions or conventions.one_line
            return predictions.csv_encoder(spec) if own else csv.encoder(spec)
        case "application/jsonlines":
            return predictions.lines_encoder(spec) if conventions.predictions else jsonlines.encoder(spec)
        case "application/x-recordio-protobuf":
            return recordio.encoder(spec)
        case "application/vnd.apache.arrow.stream":
            return arrow.encoder(spec)
        case "application/x-npy":
            return npy.encoder(spec)
        case "application/octet-stream":
            return octet.encoder(spec, open_inference_encode)
        case _:
            if conventions.predictions:
                return predictions.json_encoder(spec, open_inference_encode)
            return json.encoder(spec, open_inference_encode)


class _Range(NamedTuple):
    """One media range of an Accept header."""

    kind: str
    subtype: str
    quality: float
    place: int

    @property
    def precision(self) -> int:
        return (self.kind != "*") + (self.subtype != "*")

    def covers(self, media_type: str) -> bool:
        kind, _, subtype = media_type.partition("/")
        return self.kind in {"*", kind} and self.subtype in {"*", subtype}


def negotiate(accept: str | None, offered: list[str], default: str) -> str:
    """The media type to answer in: the highest quality, then the order of Accept, then `default` and our own order.

    Raises `NotAcceptable` naming what can be written.
    """
    accept = (accept or "").strip()
    ranges = _ranges(accept)
    if not accept:
        return default
    order = [default, *(media_type for media_type in offered if media_type != default)]
    best: tuple[float, int] | None = None
    chosen = ""
    for media_type in order:
        covering = [entry for entry in ranges if entry.covers(media_type)]
        if not covering:
            continue
        # The most precise range speaks for a type, whatever the others say.
        entry = max(covering, key=lambda found: (found.precision, -found.place))
        rank = (entry.quality, -entry.place)
        if entry.quality > 0 and (best is None or rank > best):
            best, chosen = rank, media_type
    if not chosen:
        raise NotAcceptable(f"Accept '{accept[:128]}' cannot be met; this model writes {', '.join(offered)}")
    return chosen


def _ranges(accept: str) -> list[_Range]:
    found = []
    for place, part in enumerate(accept.split(",")):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        kind, slash, subtype = media_range.partition("/")
        if media_range == "*":
            kind, slash, subtype = "*", "/", "*"
        if not slash or not kind or not subtype:
            continue
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value.strip())
        kind, _, subtype = _SAME.get(f"{kind}/{subtype}", f"{kind}/{subtype}").partition("/")
        found.append(_Range(kind, subtype, quality, place))
    return found


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0
