"""Files read by threads of the pool: the sizes of a folder's files, largest first.

    python examples/uv_fs.py /usr/lib --count 5

scandir() and stat() with a callback do not block the loop; without one they block
only the thread that calls them.
"""

import argparse
import os

from uvtulip import uv
from uvtulip.uv import fs


class Walk:
    """Looks at all files below a folder."""

    def __init__(self, loop: uv.Loop, folder: str) -> None:
        self.loop = loop
        self.sizes: list[tuple[int, str]] = []
        self.failed = 0
        self.scan(folder)

    def scan(self, folder: str) -> None:
        fs.scandir(self.loop, folder, self.on_scanned)

    def on_scanned(self, request: fs.FSRequest) -> None:
        if request.error is not None:
            self.failed += 1
            return
        for entry in request.result:
            path = os.path.join(request.path, entry.name)
            if entry.type == fs.UV_DIRENT_DIR:
                self.scan(path)
            elif entry.type == fs.UV_DIRENT_FILE:
                fs.lstat(self.loop, path, self.on_stat)

    def on_stat(self, request: fs.FSRequest) -> None:
        if request.error is not None:
            self.failed += 1
        else:
            self.sizes.append((request.result.st_size, request.path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The largest files of a folder.")
    parser.add_argument("folder", nargs="?", default=".")
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    loop = uv.Loop()
    try:
        folder = fs.realpath(loop, options.folder)
    except uv.error.FSError as exc:
        parser.exit(1, f"{options.folder}: {exc}\n")
    walk = Walk(loop, folder)
    loop.run()
    for size, path in sorted(walk.sizes, reverse=True)[: options.count]:
        print(f"{size:12,} {path}")
    print(f"{len(walk.sizes)} files, {walk.failed} could not be looked at")
