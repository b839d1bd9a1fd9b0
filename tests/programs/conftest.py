"""The tests of this folder talk to real database servers."""

from databases import folder, postgres, redis_server

__all__ = ["folder", "postgres", "redis_server"]
