"""Work on several threads at once, answered in order.

Note [threads that end]
`ThreadPoolExecutor` ends its threads as soon as the main thread does, also under another thread that still reads
answers; and a daemon's thread that is inside native code when the interpreter goes brings the process down. So these
are daemons that `atexit` waits for: it runs when every thread but daemons is through.

Note [lost iterators]
The garbage collector closes an iterator that was lost on whatever thread it runs, which may hold the very lock that a
lane waits for. There, lanes are only told to end.
"""

import atexit
import gc
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from visdeploy.errors import EngineError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_order(work: Callable[[Item], Answer], items: Iterable[Item], lanes: int, ahead: int) -> Generator[Answer]:
    """Yield `work(item)` for every item, in order, each computed by one of `lanes` threads.

    Items are read by the thread that asks for answers, and no more than `ahead` of them are on their way at a time:
    waiting, at work or answered. A reader that stops asking stops all. Closing, or losing, the iterator drops what
    waits and lasts as long as what is at work.

    Raises:
        Exception: What `work` raised, in its turn; what `items` raised, after every answer before it.
        EngineError: It was begun before this process was forked, so its threads are elsewhere.
    """
    process = os.getpid()
    waiting: deque[Future[Answer]] = deque()
    failure: Exception | None = None
    unread: Iterator[Item] | None = iter(items)
    threads = _Threads(work, lanes)
    try:
        threads.start()
        while True:
            while unread is not None and len(waiting) < ahead:
                try:
                    waiting.append(threads.submit(next(unread)))
                except StopIteration:
                    unread = None
                except Exception as error:
                    unread, failure = None, error
                # Each answer makes room for one item; more are read only while there is nothing to answer, so that one
                # which comes from a camera is not held back until the next ones are there.
                if waiting and waiting[0].done():
                    break
            if not waiting:
                break
            if os.getpid() != process:
                raise EngineError("[predict] the stream was begun before this process was forked; begin it in this one")
            yield waiting.popleft().result()
        if failure is not None:
            raise failure
    finally:
        threads.close()


class _Threads:
    """Take items from a queue until they are told to end; see Note [threads that end]."""

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Any] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, args=(work,), name=f"visdeploy-lane-{index}", daemon=True)
            for index in range(count)
        ]

    def start(self) -> None:
        _open.add(self)
        for thread in self._threads:
            thread.start()

    def submit(self, item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._queue.put((future, item))
        return future

    def close(self) -> None:
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            pass
        for _ in self._threads:
            self._queue.put(None)
        if threading.get_ident() in _collecting:  # see Note [lost iterators]
            return
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()
        _open.discard(self)  # not before: whoever is interrupted here leaves the rest to `atexit`

    def _serve(self, work: Callable[[Any], Any]) -> None:
        while (entry := self._queue.get()) is not None:
            future, item = entry
            try:
                future.set_result(work(item))
            except BaseException as error:  # raised again where the answer is asked for
                future.set_exception(error)
            del entry, future, item  # or what came last stays in memory while this waits
        if all(thread is threading.current_thread() or not thread.is_alive() for thread in self._threads):
            _open.discard(self)


_open: set[_Threads] = set()
_collecting: set[int] = set()


@gc.callbacks.append
def _mark_collector(phase: str, _: dict[str, int]) -> None:
    (_collecting.add if phase == "start" else _collecting.discard)(threading.get_ident())


@atexit.register
def _close_all() -> None:
    for threads in list(_open):
        threads.close()
