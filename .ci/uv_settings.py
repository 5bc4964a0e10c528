"""Prints pip's settings as variables of uv, which reads none of pip's: `eval "$(python3 .ci/uv_settings.py)"`.

What has such a variable already is left as it is.
"""

import ast
import os
import shlex
import subprocess
import sys

NAMES = {
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "no-index": "UV_NO_INDEX",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
}
SECTIONS = ("global", "install", ":env:")  # The later one counts.


def settings() -> dict[str, str]:
    """By uv's names."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    given = {}
    for line in listed.stdout.splitlines():  # install.find-links='one\ntwo'
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in SECTIONS and name in NAMES:
            given[SECTIONS.index(section), name] = ast.literal_eval(value).split()
    values = {name: given[order, name] for order, name in sorted(given)}
    joined = {NAMES[name]: ("," if name == "find-links" else " ").join(words) for name, words in values.items()}
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **joined}  # As pip: the newest release, wherever it lies.


for name, value in settings().items():
    if name not in os.environ:
        print(f"export {name}={shlex.quote(value)}")
