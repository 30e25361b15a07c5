"""The cluster agent: a process of the daemon's that holds the connection to one Ray cluster.

Ray keeps global state, starts threads, and ends the process that it is in when its cluster goes: none of that happens
to the daemon. Run as `python -m daemon.cluster.agent`; it ends with its stdin, or with the daemon.
"""

from __future__ import annotations

import os
import sys
from typing import IO

import msgspec

from daemon.cluster.messages import AgentError, Ask, Reply
from daemon.cluster.ray_calls import RayCalls
from daemon.worker.parent import die_with_parent
from daemon.worker.report import take_stdout


def answer(calls: RayCalls, ask: Ask) -> Reply:
    """Do what was asked; whatever goes wrong becomes the reply."""
    try:
        if ask.op == "connect":
            calls.connect(ask.cluster)
        elif ask.op == "poll":
            return Reply(ask.id, picture=calls.picture(ask.siblings, ask.prefix))
        elif ask.op == "place":
            assert ask.launch is not None
            calls.place(ask.actor, ask.need, ask.launch, ask.siblings)
        elif ask.op == "call":
            return Reply(ask.id, lines=calls.call(ask.actor, ask.method, ask.amount, ask.launch))
        else:
            calls.remove(ask.actor)
    except AgentError as error:
        return Reply(ask.id, error=error.message, hint=error.hint, code=error.code)
    except Exception as error:
        return Reply(ask.id, error=f"{type(error).__name__}: {str(error)[:500]}", code="cluster_failed")
    return Reply(ask.id)


def serve(asks: IO[bytes], replies: IO[bytes]) -> None:
    """Answer line after line until there are no more."""
    calls = RayCalls()
    for line in asks:
        reply = answer(calls, msgspec.json.decode(line, type=Ask))
        replies.write(msgspec.json.encode(reply) + b"\n")
        replies.flush()


def main() -> None:
    replies = take_stdout()
    die_with_parent()
    serve(sys.stdin.buffer, replies)
    sys.stderr.flush()
    # Ray would wait for its threads, and what it runs does not end with this process.
    os._exit(0)


if __name__ == "__main__":
    main()
