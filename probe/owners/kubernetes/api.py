"""Speaks with the Kubernetes API: GET, lists and watches, with the credentials that it finds.

The package ``kubernetes`` provides configuration and authentication. Its models are not loaded:
they take 20 MB, and the probe reads few fields of an object.
"""

from __future__ import annotations

import importlib
import json
import os
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_MOST_OCTETS = 256 << 20  # of an answer; 500 usual Pods take 5 MB
_MOST_LINE_OCTETS = 16 << 20
_PART_OCTETS = 65536


class ApiError(Exception):
    """Raised for an answer other than the expected one; ``status`` is of HTTP, 0 for garbage."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}" if status else text)
        self.status = status


class KubernetesApi:
    """A connection to the API.

    ``kubeconfig`` is a file, or '' for the credentials of the Pod in which the probe runs. Each
    object reads them anew, so a new one uses a token that was rotated.
    """

    def __init__(self, kubeconfig: str, answer_s: float) -> None:
        # imported by name, because only some versions of the package are typed
        client, config, rest = (
            importlib.import_module(f"kubernetes.{name}")
            for name in ("client", "config", "client.rest")
        )
        settings: Any = client.Configuration()
        if kubeconfig:
            path = os.path.expanduser(kubeconfig)
            config.load_kube_config(path, client_configuration=settings, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=settings)
        self._settings, self._answer_s = settings, answer_s
        self._rest: Any = rest.RESTClientObject(settings)
        self._rest.pool_manager.connection_pool_kw["ssl_context"] = _tls_context(settings)
        self.url = str(settings.host)

    def get(self, path: str, **parameters: object) -> dict[str, Any]:
        """Returns the answer. Raises ApiError, or the exception of a failed connection."""
        response = self._request(path, parameters, self._answer_s)
        try:
            octets = response.read(_MOST_OCTETS)
        finally:
            response.close()
        return _decode(octets)

    def watch(
        self, path: str, silence_s: float, **parameters: object
    ) -> Generator[dict[str, Any] | None]:
        """Yields None as soon as the watch is open, then events until either side closes it.

        It also ends after ``silence_s`` without events.
        """
        from urllib3.exceptions import ReadTimeoutError

        response = self._request(path, {**parameters, "watch": "true"}, silence_s)
        rest = b""
        try:
            yield None
            for part in response.stream(_PART_OCTETS):
                *lines, rest = (rest + part).split(b"\n")
                yield from (_decode(line) for line in lines if line)
                if len(rest) > _MOST_LINE_OCTETS:
                    raise ApiError(0, "an event of endless length")
        except ReadTimeoutError:
            return
        finally:
            response.close()
            self.close()  # the server may close the connection soon: the next watch opens its own

    def close(self) -> None:
        self._rest.pool_manager.clear()

    def _request(self, path: str, parameters: dict[str, object], read_s: float) -> Any:
        from urllib3 import Timeout

        headers = {"Accept": "application/json", "User-Agent": "sockflow"}
        for found in self._settings.auth_settings().values():
            if found["in"] == "header":
                headers[found["key"]] = found["value"]
        response = self._rest.pool_manager.request(
            "GET",
            f"{self.url}{path}?{urlencode(parameters)}",
            headers=headers,
            timeout=Timeout(connect=self._answer_s, read=read_s),
            retries=False,
            preload_content=False,
        )
        if response.status != 200:
            octets = response.read(_PART_OCTETS)
            response.close()
            raise ApiError(response.status, _message(octets) or str(response.reason))
        return response


def _tls_context(settings: Any) -> ssl.SSLContext:
    """Returns a context that trusts and checks names and dates as kubectl does.

    By default Python 3.13 also requires the form of RFC 5280. The authorities of many clusters,
    also of managed ones, lack an Authority Key Identifier and would be refused for that alone.
    """
    urllib3_ssl = importlib.import_module("urllib3.util.ssl_")
    required = ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE
    context: ssl.SSLContext = urllib3_ssl.create_urllib3_context(cert_reqs=required)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not (settings.ssl_ca_cert or getattr(settings, "ca_cert_data", None)):
        context.load_default_certs()
    return context


def _decode(octets: bytes) -> dict[str, Any]:
    try:
        found = json.loads(octets)
    except ValueError:
        raise ApiError(0, "an answer that is not JSON") from None
    if not isinstance(found, dict):
        raise ApiError(0, "an answer that is no object")
    return found


def _message(octets: bytes) -> str:
    """Returns the message of a Status object, '' if there is none."""
    try:
        return str(json.loads(octets)["message"])
    except (ValueError, KeyError, TypeError):
        return ""
