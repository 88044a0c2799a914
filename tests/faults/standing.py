"""Files that are damaged, and put right again as quickly as can be: only what has changed is written anew."""

import os
import shutil
import stat
from pathlib import Path


class Stood:
    """A folder that should be as another one is."""

    def __init__(self, whole, place):
        self.whole, self.place, self.known = whole, place, {}

    def learn(self, parts):
        """Take what is there now as right."""
        for part in parts:
            self.known[part] = dict(_entries(self.place / part))

    def restore(self, *parts):
        """Put parts right: what differs by kind, size, inode or time is copied, what is new goes."""
        shutil.rmtree(self.place / "new", ignore_errors=True)
        for part in parts:
            now, right = dict(_entries(self.place / part)), self.known[part]
            for path in sorted(now.keys() - right.keys(), reverse=True):
                _remove(Path(path))
            for path in [path for path in right if now.get(path) != right[path]]:
                right[path] = self._copied(Path(path))

    def _copied(self, path):
        """Copy a file, or make a folder, as it should be; return its state."""
        source = self.whole / path.relative_to(self.place)
        _remove(path)
        if source.is_dir():
            path.mkdir()
        else:
            shutil.copy2(source, path)
        return _state(path.lstat())


def _entries(folder):
    """Yield the paths below a folder and its own, folders before what is in them, and their states."""
    yield str(folder), _state(os.lstat(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)
            else:
                yield entry.path, _state(entry.stat(follow_symlinks=False))


def _state(found):
    """Return what tells a file that was not touched; of a folder only that it is one."""
    if stat.S_ISDIR(found.st_mode):
        return "folder"
    return found.st_mode, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
