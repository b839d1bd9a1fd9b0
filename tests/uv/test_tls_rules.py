"""uv.TLS: what may be done with it, and who keeps it."""

import gc
import ssl
import threading
import weakref

import pytest

from rawtls import connected, ends, run_until, streams
from tlssupport import client_context, server_context
from uvtulip import uv

pytestmark = pytest.mark.usefixtures("raw_tls_backend")

EOF = uv.errno.UV_EOF


# ---- rules ----


def test_stream_is_taken(loop):
    one, two = streams(loop)
    tls = uv.TLS(one, server_context(), True)
    for call in (lambda: one.start_read(print), lambda: one.write(b"x"),
                 lambda: one.shutdown(), lambda: one.try_write(b"x"),
                 lambda: uv.TLS(one, server_context(), True)):
        with pytest.raises(RuntimeError, match="belongs to a transport, a TLS"):
            call()
    two.start_read(print)
    with pytest.raises(RuntimeError, match="active"):
        uv.TLS(two, client_context(), server_hostname="localhost")
    with pytest.raises(RuntimeError, match="already"):
        tls.__init__(one, server_context(), True)


def test_wrong_streams(loop):
    context = server_context()
    for args in ((), (1, context), (loop, context), (uv.Timer(loop), context)):
        with pytest.raises(TypeError):
            uv.TLS(*args)
    with pytest.raises(uv.error.TLSError) as info:
        uv.TLS(uv.TCP(loop), context)
    assert info.value.name == "ENOTCONN"
    listener = uv.TCP(loop)
    listener.bind(("127.0.0.1", 0))
    listener.listen(print)
    with pytest.raises(uv.error.TLSError) as info:
        uv.TLS(listener, context)
    assert info.value.name == "EINVAL"
    listener.close()
    with pytest.raises(uv.error.HandleClosedError):
        uv.TLS(listener, context)
    with pytest.raises(RuntimeError, match="not initialised"):
        uv.TLS(uv.TCP.__new__(uv.TCP), context)


def test_wrong_contexts(loop):
    one, _ = streams(loop)
    for context in (None, 1, ssl.SSLContext, object()):
        with pytest.raises(TypeError):
            uv.TLS(one, context)
    with pytest.raises(ValueError, match="hostname"):
        uv.TLS(one, client_context())
    with pytest.raises((ValueError, TypeError)):
        uv.TLS(one, client_context(), session=1, server_hostname="localhost")
    with pytest.raises(ssl.SSLError):
        uv.TLS(one, server_context(), server_hostname="localhost")
    # Nothing of this has taken the stream.
    one.write(b"x")


class Greedy(ssl.SSLContext):
    """Does something in the middle of __init__."""

    action = None

    def wrap_bio(self, *args, **kwargs):
        result = super().wrap_bio(*args, **kwargs)
        if self.action is not None:
            action, self.action = self.action, None
            action()
        return result


def test_init_in_init(loop):
    context = Greedy(ssl.PROTOCOL_TLS_SERVER)
    one, two = streams(loop)
    tls = uv.TLS.__new__(uv.TLS)
    context.action = lambda: tls.__init__(one, context, True)
    with pytest.raises(RuntimeError, match="already"):
        tls.__init__(one, context, True)
    context.action = two.close
    with pytest.raises(uv.error.HandleClosedError):
        uv.TLS(two, context, True)


def test_buffers_that_close(loop):
    server, client = ends(loop)
    connected(loop, server, client)

    class Closing(list):
        def __iter__(self):
            client.tls.close()
            return iter([b"x"])

    with pytest.raises(uv.error.HandleClosedError):
        client.tls.write(Closing([b"x"]))


def test_not_before_the_handshake(loop):
    one, _ = streams(loop)
    tls = uv.TLS(one, server_context(), True)
    assert not tls.active and tls.write_queue_size == 0
    assert tls.version() is None and tls.cipher() is None
    with pytest.raises(ValueError):
        tls.getpeercert()
    for call in (lambda: tls.write(b"x"), lambda: tls.start_read(print), tls.shutdown,
                 lambda: tls.try_write(b"x")):
        with pytest.raises(uv.error.TLSError) as info:
            call()
        assert info.value.name == "ENOTCONN" and info.value.call.startswith("TLS.")
    tls.stop_read()


def test_after_shutdown(loop):
    server, client = ends(loop)
    connected(loop, server, client)
    client.tls.shutdown()
    with pytest.raises(uv.error.TLSError) as info:
        client.tls.write(b"x")
    assert info.value.name == "EPIPE"
    with pytest.raises(uv.error.TLSError) as info:
        client.tls.shutdown()
    assert info.value.name == "ENOTCONN"


def test_another_thread(loop):
    server, client = ends(loop)
    refused = []

    def other():
        for call in (lambda: client.tls.write(b"x"), client.tls.close,
                     client.tls.version, client.tls.stop_read):
            try:
                call()
            except RuntimeError as error:
                refused.append("another thread" in str(error))

    def on_timer(timer):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)

    uv.Timer(loop).start(on_timer, 0)
    run_until(loop, lambda: refused)
    assert refused == [True] * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_out_of_a_callback(error):
    loop = uv.Loop()
    loop.raised = []
    server, client = ends(loop, read=False)
    connected(loop, server, client)

    def on_read(tls, data, errorno):
        raise error("out")

    server.tls.start_read(on_read)
    client.tls.write(b"x")
    with pytest.raises(error, match="out"):
        loop.run()
    client.tls.close()
    server.tls.close()
    loop.run()
    loop.close()


def test_ref(loop):
    one, two = streams(loop)
    tls = uv.TLS(one, server_context(), True)
    tls.handshake(print)
    tls.ref = False
    assert not tls.ref and not one.ref
    assert loop.run() is False
    tls.ref = True
    assert one.ref


# ---- references ----


def test_dropped_while_idle(loop):
    one, two = streams(loop)
    ref = weakref.ref(uv.TLS(one, server_context(), True))
    assert ref() is not None        # the stream keeps it
    del one
    gc.collect()
    assert ref() is None
    told = []
    two.start_read(lambda two, data, error: told.append(error))
    run_until(loop, lambda: told)
    assert told == [EOF]


def test_dropped_after_the_handshake(loop):
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    ref = weakref.ref(client.tls)
    del client
    gc.collect()
    assert ref() is None
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: len(server.events) == 2)
    # It had not read the server's tickets.
    assert server.events[1] == ("end", uv.errno.UV_ECONNRESET)


def test_dropped_while_busy(loop):
    """The loop keeps what has something to do."""
    server, client = ends(loop)
    connected(loop, server, client)
    events = client.events
    client.tls.write(bytes(3_000_000), client.done("written"))
    ref = weakref.ref(client.tls)
    del client
    gc.collect()
    run_until(loop, lambda: len(events) == 2)
    assert ref() is not None and len(server.data) == 3_000_000


def test_dropped_with_its_loop():
    def drop():
        loop = uv.Loop()
        loop.raised = []
        server, client = ends(loop, read=False)
        connected(loop, server, client)
        client.tls.write(bytes(3_000_000), client.done("written"))
        server.tls.start_read(lambda *args: loop)
        return [weakref.ref(each) for each in (loop, server.tls, client.tls)]

    refs = drop()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_attributes_and_subclasses(loop):
    class Mine(uv.TLS):
        def __init__(self, *args):
            super().__init__(*args)
            self.more = 1

    one, _ = streams(loop)
    tls = Mine(one, server_context(), True)
    tls.other = 2
    assert (tls.more, tls.other) == (1, 2)
    with pytest.raises(TypeError):
        uv.TLS.write = None
