"""What the server of the tests holds, and what GraphQL finds there."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import mimetypes
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wandb_graphql import GraphQLError, Json, encode_id, page_of, timestamp
from wandb_objects import Artifact, Run, Sweep, matches

ENTITY = "tester"
FEATURES = [  # what the server says it can do; the client takes other paths where a feature is missing
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_DIGEST_ALGORITHM",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "FILESTREAM_GZIP",
    "LARGE_FILENAMES",
    "MARK_RUN_FILES_UPLOADED",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "SWEEPS_QUERY_FILTERING",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
]


class Store:
    """Runs by "entity/project/id", files by that and the name, sweeps, artifacts and reports."""

    url: str
    _port: int

    def __init__(self) -> None:
        self.entity = ENTITY
        self.entities = {ENTITY}
        self.features = set(FEATURES)
        self.projects: set[tuple[str, str]] = set()
        self.runs: dict[str, Run] = {}
        self.files: dict[str, bytes] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.views: dict[str, Json] = {}  # reports
        self._numbers = itertools.count(1)

    def run(self, name: str) -> Run:
        """Return the one run of that id, in whatever project."""
        (found,) = [run for run in self.runs.values() if run.name == name]
        return found

    def run_files(self, run: Run) -> dict[str, bytes]:
        start = run.path + "/"
        return {key.removeprefix(start): body for key, body in self.files.items() if key.startswith(start)}

    def add_run(
        self,
        project: str,
        name: str,
        config: Json | None = None,
        summary: Json | None = None,
        files: Mapping[str, bytes] | None = None,
        exitcode: int | None = 0,
        **about: Any,
    ) -> Run:
        """Put a run there as if a client had; `about` is groupName, jobType, tags, displayName, sweep ..."""
        run = self._new_run(self.entity, project, name)
        run.started, run.exitcode, run.summary = True, exitcode, dict(summary or {})
        run.raw_config = {key: {"value": value} for key, value in (config or {}).items()}
        run.about |= {"displayName": name} | about
        self.files |= {f"{run.path}/{file}": body for file, body in (files or {}).items()}
        return run

    def _new_run(self, entity: str, project: str, name: str) -> Run:
        self.projects.add((entity, project))
        run = Run(entity, project, name)
        self.runs[run.path] = run
        return run

    # -- what GraphQL finds: mappings whose callables are fields with arguments, or ones that cost something.
    # The names of arguments are W&B's. (Formatted by hand: these are tables.)
    # fmt: off
    @functools.cached_property
    def _root(self) -> dict[str, Callable[..., Any]]:
        flags = [{"name": name, "isEnabled": True} for name in sorted(self.features)]
        return {
            "viewer": lambda: {
                "id": encode_id("User", self.entity), "entity": self.entity, "username": self.entity,
                "name": self.entity, "email": "tester@example.com", "admin": False, "flags": "{}",
                "teams": page_of([]), "apiKeys": page_of([])},
            "serverInfo": lambda: {"features": flags, "cliVersionInfo": {"max_cli_version": "99.0.0"}},
            "entity": lambda name: {"id": encode_id("Entity", name), "name": name, "organization": None,
                                    "xxhashDigestsEnabled": False} if name in self.entities else None,
            "clientIDMapping": lambda clientID: next(
                ({"serverID": a.id} for a in self.artifacts.values() if a.about.get("clientID") == clientID),
                None),
            "project": self._project,
            "model": self._project,
            "models": lambda entityName, **page: page_of(
                sorted(name for entity, name in self.projects if entity == entityName),
                lambda name: self._project(name, entityName), **page),
            "artifact": lambda id: self._show_artifact(self.artifacts[id]) if id in self.artifacts else None,
            "upsertModel": lambda input: self._upsert_project(input["entityName"], input["name"]),
            "upsertBucket": lambda input: self._upsert_run(**input),
            "createRunFiles": lambda input: self._create_run_files(**input),
            "markRunFilesUploaded": lambda input: {"success": True},
            "upsertView": lambda input: self._upsert_view(**input),
            "upsertSweep": lambda input: self._upsert_sweep(**input),
            "createAgent": lambda input: self._create_agent(input["sweep"]),
            "agentHeartbeat": lambda input: self._agent_heartbeat(**input),
            "createArtifact": lambda input: self._create_artifact(input),
            "createArtifactManifest": lambda input: self._manifest(input["artifactID"]),
            "updateArtifactManifest": lambda input: self._manifest(input["artifactManifestID"].split("~")[1]),
            "createArtifactFiles": lambda input: self._create_artifact_files(input["artifactFiles"]),
            "commitArtifact": lambda input: self._commit_artifact(input["artifactID"]),
        }

    def _entity(self, name: str | None, doing: str) -> str:
        if name and name not in self.entities:
            raise GraphQLError(f"entity {name} not found during {doing}", 404)
        return name or self.entity

    def _project(self, name: str, entityName: str | None = None) -> Json | None:
        entity = entityName or self.entity
        if (entity, name) not in self.projects:
            return None

        def of_project(things: Mapping[str, Any]) -> list[Any]:
            return [x for x in things.values() if (x.entity, x.project) == (entity, name)]

        def run(name: str, **_: Any) -> Json | None:
            found = self.runs.get(f"{entity}/{project['name']}/{name}")
            return self._show_run(found) if found else None

        def chosen(filters: str = "{}") -> list[Run]:
            return [run for run in of_project(self.runs) if matches(run, json.loads(filters))]

        def runs(filters: str = "{}", order: str = "", first: int = 50, after: str = "") -> Json:
            return page_of(chosen(filters), self._show_run, min(first, 1000), after)

        project: Json = {
            "__typename": "Project", "id": encode_id("Project", name, entity), "internalId": "1",
            "name": name,
            "entity": {"id": encode_id("Entity", entity), "name": entity}, "entityName": entity,
            "createdAt": timestamp(0), "readOnly": False, "isBenchmark": False, "user": None,
            "run": run, "bucket": run, "runs": runs, "runCount": lambda **args: len(chosen(**args)),
            "sweep": lambda sweepName: next(
                (self._show_sweep(s) for s in of_project(self.sweeps) if s.name == sweepName), None),
        }
        return project

    def _upsert_project(self, entity: str, name: str) -> Json:
        self.projects.add((entity, name))
        project = self._project(name, entity)
        return {"project": project, "model": project, "inserted": True}

    def _upsert_run(self, id: str = "", name: str = "", modelName: str = "uncategorized",
                    entityName: str = "", config: str | None = None, summaryMetrics: str | None = None,
                    state: str = "", **about: Any) -> Json:
        if id:
            inserted, run = False, next(run for run in self.runs.values() if run.id == id)
        else:
            entity = self._entity(entityName, "upsertBucket")
            path = (entity, modelName, name or f"run{next(self._numbers):05d}")
            inserted = "/".join(path) not in self.runs
            run = self._new_run(*path) if inserted else self.runs["/".join(path)]
            run.started = run.started or state != "pending"
        run.raw_config = json.loads(config) if config is not None else run.raw_config
        run.summary = json.loads(summaryMetrics) if summaryMetrics is not None else run.summary
        run.about = {"displayName": run.name} | run.about | about
        return {"bucket": self._show_run(run), "inserted": inserted}

    def _create_run_files(self, projectName: str, runName: str, files: list[str],
                          entityName: str = "") -> Json:
        path = f"{entityName or self.entity}/{projectName}/{runName}"
        if path not in self.runs:
            raise GraphQLError(f"run {path} not found during createRunFiles", 404)
        links = [{"name": name, "uploadUrl": self._stored(f"{path}/{name}")} for name in files]
        return {"runID": self.runs[path].id, "uploadHeaders": [], "files": links}

    def _stored(self, key: str) -> str:
        """Return the signed link into the storage: another host, which wants no key."""
        return f"http://localhost:{self._port}/storage/{urllib.parse.quote(key)}?signature=0"

    def _show_file(self, key: str, name: str) -> Json:
        """Describe a file; one that is not there has size 0 and md5 "0", as on the hosted server."""
        body = self.files.get(key)
        md5 = "0" if body is None else base64.b64encode(hashlib.md5(body).digest()).decode()
        return {"__typename": "File", "id": encode_id("File", key), "name": name, "storagePath": key,
                "url": f"{self.url}/files/{urllib.parse.quote(key)}", "directUrl": self._stored(key),
                "md5": md5, "digest": md5,
                "sizeBytes": len(body or b""), "mimetype": mime_type(name), "updatedAt": timestamp(0)}

    def _show_run(self, run: Run) -> Json:
        def files(names: Sequence[str] = (), pattern: str = "%", **page: Any) -> Json:
            like = re.escape(pattern).replace("%", ".*").replace("_", ".")
            keep = names or [name for name in sorted(self.run_files(run)) if re.fullmatch(like, name)]
            return page_of(keep, lambda name: self._show_file(f"{run.path}/{name}", name), **page)

        return {
            "__typename": "Run", "id": run.id, "name": run.name, "projectId": 1, "readOnly": False,
            **{k: run.about.get(k) for k in ("displayName", "description", "notes", "jobType", "commit")},
            "tags": run.tags, "group": run.group, "sweepName": run.sweep, "state": run.state,
            "exitcode": run.exitcode, "failed": run.state == "failed", "running": run.state == "running",
            "stopped": False, "shouldStop": False,
            "createdAt": timestamp(run.created), "heartbeatAt": timestamp(run.heartbeat),
            "user": {"name": run.entity, "username": run.entity},
            "project": lambda: self._project(run.project, run.entity),
            "config": lambda: json.dumps(run.raw_config), "summaryMetrics": lambda: json.dumps(run.summary),
            "wandbConfig": lambda keys: json.dumps({"t": 1}), "systemMetrics": "{}",
            "files": files, "fileCount": lambda: len(self.run_files(run)),
        }

    def _upsert_view(self, id: str = "", entityName: str = "", **about: Any) -> Json:
        id = id or f"view{next(self._numbers)}"
        self.views[id] = {"entityName": self._entity(entityName, "upsertView"), **about}
        project = {"id": "1", "name": about["projectName"], "entityName": entityName}
        return {"view": {"id": id, **about, "project": project, "updatedAt": timestamp(0)}, "inserted": True}

    # -- sweeps
    def _upsert_sweep(self, id: str = "", config: str = "{}", entityName: str = "", state: str = "",
                      projectName: str = "uncategorized", **_: Any) -> Json:
        if id:
            sweep = next(s for s in self.sweeps.values() if encode_id("Sweep", s.name) == id)
        else:
            entity = self._entity(entityName, "upsertSweep")
            sweep = Sweep(entity, projectName, f"sweep{next(self._numbers):03d}", config)
            self.sweeps[sweep.name] = sweep
            self.projects.add((entity, projectName))
        sweep.state = state or sweep.state
        return {"sweep": self._show_sweep(sweep), "configValidationWarnings": []}

    def _show_sweep(self, sweep: Sweep) -> Json:
        runs = [run for run in self.runs.values() if (run.project, run.sweep) == (sweep.project, sweep.name)]
        agents = [{"id": encode_id("Agent", name), "name": name, "host": "localhost", "state": "RUNNING",
                   "totalRuns": len(given), "createdAt": timestamp(sweep.created),
                   "heartbeatAt": timestamp(sweep.created)} for name, given in sweep.agents.items()]
        return {
            "__typename": "Sweep", "id": encode_id("Sweep", sweep.name), "name": sweep.name,
            "state": sweep.state, "config": sweep.text, "method": sweep.config.get("method"),
            "displayName": sweep.config.get("name"), "description": sweep.config.get("description"),
            "bestLoss": None, "controller": None,
            "scheduler": None, "earlyStopJobRunning": False, "createdAt": timestamp(sweep.created),
            "updatedAt": None, "heartbeatAt": timestamp(time.time()), "runCount": len(runs),
            "runCountExpected": sweep.expected, "runs": lambda **page: page_of(runs, self._show_run, **page),
            "agents": lambda: page_of(agents), "project": lambda: self._project(sweep.project, sweep.entity),
        }

    def _create_agent(self, sweep: str) -> Json:
        if sweep not in self.sweeps:
            raise GraphQLError(f"sweep {sweep} not found during createAgent", 404)
        agent = f"{sweep}~{next(self._numbers)}"
        self.sweeps[sweep].agents[agent] = []
        return {"agent": {"id": agent}}

    def _agent_heartbeat(self, id: str, runState: str = "{}", metrics: str = "{}") -> Json:
        """Hand an idle agent its next run; "exit" ends it and kills what it still runs."""
        sweep = self.sweeps.get(id.partition("~")[0])
        if sweep is None:
            raise GraphQLError("sweep not found", 404)
        commands: list[Json] = []
        if sweep.state == "CANCELED":
            commands = [{"type": "exit"}]
        elif sweep.state != "PAUSED" and not any(json.loads(runState).values()):
            drawn = next(sweep.left, None) if sweep.state != "FINISHED" else None
            if drawn is None:
                sweep.state, commands = "FINISHED", [{"type": "exit"}]
            else:
                run = self._new_run(sweep.entity, sweep.project, f"{sweep.name}r{next(self._numbers)}")
                given = sum(map(len, sweep.agents.values())) + 1
                run.about |= {"sweep": sweep.name, "displayName": f"sweep-{given}"}
                run.raw_config = {key: {"value": value} for key, value in drawn.items()}
                sweep.agents[id].append(run.name)
                sweep.state = "RUNNING"
                commands = [{"type": "run", "run_id": run.name, "program": sweep.config.get("program"),
                             "args": run.raw_config, "logs": []}]
        return {"agent": {"id": id}, "commands": json.dumps(commands)}

    # -- artifacts
    def _family(self, entity: str, project: str, collection: str) -> list[Artifact]:
        """Return the committed versions of a collection, oldest first."""
        return [a for a in self.artifacts.values() if a.version is not None
                and (a.entity, a.project, a.collection) == (entity, project, collection)]

    def _create_artifact(self, input: Json) -> Json:
        entity, project = self._entity(input.get("entityName"), "createArtifact"), input["projectName"]
        collection = (input.get("artifactCollectionNames") or [input.get("artifactCollectionName")])[0]
        family = self._family(entity, project, collection)
        latest = {"id": family[-1].id, "versionIndex": family[-1].version} if family else None
        artifact = next((a for a in family if a.about["digest"] == input["digest"]), None)
        if artifact is None:
            run = f"{entity}/{project}/{input.get('runName')}"
            artifact = Artifact(entity, project, collection, input["artifactTypeName"],
                                f"artifact{next(self._numbers)}", run, dict(input))
            self.artifacts[artifact.id] = artifact
        artifact.aliases |= {alias["alias"] for alias in input.get("aliases", [])}
        return {"artifact": {
            "id": artifact.id, "state": "PENDING" if artifact.version is None else "COMMITTED",
            "artifactSequence": {"id": encode_id("Sequence", collection), "latestArtifact": latest}}}

    def _manifest(self, artifact: str) -> Json:
        link = self._stored(f"manifests/{artifact}")
        file = {"id": f"file~{artifact}", "uploadUrl": link, "uploadHeaders": []}
        return {"artifactManifest": {"id": f"manifest~{artifact}", "file": file}}

    def _create_artifact_files(self, wanted: list[Json]) -> Json:
        keys = {f"artifacts/{item['artifactID']}/{item['name']}": item["artifactID"] for item in wanted}
        return {"files": page_of([
            {"storagePath": key, "uploadUrl": self._stored(key), "uploadHeaders": [],
             "artifact": {"id": id}}
            for key, id in keys.items()])}

    def _commit_artifact(self, id: str) -> Json:
        artifact = self.artifacts[id]
        family = self._family(artifact.entity, artifact.project, artifact.collection)
        for other in family:
            other.aliases -= {*artifact.aliases, "latest"}
        artifact.version = len(family) if artifact.version is None else artifact.version
        artifact.aliases.add("latest")
        return {"artifact": {"id": id, "digest": artifact.about["digest"]}}

    def _show_artifact(self, artifact: Artifact) -> Json:
        return {"__typename": "Artifact", "id": artifact.id, "versionIndex": artifact.version,
                "state": "PENDING" if artifact.version is None else "COMMITTED",
                "digest": artifact.about["digest"], "createdAt": timestamp(artifact.created)}
    # fmt: on


def mime_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
