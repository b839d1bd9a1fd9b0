"""run(), the policy, install(), and the loop as a loop_factory."""

import asyncio
import sys
import threading
import unittest

import pytest

import uvtulip
from aiosupport import check_script


async def kind():
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop())


def test_run():
    assert uvtulip.run(kind()) is uvtulip.Loop


def test_run_debug():
    async def debug():
        return asyncio.get_running_loop().get_debug()

    assert uvtulip.run(debug(), debug=True) is True
    assert uvtulip.run(debug(), debug=False) is False


def test_run_passes_results_and_errors():
    async def main(error):
        if error:
            raise error
        return 1

    assert uvtulip.run(main(None)) == 1
    with pytest.raises(ZeroDivisionError):
        uvtulip.run(main(ZeroDivisionError()))


def test_run_closes_the_loop():
    async def main():
        return asyncio.get_running_loop()

    assert uvtulip.run(main()).is_closed()


def test_run_refuses_other_loops():
    made = []

    def factory():
        made.append(asyncio.SelectorEventLoop())
        return made[0]

    coro = kind()
    with pytest.raises(TypeError, match="needs a loop of uvtulip"):
        uvtulip.run(coro, loop_factory=factory)
    coro.close()
    assert made[0].is_closed()


def test_run_takes_subclasses():
    class Loop(uvtulip.Loop):
        pass

    assert uvtulip.run(kind(), loop_factory=Loop) is Loop


def test_run_in_a_running_loop():
    async def main():
        coro = kind()
        with pytest.raises(RuntimeError, match="cannot be called from a running"):
            uvtulip.run(coro)
        coro.close()

    uvtulip.run(main())


def test_asyncio_runner():
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        assert runner.run(kind()) is uvtulip.Loop


@pytest.mark.skipif(sys.version_info < (3, 12), reason="came with Python 3.12")
def test_asyncio_run():
    assert asyncio.run(kind(), loop_factory=uvtulip.new_event_loop) is uvtulip.Loop


def test_class_as_a_factory_in_unittest():
    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = uvtulip.Loop

        async def test_it(self):
            self.kind = await kind()

    case = Case("test_it")
    result = case.run()
    assert result.wasSuccessful()
    if sys.version_info >= (3, 13):
        assert case.kind is uvtulip.Loop


def test_loop_is_what_it_should_be():
    loop = uvtulip.new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop.uv_loop, uvtulip.uv.Loop)
    loop.mark = 1
    loop.close()
    assert not loop.is_running()


def test_loops_in_threads():
    kinds = []

    def work():
        kinds.append(uvtulip.run(kind()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds == [uvtulip.Loop] * 4


POLICY = """
import asyncio, warnings
import uvtulip
warnings.simplefilter("ignore" if {quiet} else "error", DeprecationWarning)
"""

quiet = sys.version_info >= (3, 14)  # set_event_loop_policy() itself warns there.
policies = pytest.mark.skipif(sys.version_info >= (3, 16), reason="no policies there")


@policies
def test_policy():
    check_script(
        POLICY.format(quiet=quiet)
        + """
asyncio.set_event_loop_policy(uvtulip.EventLoopPolicy())
async def main():
    return type(asyncio.get_running_loop())
assert asyncio.run(main()) is uvtulip.Loop
loop = asyncio.new_event_loop()
assert type(loop) is uvtulip.Loop
asyncio.set_event_loop(loop)
assert asyncio.get_event_loop() is loop
loop.close()
"""
    )


@policies
def test_install():
    check_script(
        POLICY.format(quiet=False)
        + """
uvtulip.install()
async def main():
    return type(asyncio.get_running_loop())
assert asyncio.run(main()) is uvtulip.Loop
with asyncio.Runner() as runner:
    assert runner.run(main()) is uvtulip.Loop
"""
    )


@policies
def test_each_thread_has_its_own_loop():
    check_script(
        POLICY.format(quiet=quiet)
        + """
import threading
uvtulip.install()
def work():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    assert asyncio.get_event_loop() is loop
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    )


@pytest.mark.parametrize("where", ["options", "environment"])
def test_debug_mode_of_the_interpreter(where):
    source = """
        import uvtulip
        loop = uvtulip.new_event_loop()
        print(loop.get_debug())
        loop.close()
    """
    if where == "options":
        assert check_script(source, "-X", "dev") == "True\n"
    else:
        env = {"PYTHONASYNCIODEBUG": "1"}
        assert check_script(source, env=env) == "True\n"
        assert check_script(source, env={"PYTHONASYNCIODEBUG": ""}) == "False\n"


def test_warns_only_where_asyncio_does():
    check_script(
        """
        import asyncio, uvtulip
        policy = uvtulip.EventLoopPolicy()
        loop = policy.new_event_loop()
        policy.set_event_loop(loop)
        assert policy.get_event_loop() is loop
        policy.set_event_loop(None)
        loop.close()
        uvtulip.install()
        async def main():
            assert type(asyncio.get_running_loop()) is uvtulip.Loop
        asyncio.run(main())
        uvtulip.run(main())
        """,
        *("-W", "error"),
    )
