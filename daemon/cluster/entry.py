"""Whether a Ray cluster may be used: there is a token for it, and it refuses whoever has none.

Ray runs any code that it is sent. Its token authentication is off unless its owner turns it on, so a cluster that lets
a stranger in is not used: it would run a stranger's code beside the models, and tell it the join tokens.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from daemon.cluster.messages import AgentError

CLIENT_PORT = 10001
_CONNECT_S = 5.0
_CLIENT_METHOD = "/ray.rpc.RayletDriver/ClusterInfo"
_HEAD_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_TOKEN_HELP = (
    "`ray get-auth-token --generate` makes one; every node and this machine need the same in ~/.ray/auth_token, and "
    "every node is started with RAY_AUTH_MODE=token."
)


def head_of(cluster: str, environ: Mapping[str, str], found: str = "") -> str:
    """Ray's own address for what was given: `HOST:PORT` of a cluster that this machine is a node of, or `ray://HOST:PORT`.

    Args:
        found: what Ray itself knows of a node that runs on this machine.

    Raises:
        AgentError: nothing says where the cluster is.
    """
    if cluster == "ray":
        address = environ.get("RAY_ADDRESS", "") or found
        if not address or address in ("auto", "local"):
            raise AgentError(
                "No node of a Ray cluster runs on this machine, and nothing says where one is.",
                hint="Start a node here: `ray start --address=HEAD:6379`; or name the head: `--on ray://HEAD`.",
                code="no_cluster",
            )
        if not address.startswith("ray://"):
            return address
        cluster = address
    try:
        parts = urlsplit(cluster)
        host, port = parts.hostname, parts.port or CLIENT_PORT
    except ValueError:
        host, port = None, 0
    if not host:
        raise AgentError(f"'{cluster[:200]}' is not a cluster's address: it is like ray://HEAD:{CLIENT_PORT}.")
    return f"ray://[{host}]:{port}" if ":" in host else f"ray://{host}:{port}"


def own_token(environ: Mapping[str, str], home: Path) -> str:
    """Ray's token, from where Ray looks for it.

    Raises:
        AgentError: there is none.
    """
    if environ.get("RAY_AUTH_TOKEN", "").strip():
        return environ["RAY_AUTH_TOKEN"].strip()
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH", "") or home / ".ray" / "auth_token")
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError:
        token = ""
    if not token:
        raise AgentError(
            f"There is no token for the Ray cluster: neither RAY_AUTH_TOKEN nor {path} holds one.",
            hint=_TOKEN_HELP,
            code="no_ray_token",
        )
    return token


def check_door(address: str, token: str) -> None:
    """Knock with the token and with a made-up one.

    Raises:
        AgentError: nothing answers, the token is not the cluster's, or the cluster asks for none.
    """
    where = address.removeprefix("ray://")
    _check_listens(where)
    method = _CLIENT_METHOD if address.startswith("ray://") else _HEAD_METHOD
    if not _lets_in(where, method, token):
        raise AgentError(
            f"The Ray cluster at {where} does not take the token of this machine.", hint=_TOKEN_HELP, code="ray_token"
        )
    if _lets_in(where, method, secrets.token_hex(32)):
        raise AgentError(
            f"The Ray cluster at {where} asks for no token: whoever reaches it can run programs on its nodes.",
            hint=f"Start its nodes with token authentication. {_TOKEN_HELP}",
            code="open_cluster",
        )


def _check_listens(where: str) -> None:
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise AgentError(
            f"Nothing answers for a Ray cluster at {where}: {error}.",
            hint="Check that its head runs (`ray start --head`), the address, and the firewall.",
            code="cluster_unreachable",
        ) from None


def _lets_in(where: str, method: str, token: str) -> bool:
    """Whether a call with this token is answered otherwise than with a refusal of the token."""
    import grpc

    with grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(method)
        try:
            call(b"", timeout=_CONNECT_S, metadata=[("authorization", f"Bearer {token}")])
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.UNAUTHENTICATED:
                return False
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise AgentError(
                    f"The Ray cluster at {where} does not answer: {error.details()}.", code="cluster_unreachable"
                ) from None
        return True


def use_token(token: str) -> None:
    """Make Ray, which is imported after this, show the token."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token
