# Sourced by .ci/run and .ci/nightly: a fresh virtual environment, installed by the README's own test line, and the checks
# that run no tests. Needs bash and Python 3.11, 3.12 or 3.13 (PYTHON=... chooses one); leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export OMP_NUM_THREADS=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 RAY_USAGE_STATS_ENABLED=0
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 MPLBACKEND=Agg
export PIP_NO_COMPILE=1 # most of the installed modules are never imported
export FEDRECON_CI=1 # the whole extra [dev] is installed: a test that needs a tracker's package fails without it

heading() { printf '\n==> %s\n' "$*"; }
fail() { printf '%s: %s\n' "$0" "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

install() {
    # The line in README.md that installs for development and runs the tests: "<install> && pytest".
    local test_line install_line python
    test_line="$(grep -m 1 -E '^[[:space:]]*python -m pip install .*\[dev\].* && pytest[[:space:]]*$' README.md 2>/dev/null)" ||
        fail 'README.md holds no line of the form: python -m pip install ... ".[dev]" && pytest'
    install_line="${test_line% && pytest*}"
    python="$(find_python)" || fail "found no Python 3.11, 3.12 or 3.13 (tried: ${PYTHON:-python3.11, python3, python3.12, python3.13})"

    scratch="$(mktemp -d)"
    trap 'rm -rf "$scratch"' EXIT

    heading "virtual environment with $("$python" --version)"
    "$python" -m venv "$scratch/venv"
    export VIRTUAL_ENV="$scratch/venv" PATH="$scratch/venv/bin:$PATH"
    unset PYTHONPATH PYTHONHOME

    heading "$install_line"
    bash -euo pipefail -c "$install_line"
}

# Checks that run no tests: style, types and import contracts.
static_checks() {
    heading "ruff check"
    ruff check .
    heading "ruff format --check"
    ruff format --check .
    heading "mypy"
    mypy
    heading "lint-imports"
    lint-imports
}

# Three workers for two cores: the tests that start a SuperLink or Ray mostly wait.
run_pytest() {
    heading "pytest $*"
    pytest --numprocesses 3 "$@"
}

install
static_checks
