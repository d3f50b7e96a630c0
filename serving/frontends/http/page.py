"""The page at `/`: what is served and how to call it."""

from __future__ import annotations

from html import escape

from serving.contract import TensorSpec
from serving.runtime.model import describe_batching
from serving.runtime.multi_model import MultiModelEndpoint
from serving.runtime.routing import Endpoint, Snapshot

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "h2{margin:2rem 0 .3rem}code,pre{font:14px/1.4 ui-monospace,monospace;background:#f4f4f2;border-radius:4px}"
    "code{padding:.1rem .3rem}pre{padding:.8rem;overflow:auto}table{border-collapse:collapse}"
    "td,th{text-align:left;padding:.15rem 1.2rem .15rem 0}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#e4e4e4}code,pre{background:#262626}}"
)


def render(snapshot: Snapshot, base_url: str) -> str:
    """The page as HTML; `base_url` is where the reader reached it."""
    found = {name: _endpoint(endpoint, base_url) for name, endpoint in snapshot.endpoints.items()}
    found |= {name: _multi_model(endpoint, base_url) for name, endpoint in snapshot.multi.items()}
    body = "".join(found[name] for name in sorted(found))
    if not found:
        body = "<p>No model is served yet. Start with <code>serving up --model PATH</code>.</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>serving</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f'<h1>serving</h1><p><a href="/metrics">metrics</a> · <a href="/debug/models">models and batches</a></p>{body}'
    )


def _endpoint(endpoint: Endpoint, base_url: str) -> str:
    model = endpoint.model
    name = escape(endpoint.name)
    batching = escape(describe_batching(model.spec, model.batcher.policy))
    rows = "".join(_tensor("input", spec) for spec in model.spec.inputs)
    rows += "".join(_tensor("output", spec) for spec in model.spec.outputs)
    url = escape(base_url)
    return (
        f"<h2>{name}</h2><p>{escape(model.spec.platform)}, version {escape(model.version)}, {batching} · "
        f'<a href="/debug/models/{name}/batches">batches</a> · <a href="/v2/models/{name}">metadata</a></p>'
        f"<table>{rows}</table><pre>curl {url}/endpoints/{name}/invocations -H 'content-type: application/json' -d @request.json\n"
        f"curl {url}/v2/models/{name}/infer -d @request.json</pre>"
    )


def _multi_model(endpoint: MultiModelEndpoint, base_url: str) -> str:
    name, url = escape(endpoint.name), escape(base_url)
    prefix = escape(endpoint.targets.prefix)
    where = f"below <code>{prefix}</code>" if prefix else "that <code>POST /models</code> added"
    return (
        f"<h2>{name}</h2><p>many models: each one {where} is a TARGET, loaded when it is asked for · "
        f'<a href="/debug/models">what is loaded</a></p>'
        f"<pre>curl {url}/endpoints/{name}/invocations -H 'x-amzn-sagemaker-target-model: TARGET' "
        f"-H 'content-type: application/json' -d @request.json\n"
        f"curl {url}/v2/models/{name}:TARGET/infer -d @request.json</pre>"
    )


def _tensor(kind: str, spec: TensorSpec) -> str:
    shape = " x ".join("N" if size < 0 else str(size) for size in spec.shape) or "scalar"
    return f"<tr><td>{kind}<td><code>{escape(spec.name)}</code><td>{spec.datatype}<td>{shape}"
