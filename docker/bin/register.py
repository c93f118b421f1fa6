"""Register the public keys of a folder with a SuperLink: only sites whose key it knows may take part.

register.py CONNECTION FOLDER      every *.pub in FOLDER; a key that is known already is fine
"""

import json
import subprocess
import sys
from pathlib import Path

KNOWN = "already in use"


def register(key: Path, connection: str) -> str:
    """What came of it, in words. Raises ``RuntimeError`` with Flower's reason if the SuperLink refuses."""
    command = ["flwr", "supernode", "register", str(key), connection, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    if KNOWN in said:
        return "was registered before"
    try:
        return f"registered as node {json.loads(done.stdout)['node-id']}"
    except (ValueError, KeyError):
        raise RuntimeError(f"{key.name}: the SuperLink did not register it: {said}") from None


def main(connection: str, folder: str) -> int:
    """Register all keys; exit code 1 with a line at the first that is refused."""
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
