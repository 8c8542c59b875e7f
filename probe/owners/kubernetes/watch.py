"""Keeps one kind of objects up to date: a list, then a watch that continues from there.

A watch that ends is resumed at the last version that it received. If the API no longer has that
version (410), or answered strangely, the list is read again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

from probe.owners.api_thread import Listener
from probe.owners.kubernetes.api import ApiError, KubernetesApi
from probe.owners.kubernetes.objects import Named

log = logging.getLogger(__name__)

_GONE = 410
_WATCH_S = 300  # the server ends a watch after this time
#: The server sends its version (BOOKMARK) every minute; without it, the connection may be dead.
SILENCE_S = 90.0
_SHORT_S = 1.0


class Store(Protocol):
    def replace_all(self, found: list[Named]) -> None:
        """Sets all objects that exist."""

    def add(self, one: Named) -> None:
        """Adds an object that is new, or replaces one that has changed."""

    def remove(self, one: Named) -> None: ...


class Watch:
    """Reads a list and follows its changes, in the thread of its ``listener``.

    ``open_api`` makes a new connection for each watch. ``path`` is the list of all objects, and
    ``read`` converts one object. ``selector`` chooses the wanted objects, '' for all. ``page`` is
    the number of objects in an answer; with 0 all come at once, from the API's cache.
    """

    def __init__(
        self,
        what: str,
        open_api: Callable[[], KubernetesApi],
        path: str,
        read: Callable[[dict[str, Any]], Named],
        store: Store,
        selector: str = "",
        page: int = 0,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._what, self._open_api, self._path = what, open_api, path
        self._read, self._store = read, store
        self._selected = {"fieldSelector": selector} if selector else {}
        self._page, self._silence_s = page, silence_s
        self._version = ""
        self._must_be_fresh = False
        self._listed_s = float("-inf")
        self.listener = Listener(f"the Kubernetes API ({what})", self._listen)

    def _listen(self) -> None:
        """Follows one watch, after the list if there is no version yet. Raises any failure."""
        with closing(self._open_api()) as api:
            try:
                if not self._version:
                    self._list(api)
                self._follow(api)  # the next one opens the API again, as token files change
            except ApiError as error:
                self._version = ""
                self._must_be_fresh = error.status == _GONE
                if error.status != _GONE or time.monotonic() - self._listed_s < _SHORT_S:
                    raise
            except (KeyError, TypeError, ValueError, AttributeError):
                self._version = ""
                raise ApiError(0, "an answer that makes no sense") from None

    def _list(self, api: KubernetesApi) -> None:
        found: list[Named] = []
        for answer in self._pages(api):
            found += map(self._read, answer["items"])
            version = str(answer["metadata"]["resourceVersion"])
        self._store.replace_all(found)
        self._version, self._must_be_fresh = version, False
        self._listed_s = time.monotonic()
        log.info("names of %d %s from Kubernetes at %s", len(found), self._what, api.url)
        if not found and self._selected:
            log.warning("Kubernetes knows of no %s: see kubernetes-node", self._what)

    def _pages(self, api: KubernetesApi) -> Iterator[dict[str, Any]]:
        """Yields the answers of a list.

        An answer with all objects comes from the API's cache. It must not after the API refused a
        version as too old.
        """
        if not self._page:
            as_of = {} if self._must_be_fresh else {"resourceVersion": "0"}
            yield api.get(self._path, **self._selected, **as_of)
            return
        begin: dict[str, object] = {**self._selected, "limit": self._page}
        answer = api.get(self._path, **begin)
        yield answer
        while following := answer["metadata"].get("continue"):
            answer = api.get(self._path, **begin, **{"continue": following})
            yield answer

    def _follow(self, api: KubernetesApi) -> None:
        """Follows one watch to its end."""
        began, heard = time.monotonic(), 0
        asked = {
            **self._selected,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_S,
        }
        with closing(api.watch(self._path, self._silence_s, **asked)) as events:
            for event in events:
                if event is None:
                    self.listener.begin()
                    continue
                heard += 1
                self._take(event["type"], event["object"])
                if self.listener.is_closed:
                    return
        if not heard and time.monotonic() - began < _SHORT_S:
            raise ConnectionError("it closes every watch at once")

    def _take(self, kind: str, found: dict[str, Any]) -> None:
        if kind == "ERROR":
            raise ApiError(int(found["code"]), str(found.get("message", "")))
        if kind != "BOOKMARK":
            one = self._read(found)
            if kind == "DELETED":
                self._store.remove(one)
            else:
                self._store.add(one)
        self._version = str(found["metadata"]["resourceVersion"])
