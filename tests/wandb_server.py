"""A loopback stand-in of a W&B server for tests: in memory, standard library alone, with faults on demand.

Enough of the protocol for wandb 0.31's real client: online runs, resume, `wandb sync`, tables and other artifacts; the
public API's run listing, sampled, scanned and exported (parquet) history; saved views (workspaces, reports).

    with WandbServer() as server:
        os.environ.update(server.environment(tmp_path))
        ...                                     # wandb.init(mode="online"), wandb.Api()
        server.fault = Fault(status=429)        # or delay=5.0; only="file_stream" | "graphql" | "upload" | "parquet"
        server.stop(); server.start()           # refuses connections, then comes back on the same port
        assert server.rows("project", "run id")

What a hosted server does beyond this protocol (rendering, rate limits, when exports appear) is not known from here.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

API_KEY = "0123456789abcdef0123456789abcdef01234567"  # any 40 characters do
CREATED = "2026-01-01T00:00:00"


@dataclass
class Fault:
    """What goes wrong with requests of one kind (all kinds where ``only`` is None)."""

    status: int = 200  # answer with this status instead
    delay: float = 0.0  # [s] before the answer
    only: str | None = None
    times: float = float("inf")  # how many requests, then healthy again


@dataclass
class StoredRun:
    """A run as the server keeps it."""

    project: str
    name: str  # the id in paths
    display_name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: dict[int, str] = field(default_factory=dict)  # offset in the stream -> JSON line
    events: dict[int, str] = field(default_factory=dict)
    output: dict[int, str] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    exports: list[bytes] = field(default_factory=list)  # parquet files
    exported_to: int = 0  # first _step that is not in an export

    @property
    def storage_id(self) -> str:
        return f"{self.project}:{self.name}"

    def rows(self) -> list[dict[str, Any]]:
        return sorted((json.loads(line) for line in self.history.values()), key=lambda row: row["_step"])


class WandbServer:
    """The stand-in; a context manager. Attributes may be read and set from the test while it serves."""

    def __init__(self, entity: str = "team") -> None:
        self.entity = entity
        self.runs: dict[tuple[str, str], StoredRun] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}  # path -> body
        self.fault: Fault | None = None
        self.calls: Counter[str] = Counter()  # operation -> requests
        self.requests: list[tuple[str, Any]] = []  # (operation, variables or body), in order
        self.unknown: list[str] = []  # operations that nobody has taught this stand-in
        self.lock = threading.RLock()
        self._http: _Http | None = None
        self._port = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> WandbServer:
        self._http = _Http(("127.0.0.1", self._port), _handler(self))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.drop_connections()
            self._http = None

    def __enter__(self) -> WandbServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that point wandb's client here, and its caches into ``folder``."""
        names = ("CACHE", "CONFIG", "DATA", "ARTIFACT")
        return {
            "WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, "WANDB_ERROR_REPORTING": "false",
            **{f"WANDB_{name}_DIR": str(folder / name.lower()) for name in names},
        }  # fmt: skip

    # -- what a test puts in and looks at -----------------------------------------------------------------------------

    def add_run(
        self, project: str, name: str, rows: Iterable[Mapping[str, Any]], *, state: str = "finished", **fields: Any
    ) -> StoredRun:
        """A run that somebody else logged; rows get ``_step`` where they have none. config is plain key -> value."""
        config = {key: {"value": value} for key, value in fields.pop("config", {}).items()}
        run = StoredRun(project, name, state=state, config=config, **{"display_name": name, **fields})
        for i, row in enumerate(rows):
            run.history[i] = json.dumps({"_step": i, "_timestamp": 1.7e9 + i, "_runtime": float(i), **row})
        if not run.summary and run.history:
            run.summary = json.loads(run.history[max(run.history)])
        with self.lock:
            self.runs[project, name] = run
        return run

    def append_rows(self, project: str, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """More rows for a run: it grew since somebody looked."""
        run = self.runs[project, name]
        for row in rows:
            n = len(run.history)
            run.history[n] = json.dumps({"_step": n, "_timestamp": 1.7e9 + n, "_runtime": float(n), **row})

    def export(self, project: str, name: str, *, parts: int = 1) -> None:
        """Export what a run has now as parquet files; later rows are served live."""
        import pandas as pd

        run = self.runs[project, name]
        rows = [{k: _unspell(v) for k, v in row.items()} for row in run.rows()]
        run.exports = []
        for i in range(parts):
            chunk = rows[len(rows) * i // parts : len(rows) * (i + 1) // parts]
            out = io.BytesIO()
            pd.DataFrame(chunk).to_parquet(out, index=False)
            run.exports.append(out.getvalue())
        run.exported_to = rows[-1]["_step"] + 1 if rows else 0

    def rows(self, project: str, name: str) -> list[dict[str, Any]]:
        with self.lock:
            return self.runs[project, name].rows()

    def step_metrics(self, project: str, name: str) -> dict[str, str]:
        """metric or glob -> the metric it is drawn against, as the client recorded it in the run's configuration."""
        definitions = self.runs[project, name].config["_wandb"]["value"].get("m", [])
        names = [d.get("1", d.get("2")) for d in definitions]
        return {d.get("1", d.get("2")): names[d["5"] - 1] for d in definitions if "5" in d}

    # -- requests -----------------------------------------------------------------------------------------------------

    def answer_graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        handler = _OPERATIONS.get(operation)
        if handler is None:
            self.unknown.append(operation)
            return {}
        return handler(self, variables)

    def answer_file_stream(self, project: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault((project, name), StoredRun(project, name))
        streams = {"wandb-history.jsonl": run.history, "wandb-events.jsonl": run.events, "output.log": run.output}
        for file, chunk in body.get("files", {}).items():
            if file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
            elif file in streams:
                streams[file].update({chunk["offset"] + i: line for i, line in enumerate(chunk["content"])})
        if body.get("complete"):
            run.exit_code = body.get("exitcode") or 0
            run.state = "failed" if run.exit_code else "finished"
        return {}

    def inject(self, kind: str) -> int:
        """Status to answer with; sleeps first where the fault says so."""
        with self.lock:
            fault = self.fault
            if fault is None or fault.only not in (None, kind) or fault.times <= 0:
                return 200
            fault.times -= 1
        if fault.delay:
            time.sleep(fault.delay)
        return fault.status

    def project_of(self, name: str) -> dict[str, Any]:
        return {"id": name, "name": name, "entity": {"id": self.entity, "name": self.entity}}

    def find(self, v: Mapping[str, Any]) -> StoredRun | None:
        project = v.get("project") or v.get("projectName") or ""
        return self.runs.get((project, v.get("name") or v.get("run") or v.get("runName") or ""))


# -- GraphQL: one function an operation -------------------------------------------------------------------------------


def _viewer(server: WandbServer, v: Any) -> dict[str, Any]:
    me = server.entity
    teams = {"edges": [{"node": {"name": me}}]}
    return {
        "viewer": {
            "id": "u", "entity": me, "username": me, "name": me, "email": "", "flags": "{}", "admin": False,
            "teams": teams, "apiKeys": {"edges": []},
        }
    }  # fmt: skip


def _bucket(server: WandbServer, run: StoredRun) -> dict[str, Any]:
    return {
        "id": run.storage_id, "name": run.name, "displayName": run.display_name or run.name, "description": "",
        "config": json.dumps(run.config), "sweepName": None, "project": server.project_of(run.project),
        "historyLineCount": len(run.history),
    }  # fmt: skip


def _upsert_bucket(server: WandbServer, v: Any) -> dict[str, Any]:
    if v.get("name") is None:
        project, name = v["id"].split(":", 1)
    else:
        project, name = v.get("project") or "uncategorized", v["name"]
    new = (project, name) not in server.runs
    run = server.runs.setdefault((project, name), StoredRun(project, name))
    if v.get("config"):
        run.config.update(json.loads(v["config"]))
    if v.get("summaryMetrics"):
        run.summary.update(json.loads(v["summaryMetrics"]))
    sent = {"display_name": "displayName", "group": "groupName", "job_type": "jobType", "tags": "tags"}
    for attribute, variable in sent.items():
        if v.get(variable) is not None:
            setattr(run, attribute, v[variable])
    run.state = "running"
    return {"upsertBucket": {"bucket": _bucket(server, run), "inserted": new}}


def _resume_status(server: WandbServer, v: Any) -> dict[str, Any]:
    run = server.find(v)
    model = server.project_of(v["project"])
    if run is None:
        return {"model": model | {"bucket": None}}

    def tail(stream: dict[int, str]) -> str:
        return json.dumps([stream[max(stream)]] if stream else [])

    lines = {
        "summaryMetrics": json.dumps(run.summary), "wandbConfig": json.dumps({"t": 1}), "tags": run.tags,
        "eventsLineCount": len(run.events), "logLineCount": len(run.output),
        "historyTail": tail(run.history), "eventsTail": tail(run.events),
    }  # fmt: skip
    return {"model": model | {"bucket": _bucket(server, run) | lines}}


def _create_files(server: WandbServer, v: Any) -> dict[str, Any]:
    files = [{"name": f, "uploadUrl": f"{server.url}/upload/{v['project']}/{v['run']}/{f}"} for f in v["files"]]
    return {"createRunFiles": {"runID": f"{v['project']}:{v['run']}", "uploadHeaders": [], "files": files}}


def _create_artifact(server: WandbServer, v: Any) -> dict[str, Any]:
    name = f"artifact{len(server.artifacts)}"
    server.artifacts[name] = v
    sequence = {"id": "s", "latestArtifact": None}
    return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}


def _create_manifest(server: WandbServer, v: Any) -> dict[str, Any]:
    url = f"{server.url}/upload/{v.get('artifactID')}/manifest"
    file = {"id": "f", "name": "manifest", "displayName": "manifest", "uploadUrl": url, "uploadHeaders": []}
    return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}


def _create_artifact_files(server: WandbServer, v: Any) -> dict[str, Any]:
    edges = [
        {"node": {
            "uploadUrl": f"{server.url}/upload/{f['artifactID']}/{f['name']}", "uploadHeaders": [], "storagePath": "x",
            "uploadMultipartUrls": None, "artifact": {"id": f["artifactID"]},
        }}
        for f in v["input"]["artifactFiles"]
    ]  # fmt: skip
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _node(server: WandbServer, run: StoredRun) -> dict[str, Any]:
    rows = run.rows()
    count = [{"type": "number", "count": 1}]
    keys = {key: {"typeCounts": count, "monotonic": False, "previousValue": 0} for row in rows for key in row}
    return _bucket(server, run) | {
        "tags": run.tags, "state": run.state, "group": run.group, "jobType": run.job_type, "commit": None,
        "readOnly": False, "createdAt": CREATED, "heartbeatAt": CREATED, "notes": "", "projectId": "1",
        "systemMetrics": "{}",
        "user": {"name": server.entity, "username": server.entity}, "summaryMetrics": json.dumps(run.summary),
        "historyKeys": {"keys": keys, "lastStep": rows[-1]["_step"] if rows else -1, "sets": []},
    }  # fmt: skip


def _list_runs(server: WandbServer, v: Any) -> dict[str, Any]:
    filters = json.loads(v.get("filters") or "{}")
    runs = [run for (project, _), run in server.runs.items() if project == v["project"] and _matches(run, filters)]
    start = int(v.get("cursor") or 0)
    page = runs[start : start + (v.get("perPage") or 50)]
    end = start + len(page)
    edges = [{"node": _node(server, run), "cursor": str(start + i + 1)} for i, run in enumerate(page)]
    listing = {"edges": edges, "pageInfo": {"endCursor": str(end), "hasNextPage": end < len(runs)}}
    return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": listing}}


def _matches(run: StoredRun, filters: Mapping[str, Any]) -> bool:
    values = {key: getattr(run, key) for key in ("state", "group", "name", "display_name")}
    values["jobType"] = run.job_type
    for key, want in filters.items():
        if key == "$and":
            if not all(_matches(run, part) for part in want):
                return False
        elif key == "$or":
            if not any(_matches(run, part) for part in want):
                return False
        elif key == "tags":
            if want not in run.tags:
                return False
        elif isinstance(want, Mapping) and set(want) == {"$in"} and key in values:
            if values[key] not in want["$in"]:
                return False
        elif values[key] != want:  # an unknown key is a KeyError, answered with 400
            return False
    return True


def _one_run(server: WandbServer, v: Any) -> dict[str, Any]:
    run = server.find(v)
    return {"project": {"run": _node(server, run) if run else None}}


def _history_keys(server: WandbServer, v: Any) -> dict[str, Any]:
    return {"project": {"run": {"historyKeys": _node(server, _needed(server, v))["historyKeys"]}}}


def _parquet_history(server: WandbServer, v: Any) -> dict[str, Any]:
    run = _needed(server, v)
    live = [{"_step": row["_step"]} for row in run.rows() if row["_step"] >= run.exported_to]
    urls = [f"{server.url}/parquet/{run.project}/{run.name}/{i}" for i in range(len(run.exports))]
    return {"project": {"run": {"parquetHistory": {"parquetUrls": urls, "liveData": live}}}}


def _history_page(server: WandbServer, v: Any) -> dict[str, Any]:
    rows = [row for row in _needed(server, v).rows() if v["minStep"] <= row["_step"] < v["maxStep"]]
    return {"project": {"run": {"history": [json.dumps(row) for row in rows[: v["pageSize"]]]}}}


def _sampled(run: StoredRun, spec: Any) -> list[dict[str, Any]]:
    spec = json.loads(spec) if isinstance(spec, str) else spec
    low, high = spec.get("minStep", 0), spec.get("maxStep", 1 << 60)
    rows = [row for row in run.rows() if low <= row["_step"] <= high and all(key in row for key in spec["keys"])]
    return [{key: row[key] for key in spec["keys"]} for row in _thin(rows, spec.get("samples", 500))]


def _thin(rows: list[Any], samples: int) -> list[Any]:
    return rows if len(rows) <= samples else [rows[i * len(rows) // samples] for i in range(samples)]


def _sampled_page(server: WandbServer, v: Any) -> dict[str, Any]:
    return {"project": {"run": {"sampledHistory": [_sampled(_needed(server, v), v["spec"])]}}}


def _sampled_history(server: WandbServer, v: Any) -> dict[str, Any]:
    run = _needed(server, v)
    return {"project": {"run": {"sampledHistory": [_sampled(run, spec) for spec in v["specs"]]}}}


def _full_history(server: WandbServer, v: Any) -> dict[str, Any]:
    rows = _thin(_needed(server, v).rows(), v["samples"])
    return {"project": {"run": {"history": [json.dumps(row) for row in rows], "events": []}}}


def _needed(server: WandbServer, v: Any) -> StoredRun:
    run = server.find(v)
    if run is None:
        raise LookupError(f"no such run: {v}")
    return run


def _projects(server: WandbServer, v: Any) -> dict[str, Any]:
    seen = {project for project, _ in server.runs} | {view["project"]["name"] for view in server.views.values()}
    names = sorted(seen)
    edges = [
        {"node": {
            "__typename": "Project", "id": name, "name": name, "entityName": server.entity, "createdAt": CREATED,
            "isBenchmark": False, "user": None,
        }}
        for name in names
    ]  # fmt: skip
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"models": {"pageInfo": page, "edges": edges}}


def _upsert_view(server: WandbServer, v: Any) -> dict[str, Any]:
    saves = server.calls["UpsertView2"] + server.calls["upsertView"]
    name = v.get("id") or base64.b64encode(f"View:{100 + saves}".encode()).decode()
    old = server.views.get(name, {})
    sent = {k: v[k] for k in ("name", "displayName", "description", "type", "spec") if v.get(k) is not None}
    project = old.get("project") or {"id": "p", "name": v.get("projectName"), "entityName": v.get("entityName")}
    server.views[name] = view = {
        **old,
        "id": name,
        **sent,
        "project": project,
        "createdAt": CREATED,
        "updatedAt": CREATED,
    }
    return {"upsertView": {"view": view, "inserted": not old}}


def _find_view(server: WandbServer, v: Any) -> dict[str, Any]:
    found = [{"node": view} for view in server.views.values() if view.get("name") == v["viewName"]]
    return {"project": {"allViews": {"edges": found}}}


_OPERATIONS: dict[str, Any] = {
    "Viewer": _viewer,
    "GetDefaultEntity": lambda s, v: {"viewer": {"id": "u", "entity": s.entity}},
    "ServerFeaturesQuery": lambda s, v: {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": lambda s, v: {"entity": {"organization": {"coreWeaveOrganizationId": None}}},
    "UpsertBucket": _upsert_bucket,
    "RunResumeStatus": _resume_status,
    "CreateRunFiles": _create_files,
    "ArtifactType": lambda s, v: {"project": {"artifact": None}},
    "CreateArtifact": _create_artifact,
    "CreateArtifactManifest": _create_manifest,
    "CreateArtifactFiles": _create_artifact_files,
    "CommitArtifact": lambda s, v: {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": ""}}},
    "UseArtifact": lambda s, v: {"useArtifact": {"artifact": {"id": v["artifactID"]}}},
    "Runs": _list_runs,
    "Run": _one_run,
    "RunHistoryKeys": _history_keys,
    "RunParquetHistory": _parquet_history,
    "HistoryPage": _history_page,
    "SampledHistoryPage": _sampled_page,
    "RunSampledHistory": _sampled_history,
    "RunFullHistory": _full_history,
    "ProjectInternalId": lambda s, v: {
        "project": {"id": v["projectName"], "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}
    },
    "GetProjects": _projects,
    "UpsertView2": _upsert_view,
    "upsertView": _upsert_view,
    "View": _find_view,
    "SpecificReport": lambda s, v: {"view": s.views.get(v["reportId"])},
}


# -- HTTP -------------------------------------------------------------------------------------------------------------


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self._open: set[Any] = set()
        super().__init__(*args)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """Kept-alive connections would outlive a server that is 'down'."""
        for connection in list(self._open):
            super().shutdown_request(connection)
        self._open.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, OSError, ValueError)):  # the client, or stop(), hung up
            super().handle_error(request, client_address)


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # with Nagle or unbuffered headers every answer takes 40 ms
        wbufsize = 1 << 16

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            kind = self.path.split("/")[1].split("?")[0]
            if self.path.endswith("/file_stream"):
                kind = "file_stream"
            status = server.inject(kind)
            if status != 200:
                server.calls[f"{kind} {status}"] += 1
                return self.send(status, b'{"errors": [{"message": "fault on purpose"}]}')
            if kind == "parquet":
                return self.parquet()
            try:
                with server.lock:
                    answer = self.answer(kind, body)
            except Exception as error:  # tell the client and the test, keep serving
                server.unknown.append(f"{self.path}: {error!r}")
                return self.send(400, json.dumps({"errors": [{"message": f"stand-in: {error!r}"}]}).encode())
            self.send(200, json.dumps(answer).encode())

        def answer(self, kind: str, body: bytes) -> dict[str, Any]:
            if kind == "graphql":
                query = json.loads(body)
                found = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])
                operation, variables = found[1] if found else "", query.get("variables") or {}
                server.calls[operation] += 1
                server.requests.append((operation, variables))
                return {"data": server.answer_graphql(operation, variables)}
            if kind == "file_stream":
                _, _, _, project, name, _ = self.path.split("/")
                content = json.loads(body)
                server.calls[kind] += 1
                server.requests.append((kind, content))
                return server.answer_file_stream(project, name, content)
            if kind == "upload":
                server.calls[kind] += 1
                server.uploads[self.path.removeprefix("/upload/")] = body
                return {}
            server.calls[f"{self.command} {self.path}"] += 1
            return {}

        def parquet(self) -> None:
            _, _, project, name, part = self.path.split("?")[0].split("/")
            server.calls["parquet"] += 1
            blob = server.runs[project, name].exports[int(part)]
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range") or "")
            if asked is None:
                return self.send(200, blob)
            first, last = asked.groups()
            start = int(first) if first else len(blob) - int(last)
            stop = min(int(last) if first and last else len(blob) - 1, len(blob) - 1)
            self.send(206, blob[start : stop + 1], {"content-range": f"bytes {start}-{stop}/{len(blob)}"})

        def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            extra = {"retry-after": "1", "ratelimit-remaining": "0", "ratelimit-reset": "1"} if status == 429 else {}
            for name, value in {
                "content-type": "application/json", "accept-ranges": "bytes", "content-length": str(len(body)),
                **extra, **(headers or {}),
            }.items():  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = serve

    return Handler


def _unspell(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
