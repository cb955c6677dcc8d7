"""An S3 server in a process of its own, which says what it was asked and can be told to fail for a while.

    python s3_server.py PORT        GET /-/asked: what was asked since the last time; POST /-/fail: see `Watched`

The store itself is moto's: its answers are Amazon's, it keeps everything in memory, and it believes any signature.
"""

import json
import re
import sys
import threading
import time
import urllib.request

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDOFTHETESTS", "AWS_SECRET_ACCESS_KEY": "hunter2/of+the+tests"}
ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'


class Watched:
    """Passes requests on, notes them, and lets some fail.

    `{"status": 503, "code": "SlowDown", "seconds": 3, "after": 20, "hang": 0.5, "match": "PUT|POST"}`: from the
    twentieth such request on, for three seconds, each waits half a second and is answered with the status; without a
    status it is carried out after the wait.
    """

    def __init__(self, app):
        self._app, self._lock = app, threading.Lock()
        self._asked, self._fault = [], {}

    def __call__(self, environ, start_response):
        what = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        if environ["PATH_INFO"].startswith("/-/"):
            return [self._told(environ, start_response)]
        with self._lock:
            self._asked.append(what)
            fault = dict(self._fault) if self._fails(what) else {}
        time.sleep(fault.get("hang", 0))
        if "status" in fault:
            body = ERROR.format(fault["code"], "as told").encode()
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response(f"{fault['status']} {fault['code']}", headers)
            return [body]
        return self._app(environ, start_response)

    def _fails(self, what):
        fault = self._fault
        if not fault or not re.search(fault.get("match", ""), what):
            return False
        fault["after"] = fault.get("after", 0) - 1
        if fault["after"] >= 0:
            return False
        fault.setdefault("until", time.monotonic() + fault.get("seconds", 1e9))
        return time.monotonic() < fault["until"]

    def _told(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        with self._lock:
            if environ["PATH_INFO"] == "/-/fail":
                self._fault = json.loads(environ["wsgi.input"].read(length))
            asked, self._asked = self._asked, []
        start_response("200 OK", [("Content-Type", "application/json")])
        return json.dumps(asked).encode()


class Server:
    """What a test sees of it.

    Attributes:
        bucket: the test's own.
    """

    def __init__(self, port: int) -> None:
        self.endpoint, self.bucket = f"http://127.0.0.1:{port}", ""

    def begin(self, test: str) -> None:
        """Make a bucket for a test; forget what was asked, and how to fail."""
        self.fail()
        self.bucket = re.sub("[^a-z0-9]+", "-", test)[:40].strip("-")
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{self.bucket}", method="PUT")).close()
        self.asked()

    def asked(self) -> list[str]:
        """Return what was asked since the last time, as `PUT /bucket/name?query`."""
        with urllib.request.urlopen(f"{self.endpoint}/-/asked") as answer:
            return json.load(answer)

    def fail(self, **fault: float | str) -> None:
        """Let requests fail (see `Watched`); none, without arguments."""
        request = urllib.request.Request(f"{self.endpoint}/-/fail", json.dumps(fault).encode(), method="POST")
        urllib.request.urlopen(request).close()


def main(port):
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    app = Watched(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
