"""What UpdateModelPackage makes of a model package's document."""

from __future__ import annotations

from typing import Final

from serving.control import package_source
from serving.control.call import Document, Parameters
from serving.errors import ControlFault

REPLACED: Final = (
    "ModelPackageRegistrationType",
    "ApprovalDescription",
    "InferenceSpecification",
    "SourceUri",
    "ModelCard",
    "ModelLifeCycle",
)

ADDITIONAL: Final = "AdditionalInferenceSpecifications"
METADATA: Final = "CustomerMetadataProperties"

MOST_ADDITIONAL: Final = 15
MOST_METADATA: Final = 50


def changed(document: Document, parameters: Parameters) -> Document:
    """The document after the update. Raises `ControlFault` where it would hold more than it may."""
    updated = dict(document)
    updated |= {member: parameters[member] for member in REPLACED if member in parameters}
    if "InferenceSpecification" in parameters:
        package_source.check(parameters["InferenceSpecification"])
    _change_metadata(updated, parameters)
    _add_specifications(updated, parameters)
    return updated


def _change_metadata(document: Document, parameters: Parameters) -> None:
    added = parameters.get(METADATA, {})
    removed = parameters.get(f"{METADATA}ToRemove", ())
    both = [key for key in removed if key in added]
    if both:
        raise ControlFault(f"The metadata property '{both[0]}' cannot be both set and removed")
    metadata = {key: value for key, value in document.pop(METADATA, {}).items() if key not in removed} | added
    if len(metadata) > MOST_METADATA:
        raise ControlFault(f"{METADATA} would have {len(metadata)} entries; a package can have at most {MOST_METADATA}")
    if metadata:
        document[METADATA] = metadata


def _add_specifications(document: Document, parameters: Parameters) -> None:
    added = parameters.get(f"{ADDITIONAL}ToAdd", ())
    if not added:
        return
    together = [*document.get(ADDITIONAL, ()), *added]
    names = [one["Name"] for one in together]
    if len(set(names)) < len(names):
        raise ControlFault(f"Name must be unique among {ADDITIONAL}; there would be {', '.join(names)}")
    if len(together) > MOST_ADDITIONAL:
        raise ControlFault(f"{ADDITIONAL} would have {len(together)} entries; there can be at most {MOST_ADDITIONAL}")
    for specification in added:
        package_source.check(specification)
    document[ADDITIONAL] = together
