"""A W&B server on the loopback interface, as far as the SDK asks for one.

It keeps what it is sent; ``status`` and ``delay`` make it a broken or a slow one.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

ENTITY = "tester"
KEY = "0" * 40


@dataclass
class FakeRun:
    """What one run has sent.

    Attributes:
        upserts: the variables of every UpsertBucket, in order.
        lines: per streamed file, its lines by their number.
        uploads: files that were uploaded whole.
        exit_code: None while the run has not been finished.
    """

    upserts: list[dict[str, Any]] = field(default_factory=list)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of ``run.log``."""
        lines = self.lines.get("wandb-history.jsonl", {})
        return [json.loads(lines[number]) for number in sorted(lines)]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary as last streamed."""
        lines = self.lines.get("wandb-summary.json", {})
        return json.loads(lines[max(lines)]) if lines else {}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as last sent, without what W&B adds to it."""
        sent = [json.loads(v["config"]) for v in self.upserts if v.get("config")]
        return {k: v["value"] for k, v in sent[-1].items() if k != "_wandb"} if sent else {}

    def said(self, name: str) -> Any:
        """The last value of an UpsertBucket variable that was not empty."""
        return next((v[name] for v in reversed(self.upserts) if v.get(name)), None)


class FakeWandb(ThreadingHTTPServer):
    """The server; ``with`` starts and stops it."""

    daemon_threads = True
    status = 200
    delay = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, FakeRun] = {}
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.views: list[dict[str, Any]] = []
        self.requests = 0
        self.bytes = 0
        self.strangers: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str | None]:
        """What leads the SDK here, and what would go elsewhere to us as a proxy, to be seen."""
        return {
            **{"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": None},
            **{"WANDB_ERROR_REPORTING": "false", "NETRC": "/dev/null"},
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.5",  # seconds; 15 would be long in a test
            **{"http_proxy": self.url, "https_proxy": self.url, "no_proxy": "127.0.0.1"},
        }

    def __enter__(self) -> "FakeWandb":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Refuse connections from now on; safe to call twice."""
        self.shutdown()
        self.server_close()

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """The variables of every GraphQL request of this name."""
        return [variables for name, variables in self.operations if name == operation]

    def handle_error(self, *_: object) -> None:
        """A client that went away is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeWandb
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        self.server.strangers.append(self.path)
        self.send_error(403)

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.path.startswith("/"):
            self.server.strangers.append(self.path)
        with self.server.lock:
            self.server.requests += 1
            self.server.bytes += len(body)
        time.sleep(self.server.delay)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        with self.server.lock:
            answer = self._route(body)
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, body: bytes) -> Any:
        parts = [unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
        if parts == ["graphql"]:
            return {"data": self._graphql(json.loads(body))}
        if parts[-1] == "file_stream":
            return self._stream(self._run(parts[-2]), json.loads(body))
        if parts[0] == "upload":
            self._run(parts[1]).uploads["/".join(parts[2:])] = body
        return {}

    def _run(self, name: str) -> FakeRun:
        return self.server.runs.setdefault(name, FakeRun())

    def _stream(self, run: FakeRun, sent: dict[str, Any]) -> dict[str, Any]:
        for name, chunk in (sent.get("files") or {}).items():
            for number, line in enumerate(chunk["content"], chunk["offset"]):
                run.lines.setdefault(name, {})[number] = line
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]
        return {"exitcode": None, "limits": {}}

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        name = request.get("operationName") or query.split("(")[0].split("{")[0].split()[-1]
        self.server.operations.append((name, variables))
        reply = getattr(self, f"_reply_{name}", None)
        return reply(variables) if reply else {}

    def _reply_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"id": "T", "name": ENTITY}}]}
        viewer = {"id": "V", "entity": ENTITY, "username": ENTITY, "email": "", "admin": False}
        return {"viewer": viewer | {"name": ENTITY, "flags": "{}", "teams": teams, "apiKeys": None}}

    _reply_GetDefaultEntity = _reply_Viewer  # noqa: N815

    def _reply_ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _reply_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.server.runs.get(variables["name"])
        if run is None or not run.upserts:
            return {"model": {"id": "P", "name": "p", "bucket": None}}
        history = run.history
        bucket = {
            "name": variables["name"],
            **{"historyLineCount": len(history), "logLineCount": 0},
            "eventsLineCount": len(run.lines.get("wandb-events.jsonl", {})),
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": run.said("config") or "{}",
            **{"tags": run.said("tags") or [], "wandbConfig": '{"t": 1}'},
        }
        return {"model": {"id": "P", "name": "p", "bucket": bucket}}

    def _reply_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self._run(variables["name"])
        run.upserts.append(variables)
        project = {"id": "P", "name": run.said("project") or "p"}
        bucket = {
            **{"id": "B", "name": variables["name"], "displayName": run.said("displayName")},
            **{"description": "", "config": variables.get("config") or "{}", "sweepName": None},
            "project": project | {"entity": {"id": "E", "name": ENTITY}},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": len(run.upserts) == 1}}

    def _reply_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["run"]
        files = [
            {"name": file, "uploadUrl": f"{self.server.url}/upload/{name}/{file}"}
            for file in variables["files"]
        ]
        created = {"runID": "B", "uploadHeaders": [], "files": files}
        return {"createRunFiles": created}

    def _reply_ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _reply_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = {"id": "A", "state": "COMMITTED", "artifactSequence": None}
        return {"createArtifact": {"artifact": artifact}}

    def _reply_NotifyScriptableRunAlert(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"notifyScriptableRunAlert": {"success": True}}

    def _reply_ProjectInternalId(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "P", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}

    def _reply_GetProjects(self, _: dict[str, Any]) -> dict[str, Any]:
        names = {run.said("project") for run in self.server.runs.values()}
        project = {"id": "P", "entityName": ENTITY, "createdAt": "", "isBenchmark": False}
        edges = [{"node": {**project, "name": name, "user": None}} for name in names if name]
        return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}}

    def _reply_upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.server.views.append(variables)
        project = {"id": "P", "name": variables["projectName"], "entityName": ENTITY}
        view = {
            **{"id": "VmlldzoxMjM=", "type": variables["type"], "name": variables["name"]},
            **{"displayName": variables["displayName"], "description": variables["description"]},
            **{"project": project, "spec": variables["spec"], "updatedAt": "2026-01-01T00:00:00"},
        }
        return {"upsertView": {"view": view, "inserted": True}}

    def log_message(self, *_: object) -> None:
        """Say nothing."""
