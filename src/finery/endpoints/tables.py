"""The tables of endpoints, deployments, replicas and long-running operations."""

from __future__ import annotations

import sqlalchemy as sa

from finery.workspace.store import metadata

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("auth_mode", sa.String(20), nullable=False),  # key, aml_token, aad_token
    sa.Column("traffic", sa.JSON, nullable=False),
    sa.Column("mirror_traffic", sa.JSON, nullable=False),
    sa.Column("wire", sa.JSON, nullable=False),  # the body as it was sent, without keys
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("primary_key", sa.String(255), nullable=False),
    sa.Column("secondary_key", sa.String(255), nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("modified_at", sa.DateTime, nullable=False),
)

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("endpoint", sa.String(32), sa.ForeignKey(endpoints.c.name), primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),  # what a replica loads: a folder or a source
    sa.Column("environment", sa.JSON, nullable=False),  # variables of the replicas
    sa.Column("instance_count", sa.Integer, nullable=False),
    sa.Column("at_once", sa.Integer, nullable=False),  # answers a replica makes at a time
    sa.Column("timeout_seconds", sa.Float, nullable=False),
    sa.Column("liveness_probe", sa.JSON, nullable=False),  # the fields of values.Probe
    sa.Column("wire", sa.JSON, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("revision", sa.Integer, nullable=False),  # counts what needs new replicas
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("modified_at", sa.DateTime, nullable=False),
    sa.Column("engine", sa.String(20), nullable=False),
    sa.Column("readiness_probe", sa.JSON, nullable=False),
    sa.Column("served", sa.JSON(none_as_null=True), nullable=True),  # the values.Form that answers
)

replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("endpoint", sa.String(32), nullable=False),
    sa.Column("deployment", sa.String(32), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),  # starting, ready, unready, stopping
    sa.Column("port", sa.Integer, nullable=False),  # 0 until it is ready
    sa.Column("key", sa.String(255), nullable=False),  # what the gateway shows it
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("report", sa.JSON, nullable=False),  # its ready.json
    sa.Column("host", sa.String(36), nullable=False),
    sa.Column("adapter", sa.String(64), nullable=False),
    sa.Index(None, "endpoint", "deployment"),
)

canaries = sa.Table(
    "endpoint_canaries",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("endpoint", sa.String(32), nullable=False),
    sa.Column("stable", sa.String(32), nullable=False),  # the deployment that had the traffic
    sa.Column("canary", sa.String(32), nullable=False),  # the one that is to get it
    sa.Column("steps", sa.JSON, nullable=False),  # shares of the canary, in percent
    sa.Column("guards", sa.JSON, nullable=False),
    sa.Column("min_requests", sa.Integer, nullable=False),  # to the canary, in every step
    sa.Column("step_seconds", sa.Float, nullable=False),  # a step's least length
    sa.Column("state", sa.String(20), nullable=False),  # Running, Succeeded, RolledBack, Aborted
    sa.Column("position", sa.Integer, nullable=False),  # the step under way, from 0
    sa.Column("step_since", sa.DateTime, nullable=False),
    sa.Column("watch", sa.JSON, nullable=False),  # what was counted, and the evidence so far
    sa.Column("history", sa.JSON, nullable=False),  # every decision with its figures
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime, nullable=True),
    sa.Index(None, "endpoint", "state"),
)

operations = sa.Table(
    "endpoint_operations",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),  # put, delete
    sa.Column("endpoint", sa.String(32), nullable=False),
    sa.Column("deployment", sa.String(32), nullable=False),  # "" is the endpoint itself
    sa.Column("status", sa.String(20), nullable=False),  # InProgress, Succeeded, Failed, Canceled
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime, nullable=True),
    sa.Index(None, "endpoint", "deployment", "status"),
)
