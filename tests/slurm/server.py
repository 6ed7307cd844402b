"""Stands in for ``trl vllm-serve``: it speaks the health endpoint and nothing else. It does not generate."""

from __future__ import annotations

import argparse
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--tensor_parallel_size", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    print(f"stand-in server for {options.model}, GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}", flush=True)
    time.sleep(0.5)  # weights take a while
    if seconds := os.environ.get("STAND_IN_DIES_AFTER"):
        threading.Timer(float(seconds), lambda: os._exit(9)).start()
    HTTPServer(("127.0.0.1" if options.host != "0.0.0.0" else "", options.port), Health).serve_forever()


if __name__ == "__main__":
    main()
