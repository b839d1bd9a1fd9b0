"""One of the suites talks to a PostgreSQL server."""

from databases import folder, postgres

__all__ = ["folder", "postgres"]
