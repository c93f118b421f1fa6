"""Register the public keys in a folder with a SuperLink. Only sites with a registered key can take part.

register.py CONNECTION FOLDER      every *.pub in FOLDER; keys that are registered already are skipped
"""

import json
import subprocess
import sys
from pathlib import Path

KNOWN = "already in use"


def register(key: Path, connection: str) -> str:
    """Register one key; return the outcome. Raises ``RuntimeError`` if the SuperLink refuses it."""
    command = ["flwr", "supernode", "register", str(key), connection, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = " ".join((done.stdout + done.stderr).split())
    if KNOWN in output:
        return "was registered before"
    try:
        return f"registered as node {json.loads(done.stdout)['node-id']}"
    except (ValueError, KeyError):
        raise RuntimeError(f"{key.name}: the SuperLink did not register it: {output}") from None


def main(connection: str, folder: str) -> int:
    """Register all keys; exit code 1 and a message at the first that is refused."""
    keys = sorted(Path(folder).glob("*.pub"))
    if not keys:
        print(f"register: expected public keys (*.pub) in {folder}, found none", file=sys.stderr)
        return 1
    for key in keys:
        try:
            print(f"{key.stem}: {register(key, connection)}")
        except RuntimeError as error:
            print(f"register: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
