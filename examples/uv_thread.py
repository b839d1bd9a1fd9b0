"""Threads that wait for each other: a queue of libuv's primitives.

    python examples/uv_thread.py --workers 3 --count 20

The workers take numbers from a queue that holds at most four; the results come back to
the loop, which an Async wakes.
"""

import argparse
import threading

from uvtulip import uv
from uvtulip.uv import thread


class Queue:
    """At most `size` items, put and taken by any thread."""

    def __init__(self, size: int) -> None:
        self.items: list[int | None] = []
        self.mutex = thread.Mutex()
        self.free = thread.Semaphore(size)
        self.filled = thread.Semaphore(0)

    def put(self, item: int | None) -> None:
        self.free.wait()
        with self.mutex:
            self.items.append(item)
        self.filled.post()

    def take(self) -> int | None:
        self.filled.wait()
        with self.mutex:
            item = self.items.pop(0)
        self.free.post()
        return item


def main(workers: int, count: int) -> None:
    loop = uv.Loop()
    queue = Queue(4)
    results: list[tuple[int, int]] = []
    together = thread.Barrier(workers + 1)

    def on_result(handle: uv.Async) -> None:
        if len(results) == count:
            handle.close()

    wakeup = uv.Async(loop, on_result)

    def work() -> None:
        together.wait()  # all begin at once
        while (number := queue.take()) is not None:
            results.append((number, number * number))
            wakeup.send()

    def feed() -> None:
        together.wait()
        for number in range(count):
            queue.put(number)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    threads.append(threading.Thread(target=feed))
    for each in threads:
        each.start()
    loop.run()
    for _ in range(workers):
        queue.put(None)
    for each in threads:
        each.join()
    print(*(square for _, square in sorted(results)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Squares by several threads.")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    main(options.workers, options.count)
