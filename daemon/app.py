"""Builds the daemon's Sanic app from its parts; nothing else."""

from __future__ import annotations

from daemon.arena.arena import Arena
from daemon.arena.openai import ArenaModels
from daemon.arena.routes import arena_routes
from daemon.chats.chats import Chats
from daemon.chats.routes import chat_routes
from daemon.context import DaemonContext
from daemon.gateway.front import Front
from daemon.gateway.relays import Relays
from daemon.gateway.routes import gateway_routes
from daemon.routes.access import access_routes
from daemon.routes.describe import describe_routes
from daemon.routes.status import status_routes
from daemon.server import DaemonApp, new_app


def build_app(context: DaemonContext) -> DaemonApp:
    """Every route that the daemon answers."""
    app = new_app(context)
    app.blueprint(status_routes(context))
    app.blueprint(access_routes(context))
    app.blueprint(describe_routes(context))
    arena = Arena(context)
    context.closers.append(arena.close)
    special = ArenaModels(context, arena)
    relays = Relays(context)
    app.blueprint(gateway_routes(context, relays, special))
    app.ctx.front = Front(context, relays, special)
    app.blueprint(arena_routes(context, arena))
    chats = Chats(context, special)
    context.closers.append(chats.close)
    app.blueprint(chat_routes(context, chats))
    for blueprint in context.controller.blueprints(context):
        app.blueprint(blueprint)
    return app
