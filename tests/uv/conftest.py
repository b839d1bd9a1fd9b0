"""Fixtures of the tests of raw handles."""

import gc

import pytest

import limits
from uvtulip import _uv, uv


class CheckedLoop(uv.Loop):
    """A loop that keeps what its callbacks raise, for run_checked()."""

    def __init__(self):
        super().__init__()
        self.raised = []

    def excepthook(self, kind, value, traceback):
        self.raised.append(value)
        self.stop()

    def run_checked(self, seconds=limits.WAIT):
        """Run until nothing is left; raise what a callback raised, or
        TimeoutError when it takes too long."""
        late = []

        def on_timeout(timer):
            late.append(True)
            self.stop()

        timer = uv.Timer(self)
        timer.start(on_timeout, seconds, 0)
        timer.ref = False
        self.run()
        if not timer.closed:
            timer.close()
            del timer
            self.run(uv.UV_RUN_NOWAIT)
        if self.raised:
            raise self.raised.pop(0)
        if late:
            raise TimeoutError(f"still open: {self.handles}")


@pytest.fixture
def loop():
    """A CheckedLoop; whatever a test leaves open is closed after it."""
    loop = CheckedLoop()
    yield loop
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    loop.run(uv.UV_RUN_NOWAIT)
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == []
    loop.close()
    gc.collect()


@pytest.fixture(params=["openssl", "memory-bio"])
def raw_tls_backend(request):
    """TLS handles with each backend."""
    before = _uv._tls_backend(None)
    assert _uv._tls_backend(request.param == "memory-bio") == request.param
    yield request.param
    _uv._tls_backend(before == "memory-bio")
