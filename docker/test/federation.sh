# Sourced by the tests: a federation with its own name, keys, data and volumes, and functions to query it. All of it is
# removed at the end, even if the test fails. FEDRECON_IMAGE chooses the image; KEEP=1 keeps the containers.
set -euo pipefail
docker_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
project=fedrecon-test-$$
work=$(mktemp -d)
export FEDRECON_IMAGE=${FEDRECON_IMAGE:-fedrecon:0.1.0}
export FEDRECON_KEYS=$work/keys FEDRECON_SITES=$work/sites FEDRECON_CONFIG=$work/sites/federation.yaml
SECONDS=0

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
fail() { say "FAILED: $*"; exit 1; }
compose() {
  docker compose --progress quiet --ansi never --project-name "$project" --file "$docker_folder/compose.yml" "$@"
}

end() {
  [ -z "${KEEP:-}" ] || { echo "kept: project $project, files $work"; return; }
  compose --profile run down --volumes --remove-orphans >/dev/null 2>&1 || true
  # Keys and data belong to the user of the containers.
  docker run --rm --network none --user 0:0 --volume "$work:/work" "$FEDRECON_IMAGE" \
    find /work -mindepth 1 -delete && rmdir "$work"
}
trap end EXIT
trap 'exit 130' INT TERM

prepare() {
  docker image inspect "$FEDRECON_IMAGE" >/dev/null || fail "no image $FEDRECON_IMAGE; build it: see docker/README.md"
  "$docker_folder/certificates.sh" >/dev/null
  "$docker_folder/example-data.sh" >/dev/null
  say "keys and data are ready"
}

# The parameters of the same run in one process, which a federation must reach too.
expected() {
  docker run --rm --network none --volume "$FEDRECON_SITES:/sites:ro" "$FEDRECON_IMAGE" sh -c \
    'fedrecon run /sites/federation.yaml --out /tmp/run >/dev/null && cat /tmp/run/result.json' | field parameters_sha256
}

# field NAME: value of a key of the JSON object on standard input.
field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\).*/\1/p"; }

run_file() { compose exec -T superexec cat "/runs/first/$1"; }
parameters() { run_file result.json | field parameters_sha256; }
statuses() { run_file sites.jsonl | sed -n "s/.*\"round\": \([0-9]*\).*\"site\": \"$1\".*\"status\": \"\([a-z]*\)\".*/round \1 \2/p"; }

# in_round N: whether every round before it has its checkpoint.
in_round() { compose exec -T superexec test -d "/runs/first/checkpoints/round-$(printf %06d $(($1 - 1)))"; }

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || fail "$what: not in time"
    sleep 2
  done
  say "$what"
}

# submit ARGUMENTS...: `fedrecon run ARGUMENTS` on the SuperLink in the background; its output is also written to $work/output.
submit() {
  compose run --rm -T submit run "$@" --engine=deployment --superlink=federation > >(tee -a "$work/output") 2>&1 &
  submitted=$!
}

ended() { local code=0; wait "$submitted" || code=$?; say "the submitter ended with exit code $code"; return "$code"; }

# service_log SERVICE: its log, without colors.
service_log() { docker logs "$project-$1-1" 2>&1 | sed 's/\x1b\[[0-9;]*[mK]//g'; }

memory() {
  say "memory per container, $1:"
  # shellcheck disable=SC2046
  docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' $(compose ps --quiet) |
    sed "s/$project-\(.*\)-[0-9]* /       \1  /" | sort
}
