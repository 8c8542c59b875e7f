"""One kind of object, kept up to date: a list, then a watch that goes on from there.

A watch that ends is resumed at the version that it had come to. If the API does not have that any
more (410), or has answered strangely, the list is read again.
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
_WATCH_S = 300  # the server ends a watch by then
#: It tells at which version it is (BOOKMARK) every minute; without, it may be gone unnoticed.
SILENCE_S = 90.0
_SHORT_S = 1.0


class Store(Protocol):
    def replace_all(self, found: list[Named]) -> None:
        """These are all."""

    def add(self, one: Named) -> None:
        """It is new, or has changed."""

    def remove(self, one: Named) -> None: ...


class Watch:
    """``open_api`` makes the connection, anew after each failure; ``path``: the list of all
    objects, ``read``: of what the API tells of one; ``selector``: those that are wanted, '' for
    all; ``page``: objects in an answer, 0: all of them at once, from the API's cache.
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
        """Until the watch is silent for long or closed; raises whatever goes wrong."""
        with closing(self._open_api()) as api:
            try:
                if not self._version:
                    self._list(api)
                self._follow(api)  # the next one opens the API anew: tokens change in their files
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
        """All at once come from the API's cache; what was refused as too old must not again."""
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
        """One watch, to its end."""
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
