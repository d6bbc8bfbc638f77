"""Which deployment answers a request: pure choices over what the gateway has read.

A conversation stays where it is: its id is hashed with the name of each deployment into a
number from 0 to 1, and the deployment with the highest score -share / ln(number) gets it
(weighted rendezvous hashing: Schindelhauer and Schomaker, "Weighted distributed hash tables",
2005). So the shares are kept over many ids, and moving a tenth of the traffic from one
deployment to another moves a tenth of the conversations and leaves the rest where they are.
"""

from __future__ import annotations

import hashlib
import math
import random

from finery.endpoints.gateway.refusals import ModelNotFoundError
from finery.endpoints.routing import Table
from finery.endpoints.values import Deployment
from finery.errors import FineryError
from finery.workspace.errors import NotFoundError

DRAWS = random.SystemRandom()


def choose(
    table: Table, named: str = "", conversation: str = "", draw: float | None = None
) -> Deployment:
    """The deployment named, else the conversation's, else one drawn; raises NotFoundError.

    `draw` is a number from 0 up to 1.
    """
    where = f"endpoint {table.endpoint.name}"
    if named:
        if named not in table.deployments:
            there = ", ".join(sorted(table.deployments)) or "none"
            raise NotFoundError(f"The {where} has no deployment {named}. There is: {there}.")
        return table.deployments[named]
    shares = {n: s for n, s in table.endpoint.traffic.items() if s and n in table.deployments}
    if not shares:
        raise NotFoundError(
            f"The {where} gives traffic to no deployment. Set its traffic, or name a deployment "
            "in the header azureml-model-deployment."
        )
    if conversation:
        scores = {name: _score(conversation, name, share) for name, share in shares.items()}
        return table.deployments[max(scores, key=lambda name: (scores[name], name))]
    point = (DRAWS.random() if draw is None else draw) * sum(shares.values())
    for name, share in shares.items():
        point -= share
        if point < 0:
            return table.deployments[name]
    return table.deployments[list(shares)[-1]]  # a sum of floats may fall short of the whole


def _score(conversation: str, deployment: str, share: float) -> float:
    text = f"{deployment}\n{conversation}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    number = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -share / math.log(number) if number < 1 else math.inf


def asked_for(table: Table, header: str, model: object) -> str:
    """The deployment that a request names, in its header or as its model; "" for none.

    Raises ModelNotFoundError for a model that is neither the endpoint nor a deployment, and
    FineryError when header and model name two.
    """
    if model is None or model in ("", table.endpoint.name):
        return header
    if not isinstance(model, str) or model not in table.deployments:
        known = ", ".join([table.endpoint.name, *sorted(table.deployments)])
        raise ModelNotFoundError(f"No model is called {model!r} here. There is: {known}.")
    if header and header != model:
        raise FineryError(
            f"The request's model is {model}, its header azureml-model-deployment says {header}. "
            "Name one deployment, or leave one of the two out."
        )
    return model


def mirror(table: Table, draw: float | None = None) -> Deployment | None:
    """The deployment that gets a copy of this request, if one does."""
    for name, share in table.endpoint.mirror_traffic.items():
        point = 100 * (DRAWS.random() if draw is None else draw)
        if point < share and name in table.deployments:
            return table.deployments[name]
    return None
