"""asyncpg, psycopg and redis-py against real servers."""

import asyncio

import asyncpg
import psycopg
import pytest
import redis.asyncio

from aiosupport import run


@pytest.fixture(params=["tcp", "unix"])
def host(request, postgres):
    return "127.0.0.1" if request.param == "tcp" else str(postgres.folder)


def test_asyncpg(postgres, host):
    async def main():
        pool = await asyncpg.create_pool(
            host=host,
            port=postgres.port,
            user="tulip",
            password="tulip",
            database="tulip",
            min_size=4,
            max_size=4,
            ssl=False,
        )
        async with pool:
            async with pool.acquire() as connection:
                await connection.execute("drop table if exists t")
                await connection.execute("create table t (n int, b bytea)")
                await connection.copy_records_to_table(
                    "t", records=[(n, bytes([n % 256]) * 1000) for n in range(5000)]
                )
                heard = asyncio.get_running_loop().create_future()

                def listener(*args):
                    heard.set_result(args[-1])

                await connection.add_listener("news", listener)
                await pool.execute("notify news, 'tulip'")
                assert await heard == "tulip"
                await connection.remove_listener("news", listener)
            sums = await asyncio.gather(
                *(
                    pool.fetchval("select sum(n) from t where n % $1 = 0", k)
                    for k in range(1, 41)
                )
            )
            assert sums == [sum(range(0, 5000, k)) for k in range(1, 41)]
            rows = await pool.fetch("select n, b from t order by n")
            assert [len(row["b"]) for row in rows] == [1000] * 5000
            with pytest.raises(asyncpg.DivisionByZeroError):
                await pool.fetchval("select 1 / 0")
            with pytest.raises(TimeoutError):
                await pool.fetchval("select pg_sleep(20)", timeout=0.05)
            assert await pool.fetchval("select 1") == 1

    run(main())


def test_psycopg(postgres, host):
    """It waits by add_reader() and add_writer() on libpq's own descriptor."""

    async def main():
        conninfo = f"host={host} port={postgres.port} user=tulip password=tulip"
        async with await psycopg.AsyncConnection.connect(
            f"{conninfo} dbname=tulip sslmode=disable"
        ) as connection:
            cursor = await connection.execute("select generate_series(1, 20000)")
            assert sum([row[0] async for row in cursor]) == 200010000
            async with connection.cursor() as cursor:
                await cursor.execute("create temporary table c (n int, t text)")
                async with cursor.copy("copy c from stdin") as copy:
                    for n in range(10000):
                        await copy.write_row((n, "x" * 100))
                await cursor.execute("select count(*), sum(length(t)) from c")
                assert await cursor.fetchone() == (10000, 1000000)
            with pytest.raises(psycopg.errors.DivisionByZero):
                await connection.execute("select 1 / 0")
            await connection.rollback()
            task = asyncio.create_task(connection.execute("select pg_sleep(20)"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_redis(redis_server, kind):
    async def main():
        where = (
            {"port": redis_server.port}
            if kind == "tcp"
            else {"unix_socket_path": str(redis_server.folder / "socket")}
        )
        async with redis.asyncio.Redis(**where) as client:
            await client.flushall()
            await asyncio.gather(*(client.incrby("n", k) for k in range(50)))
            assert int(await client.get("n")) == sum(range(50))
            big = bytes(range(256)) * 8192
            await client.set("big", big)
            assert await client.get("big") == big
            async with client.pipeline(transaction=True) as pipe:
                for n in range(1000):
                    pipe.rpush("list", n)
                lengths = await pipe.execute()
            assert lengths == list(range(1, 1001))
            async with client.pubsub() as pubsub:
                await pubsub.subscribe("news")
                assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
                await client.publish("news", "tulip")
                message = await pubsub.get_message(timeout=5)
                assert message["data"] == b"tulip"
            with pytest.raises(redis.exceptions.ResponseError):
                await client.incr("big")

    run(main())
